//! Who depends on whom, by uid.

use std::collections::{BTreeSet, HashMap};

use gantry_api::ObjectMeta;

use super::Item;

/// Objects with their owners, as the informers last showed them.
#[derive(Default)]
pub(crate) struct Graph {
    objects: HashMap<Item, Facts>,
    /// Items by their own uid.
    by_uid: HashMap<String, Item>,
    /// Items by the uid of each of their owners, whether that owner is known or not.
    by_owner: HashMap<String, BTreeSet<Item>>,
}

/// What the graph remembers of an object.
#[derive(Default, PartialEq, Eq)]
struct Facts {
    uid: String,
    owners: BTreeSet<String>,
    terminating: bool,
}

impl Facts {
    fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            owners: meta.owner_references.iter().flatten().map(|reference| reference.uid.clone()).collect(),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }
}

impl Graph {
    /// Takes note of an object as it is now (`None`: gone) and names all that this concerns: itself, its dependents when it goes or is
    /// about to, and the owners that may have waited for it to go or to let go.
    pub(super) fn update(&mut self, item: &Item, now: Option<&ObjectMeta>) -> Vec<Item> {
        let new = now.map(Facts::of);
        let old = self.objects.remove(item);
        let mut concerned = BTreeSet::from([item.clone()]);
        if let Some(old) = &old {
            self.unlink(item, old);
            let replaced = new.as_ref().is_none_or(|new| new.uid != old.uid);
            if replaced {
                concerned.extend(self.dependents(&old.uid));
            }
            let left = old.owners.iter().filter(|owner| replaced || !new.as_ref().is_some_and(|new| new.owners.contains(*owner)));
            concerned.extend(left.filter_map(|owner| self.by_uid.get(owner).cloned()));
        }
        if let Some(new) = new {
            if new.terminating {
                concerned.extend(self.dependents(&new.uid));
            }
            self.by_uid.insert(new.uid.clone(), item.clone());
            for owner in &new.owners {
                self.by_owner.entry(owner.clone()).or_default().insert(item.clone());
            }
            self.objects.insert(item.clone(), new);
        }
        concerned.into_iter().collect()
    }

    /// The items with an owner of this uid.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        self.by_owner.get(uid).into_iter().flatten().cloned().collect()
    }

    fn unlink(&mut self, item: &Item, facts: &Facts) {
        self.by_uid.remove(&facts.uid);
        for owner in &facts.owners {
            if let Some(items) = self.by_owner.get_mut(owner) {
                items.remove(item);
                if items.is_empty() {
                    self.by_owner.remove(owner);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use gantry_api::ObjectKey;
    use gantry_api::meta::{OwnerReference, Time};

    use super::*;

    fn item(name: &str) -> Item {
        Item { kind: 0, key: ObjectKey::new("ns", name) }
    }

    fn meta(uid: &str, owners: &[&str]) -> ObjectMeta {
        let reference = |uid: &&str| OwnerReference { uid: (*uid).to_owned(), ..OwnerReference::default() };
        ObjectMeta { uid: Some(uid.into()), owner_references: Some(owners.iter().map(reference).collect()), ..ObjectMeta::default() }
    }

    #[test]
    fn a_change_concerns_dependents_and_owners_when_it_matters() {
        let mut graph = Graph::default();
        let (owner, child) = (item("owner"), item("child"));
        assert_eq!(graph.update(&child, Some(&meta("c", &["o"]))), from_ref(&child));
        assert_eq!(graph.update(&owner, Some(&meta("o", &[]))), from_ref(&owner));
        assert_eq!(graph.update(&child, Some(&meta("c", &["o"]))), from_ref(&child));

        let leaving = ObjectMeta { deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)), ..meta("o", &[]) };
        assert_eq!(graph.update(&owner, Some(&leaving)), [child.clone(), owner.clone()]);
        assert_eq!(graph.update(&child, Some(&meta("c", &[]))), [child.clone(), owner.clone()]);
        assert_eq!(graph.update(&owner, None), from_ref(&owner));
        assert_eq!(graph.update(&child, None), [child]);
        assert!(graph.objects.is_empty() && graph.by_uid.is_empty() && graph.by_owner.is_empty());
    }

    #[test]
    fn an_owner_made_anew_is_another() {
        let mut graph = Graph::default();
        let (owner, child) = (item("owner"), item("child"));
        graph.update(&owner, Some(&meta("o1", &[])));
        graph.update(&child, Some(&meta("c", &["o1"])));
        assert_eq!(graph.update(&owner, Some(&meta("o2", &[]))), [child.clone(), owner]);
        assert_eq!(graph.dependents("o1"), [child]);
        assert!(graph.dependents("o2").is_empty());
    }
}
