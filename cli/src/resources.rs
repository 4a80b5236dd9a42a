//! What a command line names: `ctr web db`, `ctr,img`, `container/web volume/data`, `all`.

use anyhow::Result;
use gantry_api::registry::{KindInfo, find_word, kinds};
use gantry_client::{Client, DynamicApi};

use crate::failure::usage;

/// Objects of one kind: those named, or all when none is.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) kind: &'static KindInfo,
    pub(crate) names: Vec<String>,
}

impl Target {
    /// Access in `namespace`, or in all.
    pub(crate) fn api(&self, client: &Client, namespace: Option<&str>) -> DynamicApi {
        DynamicApi::new(client, self.kind.into(), namespace)
    }
}

/// `container.gantry.dev/web`, as one names an object to people and scripts.
pub(crate) fn qualified_name(kind: &KindInfo, name: &str) -> String {
    let dot = if kind.group.is_empty() { "" } else { "." };
    format!("{}{dot}{}/{name}", kind.singular, kind.group)
}

/// The kind called `word`.
pub(crate) fn kind(word: &str) -> Result<&'static KindInfo> {
    find_word(word).ok_or_else(|| {
        let mut known: Vec<String> =
            kinds().iter().map(|k| k.short_names.first().map_or(k.plural.to_owned(), |s| format!("{} ({s})", k.plural))).collect();
        known.sort();
        usage(format!("there is no kind {word:?}; there are: {}", known.join(", ")))
    })
}

/// Reads `TYPE[,TYPE…] [NAME…]` or `TYPE/NAME…`.
pub(crate) fn parse(words: &[String]) -> Result<Vec<Target>> {
    let Some(first) = words.first() else {
        return Err(usage("name what: a kind such as `containers`, several as `ctr,img`, an object as `container/web`, or `all`"));
    };
    if words.iter().any(|word| word.contains('/')) {
        return parse_pairs(words);
    }
    let mut targets = Vec::new();
    for word in first.split(',').filter(|word| !word.is_empty()) {
        if word == "all" {
            targets.extend(
                kinds()
                    .iter()
                    .filter(|kind| kind.categories.iter().any(|category| category == "all"))
                    .map(|kind| Target { kind, names: Vec::new() }),
            );
        } else {
            targets.push(Target { kind: kind(word)?, names: words[1..].to_vec() });
        }
    }
    if targets.len() != 1 && words.len() > 1 {
        return Err(usage("names go with one kind; for objects of several kinds write `container/web volume/data`"));
    }
    Ok(targets)
}

fn parse_pairs(words: &[String]) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for word in words {
        let (kind_word, name) = word
            .split_once('/')
            .filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
            .ok_or_else(|| usage(format!("{word:?} is not of the form KIND/NAME, as the other arguments are")))?;
        let kind = kind(kind_word)?;
        // Neighbours of one kind become one target; the order of the command line is kept.
        match targets.last_mut().filter(|last| std::ptr::eq(last.kind, kind)) {
            Some(last) => last.names.push(name.to_owned()),
            None => targets.push(Target { kind, names: vec![name.to_owned()] }),
        }
    }
    Ok(targets)
}

/// The name in `web`, `ctr/web` or `container/web`, for commands that are about containers only.
pub(crate) fn container_name(word: &str) -> Result<&str> {
    let Some((kind_word, name)) = word.split_once('/') else { return Ok(word) };
    if kind(kind_word)?.plural != "containers" {
        return Err(usage(format!("{word:?} is not a container")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn plurals(text: &str) -> Vec<(&'static str, usize)> {
        parse(&words(text)).unwrap().iter().map(|t| (t.kind.plural.as_str(), t.names.len())).collect()
    }

    #[test]
    fn kinds_and_names_are_read() {
        assert_eq!(plurals("ctr web db"), [("containers", 2)]);
        assert_eq!(plurals("Images,vol"), [("images", 0), ("volumes", 0)]);
        assert_eq!(plurals("container/web ctr/db volume/data"), [("containers", 2), ("volumes", 1)]);
        assert!(plurals("all").len() > 1);
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for wrong in ["nothing", "ctr,img web", "ctr/web img", "ctr/", "/web"] {
            let error = parse(&words(wrong)).err().unwrap_or_else(|| panic!("{wrong} was taken"));
            assert!(error.is::<crate::failure::Usage>(), "{wrong}");
        }
        assert!(container_name("img/x").is_err());
        assert_eq!(container_name("ctr/x").unwrap(), "x");
    }
}
