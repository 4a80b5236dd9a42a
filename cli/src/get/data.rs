//! Objects as data.

use anyhow::Result;
use futures_util::{StreamExt as _, stream::select_all};
use serde_json::{Value, json};

use super::Get;
use super::follow::{Form, follow};
use crate::output::{self, Printer};
use crate::resources::Target;

impl Get {
    /// Prints all objects, as a list unless one was named. Whether something that was named is absent.
    pub(super) async fn data(&self, targets: &[Target]) -> Result<bool> {
        let mut objects = Vec::new();
        let mut versions = Vec::new();
        let mut absent = false;
        for target in targets {
            let (version, missing) = self.fetch(target, &mut objects).await?;
            versions.push(version);
            absent |= missing;
        }
        if let Some(order) = &self.args.sort_by {
            order.sort(&mut objects, |object| object)?;
        }
        let mut printer = Printer::new(&self.args.output, !self.args.no_headers);
        if !self.args.show_managed_fields {
            printer = printer.without_managed_fields();
        }
        if self.is_watch() && !absent {
            let present = objects.iter().filter(|_| !self.args.watch_only);
            for object in present {
                output::print(&printer.text(&self.event("ADDED", object))?)?;
            }
            self.follow_data(targets, versions, &mut printer).await?;
            return Ok(false);
        }
        let single = matches!(targets, [target] if target.names.len() == 1);
        if objects.len() == 1 && single {
            output::print(&printer.text(&objects[0])?)?;
        } else if !single && (!absent || !objects.is_empty()) {
            output::print(&printer.text(&output::list(objects))?)?;
        }
        Ok(absent)
    }

    /// Takes in all objects; the version to watch from, and whether one is absent.
    async fn fetch(&self, target: &Target, objects: &mut Vec<Value>) -> Result<(String, bool)> {
        let api = self.api(target);
        let mut version = "0".to_owned();
        let mut absent = false;
        for name in &target.names {
            match api.get(name).await {
                Ok(object) => {
                    version = object["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
                    objects.push(object);
                }
                Err(error) => absent |= self.is_error(error)?,
            }
        }
        let mut params = self.page();
        while target.names.is_empty() {
            let page = api.list(&params).await?;
            objects.extend(page.items);
            version = page.resource_version;
            params.continue_token = page.continue_token;
            if params.continue_token.is_none() {
                break;
            }
        }
        Ok((version, absent))
    }

    /// The object, or what happened to it when that is asked for.
    fn event(&self, what: &str, object: &Value) -> Value {
        if self.args.output_watch_events { json!({"type": what, "object": object}) } else { object.clone() }
    }

    async fn follow_data(&self, targets: &[Target], versions: Vec<String>, printer: &mut Printer<'_>) -> Result<()> {
        let mut streams = Vec::new();
        for (target, version) in targets.iter().zip(versions) {
            streams.push(follow(self.api(target), self.watch_params(target, Some(version))?, Form::Objects));
        }
        let mut events = select_all(streams);
        while let Some(event) = events.next().await {
            let (what, object) = event?;
            output::print(&printer.text(&self.event(what, &object))?)?;
        }
        Ok(())
    }
}
