//! Kinds as the command line knows them: those built in, and whatever else the server's discovery tells of.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use gantry_api::registry::{KindInfo, kinds};
use gantry_client::{Client, Resource, body};
use http::{Request, header};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::failure::usage;

/// `Accept` of aggregated discovery.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The longest discovery document that is read, in bytes.
const DISCOVERY_LIMIT: usize = 32 << 20;

/// A kind: what its objects and URLs are called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kind {
    /// API group; empty for core.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// CamelCase name.
    pub(crate) kind: String,
    /// Lower-case plural.
    pub(crate) plural: String,
    /// Lower-case singular.
    pub(crate) singular: String,
    /// Short names.
    pub(crate) short_names: Vec<String>,
    /// Categories, such as `all`.
    pub(crate) categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub(crate) namespaced: bool,
    /// What can be done with the objects; not told of built-in kinds.
    pub(crate) verbs: Vec<String>,
}

impl Kind {
    /// `group/version`, or `version` for core.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `plural.group`, or `plural` for core.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Where the objects are.
    pub(crate) fn resource(&self) -> Resource {
        Resource { group: self.group.clone(), version: self.version.clone(), plural: self.plural.clone(), namespaced: self.namespaced }
    }

    /// Whether a person means this kind by `word`, which is in lower case.
    pub(crate) fn answers_to(&self, word: &str) -> bool {
        let Self { group, version, plural, singular, .. } = self;
        word == plural
            || word == singular
            || word == self.kind.to_ascii_lowercase()
            || self.short_names.iter().any(|short| word == short)
            || word.strip_prefix(plural.as_str()).or_else(|| word.strip_prefix(singular.as_str())).is_some_and(|rest| {
                rest.strip_prefix('.')
                    .is_some_and(|rest| rest == group || rest.strip_prefix(version.as_str()) == Some(&format!(".{group}")))
            })
    }
}

impl From<&KindInfo> for Kind {
    fn from(info: &KindInfo) -> Self {
        Self {
            group: info.group.to_string(),
            version: info.version.to_string(),
            kind: info.kind.to_string(),
            plural: info.plural.to_string(),
            singular: info.singular.to_string(),
            short_names: info.short_names.iter().map(ToString::to_string).collect(),
            categories: info.categories.iter().map(ToString::to_string).collect(),
            namespaced: info.namespaced,
            verbs: Vec::new(),
        }
    }
}

/// The kinds of one server. Those built in are known without asking.
pub(crate) struct Kinds {
    client: Client,
    built_in: Vec<Arc<Kind>>,
    discovered: OnceCell<Vec<Arc<Kind>>>,
}

impl Kinds {
    /// The kinds of the server that `client` reaches; nothing is asked yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, built_in: kinds().iter().map(|info| Arc::new(Kind::from(info))).collect(), discovered: OnceCell::new() }
    }

    /// The kinds that are known without asking.
    pub(crate) fn built_in(&self) -> &[Arc<Kind>] {
        &self.built_in
    }

    /// The kind called `word`; the server is asked about words that are not built in.
    pub(crate) async fn named(&self, word: &str) -> Result<Arc<Kind>> {
        match self.find(word, Kind::answers_to).await? {
            Some(kind) => Ok(kind),
            None => Err(usage(format!("there is no kind {word:?}; there are: {}", listing(self.all().await?)))),
        }
    }

    /// The kind of an object.
    pub(crate) async fn of(&self, api_version: &str, kind: &str) -> Result<Option<Arc<Kind>>> {
        self.find(kind, |known, word| known.kind.to_ascii_lowercase() == word && known.api_version() == api_version).await
    }

    /// The kinds of a category, none when there is no such category.
    pub(crate) async fn in_category(&self, word: &str) -> Result<Vec<Arc<Kind>>> {
        let listable = |kind: &&Arc<Kind>| kind.verbs.iter().any(|verb| verb == "list");
        let found = self.all().await?.iter().filter(|kind| kind.categories.iter().any(|category| category == word)).filter(listable);
        Ok(found.cloned().collect())
    }

    /// All kinds that the server tells of.
    pub(crate) async fn all(&self) -> Result<&[Arc<Kind>]> {
        Ok(self.discovered.get_or_try_init(|| discover(&self.client)).await?)
    }

    async fn find(&self, word: &str, test: impl Fn(&Kind, &str) -> bool) -> Result<Option<Arc<Kind>>> {
        let word = word.to_ascii_lowercase();
        let pick = |kinds: &[Arc<Kind>]| kinds.iter().find(|kind| test(kind, &word)).cloned();
        match pick(&self.built_in) {
            Some(kind) => Ok(Some(kind)),
            None => Ok(pick(self.all().await?)),
        }
    }
}

/// Kinds as a person would type them: `containers (ctr), images (img)`.
fn listing(kinds: &[Arc<Kind>]) -> String {
    let typed = |kind: &Arc<Kind>| kind.short_names.first().map_or(kind.plural.clone(), |short| format!("{} ({short})", kind.plural));
    let mut known: Vec<String> = kinds.iter().filter(|kind| kind.verbs.iter().any(|verb| verb == "list")).map(typed).collect();
    known.sort();
    known.join(", ")
}

async fn discover(client: &Client) -> Result<Vec<Arc<Kind>>> {
    let mut found = Vec::new();
    for path in ["/api", "/apis"] {
        let request = Request::get(path).header(header::ACCEPT, DISCOVERY).body(body::empty())?;
        let answer = client.request(request).await?;
        let bytes = Limited::new(answer.into_body(), DISCOVERY_LIMIT).collect().await;
        let bytes = bytes.map_err(|error| anyhow::anyhow!("read {path}: {error}"))?.to_bytes();
        let list: GroupList = serde_json::from_slice(&bytes).with_context(|| format!("read {path}"))?;
        found.extend(list.items.into_iter().flat_map(GroupItem::kinds).map(Arc::new));
    }
    Ok(found)
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    items: Vec<GroupItem>,
}

#[derive(Deserialize)]
struct GroupItem {
    #[serde(default)]
    metadata: GroupName,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupName {
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Found>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    resource: String,
    #[serde(default)]
    response_kind: FoundKind,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FoundKind {
    kind: String,
}

impl GroupItem {
    /// The kinds, each in the version that the server prefers.
    fn kinds(self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::new();
        for version in self.versions {
            for found in version.resources {
                if kinds.iter().any(|known| known.plural == found.resource) {
                    continue;
                }
                kinds.push(Kind {
                    group: self.metadata.name.clone(),
                    version: version.version.clone(),
                    kind: found.response_kind.kind,
                    plural: found.resource,
                    singular: found.singular_resource,
                    short_names: found.short_names,
                    categories: found.categories,
                    namespaced: found.scope == "Namespaced",
                    verbs: found.verbs,
                });
            }
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_kind_answers_to_all_its_names() {
        let kind = kinds().iter().find(|kind| kind.kind == "Container").map(Kind::from).unwrap();
        for word in ["containers", "container", "ctr", "containers.gantry.dev", "container.gantry.dev", "containers.v1.gantry.dev"] {
            assert!(kind.answers_to(word), "{word}");
        }
        for word in ["cont", "containers.", "containers.v2.gantry.dev", "containers.dev", ""] {
            assert!(!kind.answers_to(word), "{word}");
        }
    }

    #[test]
    fn the_preferred_version_of_a_discovered_kind_counts() {
        let resource = |verbs: Value| {
            json!({"resource": "widgets", "responseKind": {"kind": "Widget"}, "scope": "Namespaced",
            "singularResource": "widget", "shortNames": ["wd"], "categories": ["all"], "verbs": verbs})
        };
        let item: GroupItem = serde_json::from_value(json!({"metadata": {"name": "example.com"}, "versions": [
            {"version": "v2", "resources": [resource(json!(["get", "list"]))]}, {"version": "v1", "resources": [resource(json!([]))]}]}))
        .unwrap();
        let kinds = item.kinds();
        assert_eq!(kinds.len(), 1);
        assert_eq!((kinds[0].api_version(), kinds[0].namespaced), ("example.com/v2".to_owned(), true));
        assert!(kinds[0].answers_to("wd") && kinds[0].answers_to("widgets.example.com"));
    }
}
