//! Protobuf request bodies, for the few kinds that `kubectl create` sends so and would not send again as JSON.
//!
//! Only what those commands fill in is read; other fields are skipped, as protobuf does. Field numbers are those of the
//! published `generated.proto` files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::body::BODY_TYPES;
use super::error::ApiError;

/// What precedes every Kubernetes protobuf body.
const MAGIC: &[u8] = b"k8s\0";

/// One field of a message.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order; fixed-width fields are skipped.
struct Message<'a>(&'a [u8]);

struct Malformed;

impl From<Malformed> for ApiError {
    fn from(_: Malformed) -> Self {
        Self::bad_request("the body is not valid protobuf")
    }
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        while !self.0.is_empty() {
            let tag = self.varint()?;
            match tag & 7 {
                0 => return Ok(Some((tag >> 3, Wire::Varint(self.varint()?)))),
                1 => self.take(8).map(drop)?,
                2 => {
                    let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                    return Ok(Some((tag >> 3, Wire::Bytes(self.take(length)?))));
                }
                5 => self.take(4).map(drop)?,
                _ => return Err(Malformed),
            }
        }
        Ok(None)
    }

    /// All length-delimited fields.
    fn fields(mut self) -> Result<Vec<(u64, &'a [u8])>, Malformed> {
        let mut fields = Vec::new();
        while let Some((number, wire)) = self.next()? {
            match wire {
                Wire::Bytes(bytes) => fields.push((number, bytes)),
                // The few numbers that are wanted are looked up by [`Message::number`].
                Wire::Varint(_) => {}
            }
        }
        Ok(fields)
    }

    /// The last value of a number or truth value; `None` when it is not there.
    fn number(mut self, wanted: u64) -> Result<Option<u64>, Malformed> {
        let mut value = None;
        while let Some((number, wire)) = self.next()? {
            if let Wire::Varint(n) = wire
                && number == wanted
            {
                value = Some(n);
            }
        }
        Ok(value)
    }

    fn flag(self, wanted: u64) -> Result<bool, Malformed> {
        Ok(self.number(wanted)?.is_some_and(|value| value != 0))
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}

/// Adds `{1: key, 2: value}` to a map.
fn entry(map: &mut Map<String, Value>, bytes: &[u8], value: fn(&[u8]) -> Result<Value, Malformed>) -> Result<(), Malformed> {
    let (mut name, mut content) = (String::new(), value(b"")?);
    for (number, bytes) in Message(bytes).fields()? {
        match number {
            1 => name = text(bytes)?,
            2 => content = value(bytes)?,
            _ => {}
        }
    }
    map.insert(name, content);
    Ok(())
}

fn string(bytes: &[u8]) -> Result<Value, Malformed> {
    text(bytes).map(Value::String)
}

fn binary(bytes: &[u8]) -> Result<Value, Malformed> {
    Ok(STANDARD.encode(bytes).into())
}

/// The object in a protobuf body, as the JSON that it stands for.
///
/// # Errors
/// 415 for kinds that are not sent so, 400 when it is malformed.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(Malformed)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, bytes) in Message(unknown).fields()? {
        match number {
            1 => {
                for (number, bytes) in Message(bytes).fields()? {
                    match number {
                        1 => api_version = text(bytes)?,
                        2 => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            2 => raw = bytes,
            _ => {}
        }
    }
    let mut object = match (api_version.as_str(), kind.as_str()) {
        ("v1", "Namespace") => generic(raw, &[])?,
        ("v1", "ConfigMap") => config_map(raw)?,
        ("v1", "Secret") => secret(raw)?,
        ("v1", "ServiceAccount") => service_account(raw)?,
        ("coordination.k8s.io/v1", "Lease") => lease(raw)?,
        // Options carry nothing that kubectl sets in this form but what the query says too.
        ("v1" | "meta.k8s.io/v1", "DeleteOptions") => Map::new(),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => access_review(raw)?,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => rules_review(raw)?,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => Map::new(),
        _ => return Err(ApiError::unsupported_media_type("application/vnd.kubernetes.protobuf", BODY_TYPES)),
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(object.into())
}

/// A map field of a message.
struct MapField {
    number: u64,
    name: &'static str,
    value: fn(&[u8]) -> Result<Value, Malformed>,
}

/// An object with `1: metadata` and maps.
fn generic(raw: &[u8], maps: &[MapField]) -> Result<Map<String, Value>, Malformed> {
    let mut object = Map::new();
    for (number, bytes) in Message(raw).fields()? {
        if number == 1 {
            object.insert("metadata".into(), metadata(bytes)?);
        }
        if let Some(field) = maps.iter().find(|field| field.number == number) {
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            if let Some(map) = map.as_object_mut() {
                entry(map, bytes, field.value)?;
            }
        }
    }
    Ok(object)
}

fn config_map(raw: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let maps = [MapField { number: 2, name: "data", value: string }, MapField { number: 3, name: "binaryData", value: binary }];
    let mut object = generic(raw, &maps)?;
    if Message(raw).flag(4)? {
        object.insert("immutable".into(), true.into());
    }
    Ok(object)
}

fn secret(raw: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let maps = [MapField { number: 2, name: "data", value: binary }, MapField { number: 4, name: "stringData", value: string }];
    let mut object = generic(raw, &maps)?;
    for (number, bytes) in Message(raw).fields()? {
        if number == 3 && !bytes.is_empty() {
            object.insert("type".into(), string(bytes)?);
        }
    }
    if Message(raw).flag(5)? {
        object.insert("immutable".into(), true.into());
    }
    Ok(object)
}

fn service_account(raw: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let mut object = generic(raw, &[])?;
    for (number, bytes) in Message(raw).fields()? {
        match number {
            2 => push(&mut object, "secrets", strings(bytes, &OBJECT_REFERENCE)?),
            3 => push(&mut object, "imagePullSecrets", strings(bytes, &[(1, "name")])?),
            _ => {}
        }
    }
    if let Some(mounts) = Message(raw).number(4)? {
        object.insert("automountServiceAccountToken".into(), (mounts != 0).into());
    }
    Ok(object)
}

const OBJECT_REFERENCE: [(u64, &str); 7] =
    [(1, "kind"), (2, "namespace"), (3, "name"), (4, "uid"), (5, "apiVersion"), (6, "resourceVersion"), (7, "fieldPath")];

/// What programs elect their leaders by.
fn lease(raw: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let mut object = generic(raw, &[])?;
    let bytes = spec_of(raw)?;
    let Value::Object(mut spec) = strings(bytes, &[(1, "holderIdentity"), (6, "strategy"), (7, "preferredHolder")])? else {
        return Err(Malformed);
    };
    for (number, name) in [(2, "leaseDurationSeconds"), (5, "leaseTransitions")] {
        if let Some(value) = Message(bytes).number(number)? {
            spec.insert(name.into(), i32::try_from(value).map_err(|_| Malformed)?.into());
        }
    }
    for (number, bytes) in Message(bytes).fields()? {
        let name = match number {
            3 => "acquireTime",
            4 => "renewTime",
            _ => continue,
        };
        if let Some(time) = time(bytes)? {
            spec.insert(name.into(), time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into());
        }
    }
    object.insert("spec".into(), spec.into());
    Ok(object)
}

/// `{1: seconds, 2: nanoseconds}` since 1970; the zero time of Go, which means none, lies long before that and comes as an empty message.
fn time(bytes: &[u8]) -> Result<Option<Timestamp>, Malformed> {
    let Some(seconds) = Message(bytes).number(1)? else { return Ok(None) };
    let nanoseconds = Message(bytes).number(2)?.unwrap_or_default();
    let seconds = i64::try_from(seconds).map_err(|_| Malformed)?;
    Timestamp::new(seconds, i32::try_from(nanoseconds).map_err(|_| Malformed)?).map(Some).map_err(|_| Malformed)
}

fn push(object: &mut Map<String, Value>, name: &str, item: Value) {
    if let Some(list) = object.entry(name).or_insert_with(|| json!([])).as_array_mut() {
        list.push(item);
    }
}

/// `metav1.OwnerReference`.
fn owner(bytes: &[u8]) -> Result<Value, Malformed> {
    let mut owner = strings(bytes, &[(1, "kind"), (3, "name"), (4, "uid"), (5, "apiVersion")])?;
    for (number, name) in [(6, "controller"), (7, "blockOwnerDeletion")] {
        if let Some(value) = Message(bytes).number(number)? {
            owner[name] = (value != 0).into();
        }
    }
    Ok(owner)
}

/// Empty strings and zero times are written out; they mean absent. What the server sets itself is left out.
fn metadata(bytes: &[u8]) -> Result<Value, Malformed> {
    let mut metadata = Map::new();
    for (number, bytes) in Message(bytes).fields()? {
        let name = match number {
            1 => "name",
            2 => "generateName",
            3 => "namespace",
            5 => "uid",
            6 => "resourceVersion",
            13 => {
                push(&mut metadata, "ownerReferences", owner(bytes)?);
                continue;
            }
            14 => {
                push(&mut metadata, "finalizers", string(bytes)?);
                continue;
            }
            11 => "labels",
            12 => "annotations",
            _ => continue,
        };
        if number < 11 {
            if !bytes.is_empty() {
                metadata.insert(name.into(), string(bytes)?);
            }
            continue;
        }
        if let Some(map) = metadata.entry(name).or_insert_with(|| json!({})).as_object_mut() {
            entry(map, bytes, string)?;
        }
    }
    Ok(metadata.into())
}

/// The string fields of a message, by number.
fn strings(bytes: &[u8], names: &[(u64, &str)]) -> Result<Value, Malformed> {
    let mut object = Map::new();
    for (number, bytes) in Message(bytes).fields()? {
        if let Some((_, name)) = names.iter().find(|(n, _)| *n == number)
            && !bytes.is_empty()
        {
            object.insert((*name).to_owned(), string(bytes)?);
        }
    }
    Ok(object.into())
}

fn spec_of(raw: &[u8]) -> Result<&[u8], Malformed> {
    Ok(Message(raw).fields()?.iter().find(|(number, _)| *number == 2).map_or(&[][..], |(_, bytes)| *bytes))
}

fn access_review(raw: &[u8]) -> Result<Map<String, Value>, Malformed> {
    const RESOURCE: [(u64, &str); 7] =
        [(1, "namespace"), (2, "verb"), (3, "group"), (4, "version"), (5, "resource"), (6, "subresource"), (7, "name")];
    const PATH: [(u64, &str); 2] = [(1, "path"), (2, "verb")];
    let mut spec = Map::new();
    for (number, bytes) in Message(spec_of(raw)?).fields()? {
        match number {
            1 => spec.insert("resourceAttributes".into(), strings(bytes, &RESOURCE)?),
            2 => spec.insert("nonResourceAttributes".into(), strings(bytes, &PATH)?),
            _ => None,
        };
    }
    Ok(Map::from_iter([("spec".to_owned(), spec.into())]))
}

fn rules_review(raw: &[u8]) -> Result<Map<String, Value>, Malformed> {
    Ok(Map::from_iter([("spec".to_owned(), strings(spec_of(raw)?, &[(1, "namespace")])?)]))
}
