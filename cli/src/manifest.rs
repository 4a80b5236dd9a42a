//! Objects from files: YAML with several documents, JSON, folders, standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use gantry_api::registry::{KindInfo, find_kind};
use serde_json::{Value, json};

use crate::failure::usage;
use crate::fetch;
use crate::session::Session;

/// The largest file that is read, in bytes.
const FILE_LIMIT: u64 = 64 << 20;
/// Objects in all files together.
const OBJECT_LIMIT: usize = 10_000;
/// Levels of nesting in a document, as many as the server reads, and the stack that the parser needs for them.
const NESTING_LIMIT: usize = 127;
const STACK_BYTES: usize = 8 << 20;
/// How deep folders are descended into with `--recursive`.
const DEPTH_LIMIT: usize = 32;

/// Which files to read.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct FileArgs {
    /// File, folder or URL, or `-` for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub(crate) files: Vec<String>,
    /// Descend into folders
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Not supported: kustomizations are built by `kubectl kustomize`
    #[arg(short = 'k', long, value_name = "DIR", hide = true)]
    pub(crate) kustomize: Option<String>,
}

impl FileArgs {
    /// Whether files are named.
    pub(crate) fn are_given(&self) -> bool {
        !self.files.is_empty() || self.kustomize.is_some()
    }
}

/// An object and its kind, when this program knows it.
pub(crate) struct Manifest {
    pub(crate) object: Value,
    pub(crate) kind: Option<&'static KindInfo>,
}

impl Manifest {
    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
    /// The object's namespace.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }
}

/// Reads all objects, in the order of the command line, folders in the order of their file names. Namespaced objects without a
/// namespace get `namespace`.
pub(crate) async fn read(args: &FileArgs, namespace: &str) -> Result<Vec<Manifest>> {
    if let Some(folder) = &args.kustomize {
        return Err(usage(format!("kustomizations are not built here; write `kubectl kustomize {folder} | gantry apply -f -`")));
    }
    if args.files.is_empty() {
        return Err(usage("name files, folders or URLs with --filename, or `-` for standard input"));
    }
    let mut manifests = Vec::new();
    for file in &args.files {
        if file == "-" {
            let text = read_bounded(std::io::stdin().lock()).context("read standard input")?;
            parse(&text, "standard input", namespace, &mut manifests)?;
            continue;
        }
        if fetch::is_url(file) {
            parse(&fetch::text(file, FILE_LIMIT).await?, file, namespace, &mut manifests)?;
            continue;
        }
        let mut paths = Vec::new();
        collect(Path::new(file), args.recursive, 0, &mut paths)?;
        if paths.is_empty() {
            bail!("{file} holds no file that ends in .yaml, .yml or .json; name the file, or add --recursive");
        }
        read_paths(&paths, namespace, &mut manifests)?;
    }
    if manifests.is_empty() {
        bail!("no object found in {}", args.files.join(", "));
    }
    Ok(manifests)
}

/// Reads all objects for a server: as [`read`] does, with the namespaces of kinds that only that server knows.
pub(crate) async fn read_for(session: &Session, args: &FileArgs) -> Result<Vec<Manifest>> {
    let mut manifests = read(args, &session.namespace).await?;
    for manifest in manifests.iter_mut().filter(|manifest| manifest.kind.is_none() && manifest.namespace().is_none()) {
        let text = |field: &str| manifest.object[field].as_str().unwrap_or_default();
        // A kind that the server does not know yet may be defined in these very files.
        if session.kinds.of(text("apiVersion"), text("kind")).await?.is_some_and(|kind| kind.namespaced) {
            manifest.object["metadata"]["namespace"] = json!(session.namespace);
        }
    }
    Ok(manifests)
}

/// Reads all objects of a folder and those below it, in the order of names; a folder without any is no mistake.
pub(crate) fn read_folder(folder: &Path, namespace: &str) -> Result<Vec<Manifest>> {
    let (mut paths, mut manifests) = (Vec::new(), Vec::new());
    collect(folder, true, 0, &mut paths)?;
    read_paths(&paths, namespace, &mut manifests)?;
    Ok(manifests)
}

fn read_paths(paths: &[PathBuf], namespace: &str, manifests: &mut Vec<Manifest>) -> Result<()> {
    for path in paths {
        let text = std::fs::File::open(path).and_then(read_bounded).with_context(|| format!("read {}", path.display()))?;
        parse(&text, &path.display().to_string(), namespace, manifests)?;
    }
    Ok(())
}

fn collect(path: &Path, recursive: bool, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("read {}", path.display());
    if !std::fs::metadata(path).with_context(context)?.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    if depth > DEPTH_LIMIT {
        bail!("{} lies deeper than {DEPTH_LIMIT} folders", path.display());
    }
    let mut entries = std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).with_context(context)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let manifest = path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known));
        if path.is_dir() {
            if recursive {
                collect(&path, true, depth + 1, found)?;
            }
        } else if manifest {
            found.push(path);
        }
    }
    Ok(())
}

fn read_bounded(reader: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    reader.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(std::io::Error::other(format!("longer than {} MiB", FILE_LIMIT >> 20)));
    }
    Ok(text)
}

/// Parses the documents of one file. JSON is YAML.
fn parse(text: &str, origin: &str, namespace: &str, manifests: &mut Vec<Manifest>) -> Result<()> {
    let documents = documents(text).with_context(|| origin.to_owned())?.map_err(|error| {
        // Only the first line says what and where; the excerpt after it helps on a terminal and stays.
        anyhow::anyhow!("{origin}: {}", error.to_string().trim_end())
    })?;
    for (index, document) in documents.into_iter().enumerate() {
        match document {
            Value::Null => {}
            Value::Object(mut list)
                if list.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List")) && list.contains_key("items") =>
            {
                let Some(Value::Array(items)) = list.remove("items") else {
                    bail!("{origin}: document {}: items is not a list", index + 1)
                };
                items.into_iter().try_for_each(|item| add(item, origin, index, namespace, manifests))?;
            }
            object => add(object, origin, index, namespace, manifests)?,
        }
    }
    Ok(())
}

/// On a thread of its own: the parser recurses, with frames so large that a document within the budget overflows the stack of a runtime's
/// thread, which would end the engine that follows a folder.
fn documents(text: &str) -> Result<Result<Vec<Value>, serde_saphyr::Error>> {
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().name("yaml".to_owned()).stack_size(STACK_BYTES);
        let parsing = parser.spawn_scoped(scope, || serde_saphyr::from_multiple_with_options(text, yaml_options()));
        parsing.context("start a thread to read YAML")?.join().map_err(|_panicked| anyhow::anyhow!("cannot be read as YAML"))
    })
}

fn add(mut object: Value, origin: &str, index: usize, namespace: &str, manifests: &mut Vec<Manifest>) -> Result<()> {
    let place = format!("{origin}: document {}", index + 1);
    let text = |field: &str| object[field].as_str().map(str::to_owned);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        bail!("{place}: apiVersion and kind must be there, as in `apiVersion: gantry.dev/v1` and `kind: Container`");
    };
    if !object["metadata"].is_object() {
        bail!("{place}: {kind} has no metadata; give it at least metadata.name");
    }
    let kind = find_kind(&api_version, &kind);
    if kind.is_some_and(|kind| kind.namespaced) && object["metadata"]["namespace"].as_str().unwrap_or_default().is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if manifests.len() >= OBJECT_LIMIT {
        bail!("more than {OBJECT_LIMIT} objects; apply them in parts");
    }
    manifests.push(Manifest { object, kind });
    Ok(())
}

/// YAML as Kubernetes means it: `yes` and `on` are words, `0644` is octal; what a file may cost is bounded.
pub(crate) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! {
            max_depth: NESTING_LIMIT,
            max_events: 4_000_000,
            max_nodes: 1_000_000,
            max_documents: OBJECT_LIMIT,
            max_total_scalar_bytes: FILE_LIMIT as usize,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        parse(text, "x.yaml", "team", &mut manifests)?;
        Ok(manifests)
    }

    #[test]
    fn deep_documents_are_read_or_refused_on_a_small_stack() {
        let nested = |depth: usize| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {}1{}", "{a: ".repeat(depth), "}".repeat(depth))
        };
        let judge = move || {
            for (depth, reads) in [(100, true), (126, true), (127, false), (5_000, false)] {
                assert_eq!(parsed(&nested(depth)).is_ok(), reads, "{depth}");
            }
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(judge).unwrap().join().unwrap();
    }

    #[test]
    fn documents_lists_and_json_are_objects() {
        let text = "# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {mode: 0644, on: yes}\n---\n{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"n\"}}]}\n";
        let found = parsed(text).unwrap();
        assert_eq!(found.iter().map(Manifest::name).collect::<Vec<_>>(), ["a", "n"]);
        assert_eq!(found[0].object["data"], json!({"mode": 420, "on": "yes"}));
        assert_eq!((found[0].namespace(), found[1].namespace()), (Some("team"), None));
    }

    #[test]
    fn mistakes_name_file_and_document() {
        for (text, words) in [
            ("a: [1", "x.yaml"),
            ("a: 1\na: 2", "x.yaml"),
            ("apiVersion: v1\nkind: Secret", "document 1: Secret has no metadata"),
            ("- 1", "document 1: apiVersion and kind"),
        ] {
            let error = parsed(text).err().unwrap_or_else(|| panic!("{text} was taken")).to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn folders_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (name, object) in [("b.yml", "b"), ("a.yaml", "a"), ("c.txt", "c")] {
            std::fs::write(folder.path().join(name), format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {object}}}}}")).unwrap();
        }
        let args = |file: &Path| FileArgs { files: vec![file.display().to_string()], ..FileArgs::default() };
        let found = read(&args(folder.path()), "n").await.unwrap();
        assert_eq!(found.iter().map(Manifest::name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(read(&args(&folder.path().join("absent")), "n").await.is_err());
    }

    #[tokio::test]
    async fn kustomizations_and_nothing_are_usage_errors() {
        for args in [FileArgs::default(), FileArgs { kustomize: Some("overlay".into()), ..FileArgs::default() }] {
            assert!(read(&args, "n").await.err().is_some_and(|error| error.is::<crate::failure::Usage>()));
        }
    }
}
