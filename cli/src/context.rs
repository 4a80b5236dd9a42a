//! `gantry context`: the engines that this user knows by name.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_client::config::{Config, DEFAULT_SOCKET, own_file};
use serde_json::{Value, json};

use crate::failure::usage;
use crate::kubeconfig;
use crate::output::{self, table::Table, table::clean};
use crate::session::Global;

/// The name of no context: the engine of this machine.
const DEFAULT: &str = "default";

/// What the command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show all contexts
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print the name of the current context
    Show,
    /// Make a context the current one; `default` is the engine of this machine
    Use {
        /// The context
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Add the engine that --host, or --kubeconfig and --context, name; with --namespace, for that namespace
    Add {
        /// Name of the new context
        #[arg(value_name = "NAME")]
        name: String,
        /// Replace a context of that name
        #[arg(long)]
        replace: bool,
    },
    /// Remove contexts, with their keys
    Rm {
        /// The contexts
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    let file = file()?;
    let mut known = kubeconfig::read(&file)?;
    let said = match &args.command {
        Command::Ls { quiet } => {
            output::print(&list(&known, *quiet))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Show => {
            output::print(&format!("{}\n", current(&known)))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Use { name } => {
            choose(&mut known, name)?;
            format!("Current context is {name}")
        }
        Command::Add { name, replace } => {
            add(&mut known, name, *replace, global)?;
            format!("Context {name} added; use it with --context {name}, or always with `gantry context use {name}`")
        }
        Command::Rm { names } => {
            names.iter().try_for_each(|name| remove(&mut known, name))?;
            format!("Context {} removed", names.join(", "))
        }
    };
    kubeconfig::write(&file, &output::yaml(&known)?)?;
    output::print(&format!("{said}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Names of all contexts, for the shell's completion.
pub(crate) fn names() -> Vec<String> {
    let known = file().and_then(|file| kubeconfig::read(&file)).unwrap_or_default();
    entries(&known, "contexts").iter().map(|entry| text(&entry["name"]).to_owned()).collect()
}

fn file() -> Result<PathBuf> {
    own_file(|name| std::env::var(name).ok()).ok_or_else(|| usage("neither HOME nor XDG_CONFIG_HOME nor GANTRY_KUBECONFIG is set"))
}

fn entries<'a>(known: &'a Value, section: &str) -> &'a [Value] {
    known[section].as_array().map_or(&[][..], Vec::as_slice)
}

fn find<'a>(known: &'a Value, section: &str, name: &str) -> Option<&'a Value> {
    entries(known, section).iter().find(|entry| entry["name"] == name)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn current(known: &Value) -> &str {
    Some(text(&known["current-context"])).filter(|name| !name.is_empty()).unwrap_or(DEFAULT)
}

fn list(known: &Value, quiet: bool) -> String {
    let mut rows = vec![(DEFAULT.to_owned(), format!("unix://{DEFAULT_SOCKET}"), String::new())];
    if find(known, "contexts", DEFAULT).is_some() {
        rows.clear();
    }
    for entry in entries(known, "contexts") {
        let context = &entry["context"];
        let server = find(known, "clusters", text(&context["cluster"])).map_or("", |cluster| text(&cluster["cluster"]["server"]));
        rows.push((clean(text(&entry["name"])), clean(server), clean(text(&context["namespace"]))));
    }
    if quiet {
        return rows.into_iter().map(|(name, ..)| name + "\n").collect();
    }
    let mut table = Table::new(&["CURRENT", "NAME", "SERVER", "NAMESPACE"]);
    for (name, server, namespace) in rows {
        let mark = if name == current(known) { "*" } else { "" };
        table.row(vec![mark.to_owned(), name, server, namespace]);
    }
    table.flush(true)
}

fn choose(known: &mut Value, name: &str) -> Result<()> {
    if find(known, "contexts", name).is_none() && name != DEFAULT {
        return Err(unknown(known, name));
    }
    let name = if find(known, "contexts", name).is_some() { name } else { "" };
    known["current-context"] = json!(name);
    Ok(())
}

fn unknown(known: &Value, name: &str) -> anyhow::Error {
    let all: Vec<&str> = entries(known, "contexts").iter().map(|entry| text(&entry["name"])).collect();
    let all = if all.is_empty() {
        "there are none; add one with `gantry context add`".to_owned()
    } else {
        format!("there are: {}", all.join(", "))
    };
    anyhow::anyhow!("there is no context {name:?}; {all}")
}

fn add(known: &mut Value, name: &str, replace: bool, global: &Global) -> Result<()> {
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(usage(format!("{name:?} is no name for a context; use letters, digits and dashes")));
    }
    if find(known, "contexts", name).is_some() {
        if !replace {
            bail!("there is a context {name:?} already; replace it with --replace");
        }
        remove(known, name)?;
    }
    let (cluster, user, namespace) = match (&global.host, &global.kubeconfig) {
        (Some(host), None) => {
            Config::from_host(host)?;
            let path = host.strip_prefix("unix://").unwrap_or(host);
            (json!({"server": format!("unix://{path}")}), None, None)
        }
        (None, Some(source)) => taken(source, global.context.as_deref())?,
        _ => {
            return Err(usage(
                "name the engine: its socket with --host, or a file with --kubeconfig (and --context, if not its current one)",
            ));
        }
    };
    let mut context = json!({"cluster": name, "user": if user.is_some() { name } else { "" }});
    if let Some(namespace) = global.namespace.as_deref().map(str::to_owned).or(namespace) {
        context["namespace"] = json!(namespace);
    }
    push(known, "clusters", json!({"name": name, "cluster": cluster}));
    if let Some(user) = user {
        push(known, "users", json!({"name": name, "user": user}));
    }
    push(known, "contexts", json!({"name": name, "context": context}));
    Ok(())
}

fn push(known: &mut Value, section: &str, entry: Value) {
    if let Some(entries) = known[section].as_array_mut() {
        entries.push(entry);
    } else {
        known[section] = json!([entry]);
    }
}

/// Cluster, user and namespace of another file's context; keys in files of their own are taken in.
fn taken(source: &Path, context: Option<&str>) -> Result<(Value, Option<Value>, Option<String>)> {
    // Says what is wrong with it, if something is.
    Config::from_file(source, context)?;
    let file = kubeconfig::read(source)?;
    let name = context.unwrap_or(text(&file["current-context"]));
    let context = find(&file, "contexts", name).map_or(Value::Null, |entry| entry["context"].clone());
    let folder = source.parent().unwrap_or(Path::new("."));
    let mut cluster = find(&file, "clusters", text(&context["cluster"])).map_or(Value::Null, |entry| entry["cluster"].clone());
    embed(&mut cluster, "certificate-authority", folder)?;
    let mut user = find(&file, "users", text(&context["user"])).map(|entry| entry["user"].clone()).filter(Value::is_object);
    if let Some(user) = &mut user {
        embed(user, "client-certificate", folder)?;
        embed(user, "client-key", folder)?;
    }
    Ok((cluster, user, context["namespace"].as_str().map(str::to_owned)))
}

fn embed(entry: &mut Value, field: &str, folder: &Path) -> Result<()> {
    let data = format!("{field}-data");
    let Some(fields) = entry.as_object_mut().filter(|fields| !fields.contains_key(&data)) else { return Ok(()) };
    if let Some(Value::String(path)) = fields.remove(field) {
        let path = folder.join(path);
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        fields.insert(data, json!(STANDARD.encode(bytes)));
    }
    Ok(())
}

/// Takes a context away, and its cluster and user if no other context has them.
fn remove(known: &mut Value, name: &str) -> Result<()> {
    let Some(context) = find(known, "contexts", name).map(|entry| entry["context"].clone()) else { return Err(unknown(known, name)) };
    take(known, "contexts", name);
    for (field, section) in [("cluster", "clusters"), ("user", "users")] {
        let of = text(&context[field]).to_owned();
        if !entries(known, "contexts").iter().any(|entry| entry["context"][field] == context[field]) {
            take(known, section, &of);
        }
    }
    if known["current-context"] == name {
        known["current-context"] = json!("");
    }
    Ok(())
}

fn take(known: &mut Value, section: &str, name: &str) {
    if let Some(entries) = known[section].as_array_mut() {
        entries.retain(|entry| entry["name"] != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(host: Option<&str>, kubeconfig: Option<&Path>) -> Global {
        Global {
            host: host.map(str::to_owned),
            kubeconfig: kubeconfig.map(Path::to_owned),
            namespace: Some("team".into()),
            ..Global::default()
        }
    }

    #[test]
    fn contexts_are_added_chosen_listed_and_removed() {
        let mut known = json!({});
        add(&mut known, "lab", false, &global(Some("/run/lab.sock"), None)).unwrap();
        assert!(add(&mut known, "lab", false, &global(Some("/x"), None)).is_err(), "it is there");
        add(&mut known, "lab", true, &global(Some("unix:///run/lab2.sock"), None)).unwrap();
        choose(&mut known, "lab").unwrap();
        let expected = "CURRENT   NAME      SERVER                           NAMESPACE\n          default   unix:///run/gantry/gantry.sock\n*         lab       unix:///run/lab2.sock            team\n";
        assert_eq!(list(&known, false), expected);
        assert_eq!(list(&known, true), "default\nlab\n");
        assert!(choose(&mut known, "nobody").unwrap_err().to_string().contains("there are: lab"));
        remove(&mut known, "lab").unwrap();
        assert_eq!((current(&known), entries(&known, "clusters").len()), (DEFAULT, 0));
        assert!(remove(&mut known, "lab").is_err());
        choose(&mut known, DEFAULT).unwrap();
    }

    #[test]
    fn keys_of_another_file_are_taken_in() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("config");
        std::fs::write(folder.path().join("cert.pem"), "cert").unwrap();
        let text = "{current-context: one, contexts: [{name: one, context: {cluster: c, user: u}}], \
            clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: Y2E=}}], \
            users: [{name: u, user: {client-certificate: cert.pem, client-key-data: a2V5}}]}";
        std::fs::write(&source, text).unwrap();
        let mut known = json!({});
        add(&mut known, "far", false, &global(None, Some(&source))).unwrap();
        assert_eq!(known["users"][0], json!({"name": "far", "user": {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5"}}));
        assert_eq!(known["contexts"][0]["context"], json!({"cluster": "far", "user": "far", "namespace": "team"}));
    }

    #[test]
    fn an_engine_must_be_named() {
        for wrong in [global(None, None), global(Some("tcp://x"), None)] {
            assert!(add(&mut json!({}), "x", false, &wrong).is_err());
        }
        assert!(add(&mut json!({}), "a b", false, &global(Some("/x"), None)).is_err());
    }
}
