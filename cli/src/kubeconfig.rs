//! `gantry kubeconfig`: the administrator's kubeconfig, printed or merged into another file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::failure::usage;
use crate::output;

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The engine's data directory
    #[arg(long, env = "GANTRY_DATA_DIR", value_name = "DIR", default_value = "/var/lib/gantry")]
    data_dir: PathBuf,
    /// Merge into a file instead of printing [default file: ~/.kube/config]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    merge: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let source = args.data_dir.join("admin.kubeconfig");
    let text = std::fs::read_to_string(&source).with_context(|| {
        format!("read {}; has `gantry serve` run with this data directory, and are you the user who started it?", source.display())
    })?;
    let Some(merge) = &args.merge else {
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let file = if merge.is_empty() {
        let home = std::env::var_os("HOME").ok_or_else(|| usage("HOME is not set; write --merge=FILE"))?;
        Path::new(&home).join(".kube/config")
    } else {
        PathBuf::from(merge)
    };
    let ours = parse(&text, &source)?;
    let theirs = read(&file)?;
    write(&file, &output::yaml(&merged(theirs, &ours))?)?;
    let context = ours["current-context"].as_str().unwrap_or_default();
    output::print(&format!("Merged context {context} into {}; use it with: kubectl --context {context} get containers\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a kubeconfig from a file; one that is not there is an empty one.
pub(crate) fn read(file: &Path) -> Result<Value> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&text, file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(json!({"apiVersion": "v1", "kind": "Config"})),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// Reads a kubeconfig; an empty file is an empty one.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Value> {
    let value: Option<Value> = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("parse {}: {error}", path.display()))?;
    match value {
        None => Ok(json!({"apiVersion": "v1", "kind": "Config"})),
        Some(value) if value.is_object() => Ok(value),
        Some(_) => bail!("{} is not a kubeconfig", path.display()),
    }
}

/// `theirs` with the clusters, users and contexts of `ours` in it; entries of the same name are replaced. The current context is
/// set only where there was none.
fn merged(mut theirs: Value, ours: &Value) -> Value {
    for section in ["clusters", "users", "contexts"] {
        let mut entries = theirs[section].as_array().cloned().unwrap_or_default();
        for entry in ours[section].as_array().into_iter().flatten() {
            entries.retain(|other| other["name"] != entry["name"]);
            entries.push(entry.clone());
        }
        theirs[section] = Value::Array(entries);
    }
    if theirs["current-context"].as_str().unwrap_or_default().is_empty() {
        theirs["current-context"] = ours["current-context"].clone();
    }
    theirs
}

/// Replaces the file in one step; keys are inside, so nobody else may read it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let context = || format!("write {}", path.display());
    // A link stays a link: what it leads to is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".{}.new", std::process::id()));
    let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&beside, &path)).inspect_err(|_| drop(std::fs::remove_file(&beside))).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn entries_of_others_stay() {
        let theirs =
            json!({"current-context": "prod", "clusters": [{"name": "prod"}, {"name": "gantry", "cluster": {"server": "old"}}], "x": 1});
        let ours = json!({"current-context": "gantry", "clusters": [{"name": "gantry", "cluster": {"server": "new"}}], "users": [{"name": "admin"}]});
        let merged = merged(theirs, &ours);
        assert_eq!(merged["current-context"], "prod");
        assert_eq!(merged["clusters"], json!([{"name": "prod"}, {"name": "gantry", "cluster": {"server": "new"}}]));
        assert_eq!((&merged["users"], &merged["x"]), (&json!([{"name": "admin"}]), &json!(1)));
    }

    #[test]
    fn the_file_is_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config");
        write(&path, "a: 1\n").unwrap();
        write(&path, "a: 2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a: 2\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
