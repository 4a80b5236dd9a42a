//! Which objects a command is about: kinds and names, selectors, files.

use anyhow::Result;
use gantry_client::ListParams;

use crate::failure::usage;
use crate::manifest::{self, FileArgs};
use crate::resources::{self, Target};
use crate::session::Session;

/// The objects that a command line names.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// KIND[,KIND…] [NAME…], KIND/NAME…, or `all`
    #[arg(value_name = "WHAT")]
    pub(crate) what: Vec<String>,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Label selector, such as app=web,tier!=db
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Field selector, such as status.phase=Running
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
}

impl Selection {
    /// The namespace to look in, `None` for all.
    pub(crate) fn namespace<'a>(&self, session: &'a Session) -> Option<&'a str> {
        (!self.all_namespaces).then_some(session.namespace.as_str())
    }

    /// What the selectors say, for a list.
    pub(crate) fn list_params(&self) -> ListParams {
        ListParams { labels: self.selector.clone(), fields: self.field_selector.clone(), ..ListParams::default() }
    }

    /// The targets, in the order of the command line; names go with neither selectors nor all namespaces.
    pub(crate) async fn targets(&self, session: &Session) -> Result<Vec<Target>> {
        let targets = if !self.files.are_given() {
            resources::parse(&session.kinds, &self.what).await?
        } else if self.what.is_empty() {
            self.declared(session).await?
        } else {
            return Err(usage("name objects or files, not both"));
        };
        let named = targets.iter().any(|target| !target.names.is_empty());
        if named && (self.selector.is_some() || self.field_selector.is_some() || self.all_namespaces) {
            return Err(usage("give names or a selector or --all-namespaces, not both"));
        }
        Ok(targets)
    }

    /// The objects of the files.
    async fn declared(&self, session: &Session) -> Result<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::new();
        for manifest in manifest::read(&self.files, &session.namespace).await? {
            let text = |field: &str| manifest.object[field].as_str().unwrap_or_default();
            let Some(kind) = session.kinds.of(text("apiVersion"), text("kind")).await? else {
                return Err(usage(format!("there is no kind {:?} in {}", text("kind"), text("apiVersion"))));
            };
            if manifest.name().is_empty() {
                return Err(usage(format!("a {} in the files has no name", kind.kind)));
            }
            let namespace = manifest.namespace().filter(|_| kind.namespaced).map(str::to_owned);
            let name = manifest.name().to_owned();
            match targets.last_mut().filter(|last| last.kind == kind && last.namespace == namespace) {
                Some(last) => last.names.push(name),
                None => targets.push(Target { kind, names: vec![name], namespace }),
            }
        }
        Ok(targets)
    }
}
