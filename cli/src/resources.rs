//! What a command line names: `ctr web db`, `ctr,img`, `container/web volume/data`, `all`.

use std::sync::Arc;

use anyhow::Result;
use gantry_client::{Client, DynamicApi};

use crate::failure::usage;
use crate::kinds::{Kind, Kinds};

/// Objects of one kind: those named, or all when none is.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) kind: Arc<Kind>,
    pub(crate) names: Vec<String>,
    /// Set where a file says it; else the command's.
    pub(crate) namespace: Option<String>,
}

impl Target {
    /// Access in `namespace`, or in all; where a file named the object, in the file's.
    pub(crate) fn api(&self, client: &Client, namespace: Option<&str>) -> DynamicApi {
        DynamicApi::new(client, self.kind.resource(), self.namespace.as_deref().or(namespace))
    }
}

/// `container.gantry.dev/web`, as one names an object to people and scripts.
pub(crate) fn qualified_name(kind: &Kind, name: &str) -> String {
    let dot = if kind.group.is_empty() { "" } else { "." };
    let singular = kind.kind.to_ascii_lowercase();
    format!("{singular}{dot}{}/{name}", kind.group)
}

/// Reads `TYPE[,TYPE…] [NAME…]` or `TYPE/NAME…`.
pub(crate) async fn parse(kinds: &Kinds, words: &[String]) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    let named = split(words)?;
    let several = named.len() > 1;
    for (word, names) in named {
        let category = match word {
            // Known to be one without asking.
            "all" => kinds.in_category(word).await?,
            word => match kinds.named(word).await {
                Ok(kind) => {
                    // Neighbours of one kind become one target; the order of the command line is kept.
                    match targets.last_mut().filter(|last| last.kind == kind && !names.is_empty()) {
                        Some(last) => last.names.extend(names),
                        None => targets.push(Target { kind, names, namespace: None }),
                    }
                    continue;
                }
                Err(error) => {
                    let category = kinds.in_category(word).await?;
                    if category.is_empty() {
                        return Err(error);
                    }
                    category
                }
            },
        };
        if !names.is_empty() {
            return Err(usage(format!("{word:?} is a category of kinds: name objects by their kind, as in `container/web`")));
        }
        targets.extend(category.into_iter().map(|kind| Target { kind, names: Vec::new(), namespace: None }));
    }
    if several && !words.iter().any(|word| word.contains('/')) && words.len() > 1 {
        return Err(usage("names go with one kind; for objects of several kinds write `container/web volume/data`"));
    }
    Ok(targets)
}

/// The one object that a word names, as `KIND/NAME`, or two words, as `KIND NAME`.
pub(crate) async fn one(kinds: &Kinds, words: &[String]) -> Result<(Arc<Kind>, String)> {
    match parse(kinds, words).await?.as_slice() {
        [target] if target.names.len() == 1 => Ok((target.kind.clone(), target.names[0].clone())),
        _ => Err(usage("write the object as KIND/NAME, as in container/web")),
    }
}

/// Words for kinds, and the names that go with each.
fn split(words: &[String]) -> Result<Vec<(&str, Vec<String>)>> {
    let Some(first) = words.first() else {
        return Err(usage("name what: a kind such as `containers`, several as `ctr,img`, an object as `container/web`, or `all`"));
    };
    if words.iter().any(|word| word.contains('/')) {
        let pair = |word: &'_ String| {
            let parts = word.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty() && !name.contains('/'));
            parts.is_some().then_some(()).ok_or_else(|| usage(format!("{word:?} is not of the form KIND/NAME, as the other arguments are")))
        };
        words.iter().try_for_each(pair)?;
        return Ok(words.iter().filter_map(|word| word.split_once('/')).map(|(kind, name)| (kind, vec![name.to_owned()])).collect());
    }
    let kinds: Vec<&str> = first.split(',').filter(|word| !word.is_empty()).collect();
    if kinds.is_empty() {
        return Err(usage(format!("{first:?} names no kind")));
    }
    Ok(kinds.into_iter().map(|kind| (kind, words[1..].to_vec())).collect())
}

/// The name in `web`, `ctr/web` or `container/web`, for commands that are about containers only. A Pod is a container's view.
pub(crate) fn container_name(word: &str) -> Result<&str> {
    match word.split_once('/') {
        None => Ok(word),
        Some((kind, name)) => {
            let kind = kind.to_ascii_lowercase();
            let kind = kind.strip_suffix(".gantry.dev").unwrap_or(&kind);
            if !matches!(kind, "container" | "containers" | "ctr" | "pod" | "pods" | "po") || name.is_empty() {
                return Err(usage(format!("{word:?} is not a container")));
            }
            Ok(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc as Shared;

    use gantry_client::Client;
    use gantry_client::{Body, ClientError, Transport};
    use http::{Request, Response};

    use super::*;

    /// A server that is not there.
    struct Nobody;

    impl Transport for Nobody {
        fn send(&self, request: Request<Body>) -> futures_util::future::BoxFuture<'_, Result<Response<Body>, ClientError>> {
            let text = if request.uri().path() == "/apis" { WIDGETS } else { "{}" };
            Box::pin(async move { Ok(Response::new(gantry_client::body::full(text))) })
        }
    }

    const WIDGETS: &str = r#"{"items": [{"metadata": {"name": "example.com"}, "versions": [{"version": "v1", "resources": [
        {"resource": "widgets", "responseKind": {"kind": "Widget"}, "scope": "Namespaced", "singularResource": "widget",
         "categories": ["all", "toys"], "verbs": ["get", "list"]}]}]},
        {"metadata": {"name": "gantry.dev"}, "versions": [{"version": "v1", "resources": [
        {"resource": "containers", "responseKind": {"kind": "Container"}, "scope": "Namespaced", "singularResource": "container",
         "categories": ["all"], "verbs": ["list"]}]}]}]}"#;

    async fn parsed(text: &str) -> Result<Vec<Target>> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        parse(&Kinds::new(Client::new(Shared::new(Nobody), "test")), &words).await
    }

    async fn plurals(text: &str) -> Vec<(String, usize)> {
        parsed(text).await.unwrap().iter().map(|t| (t.kind.plural.clone(), t.names.len())).collect()
    }

    fn pairs(expected: &[(&str, usize)]) -> Vec<(String, usize)> {
        expected.iter().map(|(plural, count)| ((*plural).to_owned(), *count)).collect()
    }

    #[tokio::test]
    async fn kinds_and_names_are_read() {
        for (text, expected) in [
            ("ctr web db", &[("containers", 2)][..]),
            ("Images,vol", &[("images", 0), ("volumes", 0)]),
            ("container/web ctr/db volume/data", &[("containers", 2), ("volumes", 1)]),
            ("all", &[("widgets", 0), ("containers", 0)]),
            ("toys", &[("widgets", 0)]),
            ("widgets.example.com a", &[("widgets", 1)]),
            ("ctr,all", &[("containers", 0), ("widgets", 0), ("containers", 0)]),
        ] {
            assert_eq!(plurals(text).await, pairs(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn nonsense_is_a_usage_error() {
        for wrong in ["nothing", "ctr,img web", "ctr/web img", "ctr/", "/web", ",", "toys a", "all a", "ctr/a/b"] {
            let error = parsed(wrong).await.err().unwrap_or_else(|| panic!("{wrong} was taken"));
            assert!(error.is::<crate::failure::Usage>(), "{wrong}");
        }
        assert!(container_name("img/x").is_err() && container_name("ctr/").is_err());
        assert_eq!((container_name("ctr/x").unwrap(), container_name("pod/x").unwrap(), container_name("x").unwrap()), ("x", "x", "x"));
    }
}
