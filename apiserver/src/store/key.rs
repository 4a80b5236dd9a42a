//! What names an object and what counts its changes.

use std::fmt;
use std::sync::Arc;

/// Names one object: resource, namespace, name. Cheap to clone.
///
/// Keys are ordered by resource, then namespace, then name; the byte form (`resource \0 namespace \0 name`) sorts alike,
/// because no part holds a NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `{group}/{plural}`: `gantry.dev/containers`, and `/namespaces` for the core group.
    pub resource: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Key {
    /// The key of these three parts; `namespace` is empty for cluster-scoped objects.
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// The ordered byte form, `resource \0 namespace \0 name`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.resource.len() + self.namespace.len() + self.name.len() + 2);
        bytes.extend_from_slice(self.resource.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.namespace.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// Reads the byte form back; `None` when it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(bytes).ok()?.split('\0');
        let key = Self::new(parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.resource, self.name)
        } else {
            write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
        }
    }
}

/// A point in the one sequence of all changes; `metadata.resourceVersion` is its decimal form. 0 is before the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Reads a `resourceVersion`: decimal digits only.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok().map(Self)).flatten()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_form_sorts_like_the_key() {
        let mut keys = Vec::new();
        for resource in ["/a", "/ab", "g/a", "g-h/a"] {
            for namespace in ["", "a", "a-b", "ab"] {
                for name in ["a", "a.b", "a-b", "ab", "b"] {
                    keys.push(Key::new(resource, namespace, name));
                }
            }
        }
        keys.sort();
        let mut bytes: Vec<_> = keys.iter().map(Key::to_bytes).collect();
        assert_eq!(bytes.iter().map(|b| Key::from_bytes(b).unwrap()).collect::<Vec<_>>(), keys);
        bytes.sort();
        assert_eq!(bytes.iter().map(|b| Key::from_bytes(b).unwrap()).collect::<Vec<_>>(), keys);
    }

    #[test]
    fn foreign_bytes_are_no_key() {
        for bytes in [&b"a"[..], b"a\0b", b"a\0b\0c\0d", b"\xff\0a\0b"] {
            assert_eq!(Key::from_bytes(bytes), None);
        }
    }

    #[test]
    fn a_resource_version_is_digits_only() {
        assert_eq!(Revision::parse("17"), Some(Revision(17)));
        for text in ["", "+1", "-1", " 1", "1a", "99999999999999999999"] {
            assert_eq!(Revision::parse(text), None, "{text}");
        }
    }
}
