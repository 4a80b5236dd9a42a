//! An object's bytes before its revision is known.
//!
//! An object is encoded once, by the request that changes it and before it queues for the writer. The revision is known only
//! when the writer has its turn; then the writer copies the bytes and puts the digits in their place, nothing more.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::key::Revision;

/// An object encoded as JSON, with the place of `metadata.resourceVersion` left open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Unversioned {
    json: Arc<[u8]>,
    /// Where the digits go: between two quotes that `json` already holds.
    digits_at: usize,
}

/// Why a value cannot be an object.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The value, or its `metadata`, is not a JSON object.
    #[error("encode object: `{field}` is not a JSON object")]
    NotAnObject {
        /// `.` or `metadata`.
        field: &'static str,
    },
    /// `serde_json` refused the value.
    #[error("encode object")]
    Json(#[from] serde_json::Error),
}

impl Unversioned {
    /// Encodes `object`; a `metadata.resourceVersion` in it is dropped, a missing `metadata` is made.
    ///
    /// # Errors
    /// When `object` or its `metadata` is not a JSON object.
    pub fn encode(object: &Value) -> Result<Self, EncodeError> {
        let object = object.as_object().ok_or(EncodeError::NotAnObject { field: "." })?;
        let empty = Map::new();
        let metadata = match object.get("metadata") {
            None => &empty,
            Some(value) => value.as_object().ok_or(EncodeError::NotAnObject { field: "metadata" })?,
        };
        let mut json = Vec::with_capacity(1024);
        let mut digits_at = None;
        let mut open = b'{';
        for (name, value) in object {
            // The place of a missing `metadata`, and below of `resourceVersion`, is the one that the sorted map would give it,
            // so that decoding and encoding again changes no byte.
            if digits_at.is_none() && name.as_str() >= "metadata" {
                begin_entry(&mut json, &mut open, "metadata")?;
                digits_at = Some(encode_metadata(&mut json, metadata)?);
            }
            if name != "metadata" {
                begin_entry(&mut json, &mut open, name)?;
                serde_json::to_writer(&mut json, value)?;
            }
        }
        let digits_at = match digits_at {
            Some(at) => at,
            None => {
                begin_entry(&mut json, &mut open, "metadata")?;
                encode_metadata(&mut json, metadata)?
            }
        };
        json.push(b'}');
        Ok(Self { json: json.into(), digits_at })
    }

    /// The whole object at `revision`.
    pub fn at(&self, revision: Revision) -> Bytes {
        let digits = revision.to_string();
        let (head, tail) = self.json.split_at(self.digits_at);
        let mut json = Vec::with_capacity(self.json.len() + digits.len());
        json.extend_from_slice(head);
        json.extend_from_slice(digits.as_bytes());
        json.extend_from_slice(tail);
        json.into()
    }

    /// Bytes of the object without the digits of its revision.
    pub fn size_bytes(&self) -> usize {
        self.json.len()
    }
}

fn begin_entry(json: &mut Vec<u8>, open: &mut u8, name: &str) -> Result<(), EncodeError> {
    json.push(*open);
    *open = b',';
    serde_json::to_writer(&mut *json, name)?;
    json.push(b':');
    Ok(())
}

/// Writes `metadata` with an empty `resourceVersion` and says where its digits go.
fn encode_metadata(json: &mut Vec<u8>, metadata: &Map<String, Value>) -> Result<usize, EncodeError> {
    const FIELD: &str = "resourceVersion";
    let mut open = b'{';
    let mut digits_at = None;
    let mut place = |json: &mut Vec<u8>, open: &mut u8| -> Result<(), EncodeError> {
        begin_entry(json, open, FIELD)?;
        json.extend_from_slice(b"\"\"");
        digits_at = Some(json.len() - 1);
        Ok(())
    };
    let mut placed = false;
    for (name, value) in metadata {
        if !placed && name.as_str() >= FIELD {
            place(json, &mut open)?;
            placed = true;
        }
        if name != FIELD {
            begin_entry(json, &mut open, name)?;
            serde_json::to_writer(&mut *json, value)?;
        }
    }
    if !placed {
        place(json, &mut open)?;
    }
    json.push(b'}');
    Ok(digits_at.unwrap_or(json.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_revision_differs_from_plain_encoding() {
        for object in [
            json!({}),
            json!({"kind": "A", "spec": {}}),
            json!({"aa": 1, "zz": [1, "x"]}),
            json!({"metadata": {}}),
            json!({"apiVersion": "v1", "kind": "A", "metadata": {"name": "a\"b\u{1f600}", "uid": "u"}, "status": {"n": 1.5}}),
            json!({"metadata": {"resourceVersion": "9", "annotations": {"resourceVersion": ""}}, "a": {"metadata": {}}}),
        ] {
            let encoded = Unversioned::encode(&object).unwrap();
            let mut wanted = object.clone();
            wanted["metadata"]["resourceVersion"] = "18446744073709551615".into();
            let got = encoded.at(Revision(u64::MAX));
            assert_eq!(std::str::from_utf8(&got).unwrap(), serde_json::to_string(&wanted).unwrap());
            assert_eq!(encoded.size_bytes() + 20, got.len());
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for value in [json!(null), json!([]), json!("x"), json!({"metadata": null}), json!({"metadata": []})] {
            assert!(matches!(Unversioned::encode(&value), Err(EncodeError::NotAnObject { .. })));
        }
    }
}
