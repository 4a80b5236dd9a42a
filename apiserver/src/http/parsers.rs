//! Every parser of what clients send, behind one signature, for the fuzz targets and the suite of random bytes: whatever the bytes are,
//! none may panic, and what one has read must be what it writes.

use axum::http::{HeaderMap, HeaderValue, header};
use gantry_api::kinds::container::Container;
use gantry_api::patch::{Writer, apply, json_patch, merge_patch, strategic_merge};
use gantry_api::quantity::Quantity;
use gantry_api::reference::ImageReference;
use gantry_api::registry::find_word;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::params::Params;
use super::{body, compress, negotiate, protobuf, route};
use crate::cache::{Continue, FieldSelector, LabelSelector};
use crate::store::Revision;
use crate::strategy::decoding;

/// One parser.
pub struct Parser {
    /// Its name, that of its fuzz target.
    pub name: &'static str,
    /// Input that it takes, to begin with.
    pub samples: &'static [&'static [u8]],
    /// Gives it bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub static PARSERS: [Parser; 11] = [
    Parser { name: "body_json", samples: &[br#"{"metadata":{"name":"a"},"spec":{"image":"a:1","ports":[{"containerPort":80}]}}"#], run: body_json },
    Parser { name: "body_yaml", samples: &[b"metadata: {name: a}\nspec: &s\n  image: 'a:1'\n  ports:\n  - containerPort: 80\nx: *s\n"], run: body_yaml },
    Parser { name: "protobuf", samples: &[b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x10\x0a\x03\x0a\x01n\x12\x09\x0a\x01a\x12\x01b\x1a\x01c"], run: run_protobuf },
    Parser { name: "selectors", samples: &[b"a=b,c in (d,e),!f,g!=h", b"metadata.name=a,status.phase!=Running"], run: selectors },
    Parser { name: "json_patch", samples: &[br#"[{"op":"add","path":"/a/b","value":1},{"op":"copy","from":"/a","path":"/c~1"},{"op":"move","from":"/c~1","path":"/d/-"}]"#], run: run_json_patch },
    Parser { name: "merge_patch", samples: &[br#"{"a":null,"b":{"c":[1]}}"#], run: run_merge_patch },
    Parser { name: "strategic_merge", samples: &[br#"{"secrets":[{"name":"a","$patch":"delete"}],"$setElementOrder/secrets":[{"name":"b"}],"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#], run: run_strategic_merge },
    Parser { name: "apply", samples: &[br#"{"f:spec":{"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:hostPort":{}}},"f:args":{"i:0":{},"v:\"a\"":{}}}}"#], run: run_apply },
    Parser { name: "request_line", samples: &[b"/apis/gantry.dev/v1/namespaces/a/containers/b/log?limit=1&continue=abc&watch=true&x=%20+", b"application/json;as=Table;v=v1;g=meta.k8s.io, */*;q=0.5"], run: request_line },
    Parser { name: "quantity", samples: &[b"500m", b"1.5Gi", b"12e-3", b"-0.000000000001Ki"], run: quantity },
    Parser { name: "image_reference", samples: &[b"docker.io/library/nginx:1.27@sha256:0000000000000000000000000000000000000000000000000000000000000000", b"[::1]:5000/a/b"], run: image_reference },
];

/// The parser of a name.
///
/// # Panics
/// When there is none: a fuzz target has the wrong name.
pub fn named(name: &str) -> fn(&[u8]) {
    PARSERS.iter().find(|parser| parser.name == name).map(|parser| parser.run).expect("a fuzz target is named after its parser")
}

fn text(bytes: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

/// As an object of ours on its way to the store.
fn decode(decoded: body::Decoded) {
    let Some(kind) = find_word("container") else { return };
    assert!(body::json(decoded.value.to_string().as_bytes()).is_ok(), "what was read can be written and read again");
    let mut object = decoded.value;
    if decoding::identify(kind, &mut object, "default", None).is_ok()
        && decoding::strict(kind, &mut object, &decoded.duplicates, decoding::Strictness::Ignore).is_ok()
        && let Ok(normal) = decoding::normalize(kind, object)
    {
        // Refused or not: either is an answer.
        let _ = decoding::validate(kind, &normal, None);
        assert!(serde_json::from_value::<Container>(normal).is_ok(), "a normal object has its type");
    }
}

fn body_json(bytes: &[u8]) {
    if let Ok(decoded) = body::json(bytes) {
        decode(decoded);
    }
}

fn body_yaml(bytes: &[u8]) {
    if let Ok(decoded) = body::yaml(bytes) {
        decode(decoded);
    }
}

fn run_protobuf(bytes: &[u8]) {
    let whole = [b"k8s\0", bytes].concat();
    for bytes in [bytes, &whole] {
        if let Ok(value) = protobuf::decode(bytes) {
            assert!(value.is_object());
        }
    }
}

fn selectors(bytes: &[u8]) {
    text(bytes, |text| {
        // Understood or not: either is an answer.
        let _ = (LabelSelector::parse(text), FieldSelector::parse(text));
    });
}

fn json_of(bytes: &[u8]) -> Option<Value> {
    body::json(bytes).ok().map(|decoded| decoded.value)
}

fn object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "finalizers": ["a", "b"], "labels": {"x": "y"}},
        "secrets": [{"name": "a"}, {"name": "b"}], "imagePullSecrets": [{"name": "c"}], "a": {"b": [1, 2, {"c": null}]},
    })
}

fn run_json_patch(bytes: &[u8]) {
    if let Some(patch) = json_of(bytes) {
        let _ = json_patch(&object(), &patch);
    }
}

fn run_merge_patch(bytes: &[u8]) {
    if let Some(patch) = json_of(bytes)
        && let Ok(once) = merge_patch(&object(), &patch)
    {
        assert_eq!(merge_patch(&once, &patch).ok(), Some(once), "a merge patch applied again changes nothing");
    }
}

fn run_strategic_merge(bytes: &[u8]) {
    if let (Some(patch), Some(kind)) = (json_of(bytes), find_word("serviceaccount")) {
        let _ = strategic_merge(&object(), &patch, kind.schema());
    }
}

/// As the record of another manager, and as what is applied.
fn run_apply(bytes: &[u8]) {
    let (Some(value), Some(kind)) = (json_of(bytes), find_word("container")) else { return };
    let writer = Writer { manager: "m", api_version: "gantry.dev/v1", subresource: "", time: Timestamp::UNIX_EPOCH, force: false };
    let config =
        json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "a"}, "spec": {"image": "a:1", "args": ["a"]}});
    let mut live = config.clone();
    let entry = json!({"manager": "o", "operation": "Apply", "apiVersion": "gantry.dev/v1", "fieldsType": "FieldsV1", "fieldsV1": value});
    live["metadata"]["managedFields"] = json!([entry]);
    let _ = apply(Some(&live), &config, kind.schema(), &writer);
    let _ = apply(Some(&config), &value, kind.schema(), &writer);
}

fn request_line(bytes: &[u8]) {
    text(bytes, |text| {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let _ = route::parse(path);
        if let Ok(params) = Params::parse(Some(query)) {
            let _ = (params.integer("limit"), params.flag("watch"), params.get("continue").map(Continue::decode));
        }
        let _ = (Continue::decode(text).map(|token| token.encode()), Revision::parse(text));
    });
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, value.clone()),
            (header::ACCEPT_ENCODING, value.clone()),
            (header::CONTENT_TYPE, value),
        ]);
        let _ = (negotiate::form(&headers, true), compress::is_offered(&headers), body::media_type(&headers));
    }
}

fn quantity(bytes: &[u8]) {
    text(bytes, |text| {
        let quantity = Quantity(text.to_owned());
        let _ = (quantity.to_milli(), quantity.to_value());
    });
}

fn image_reference(bytes: &[u8]) {
    text(bytes, |text| {
        if let Ok(reference) = ImageReference::parse(text) {
            let again = ImageReference::parse(&reference.to_string());
            assert_eq!(again.ok(), Some(reference), "a reference is what it says that it is");
        }
    });
}
