use serde_json::json;

use super::*;

fn schema() -> &'static Value {
    crate::registry::find_word("container").unwrap().schema()
}

fn by(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "gantry.dev/v1", subresource: "", time: Timestamp::UNIX_EPOCH, force: false }
}

fn spec(spec: impl Into<Value>) -> Value {
    let spec: Value = spec.into();
    json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "web"}, "spec": spec})
}

#[test]
fn what_an_applier_no_longer_wishes_goes() {
    let first =
        apply(None, &spec(json!({"image": "a", "user": "1", "env": [{"name": "A", "value": "1"}, {"name": "B"}]})), schema(), &by("me"))
            .unwrap();
    let second = apply(Some(&first), &spec(json!({"image": "b", "env": [{"name": "B"}]})), schema(), &by("me")).unwrap();
    assert_eq!(second["spec"], json!({"image": "b", "env": [{"name": "B"}]}));
    let again =
        apply(Some(&second), &spec(json!({"image": "b", "env": [{"name": "B"}]})), schema(), &Writer { time: Timestamp::MAX, ..by("me") });
    assert_eq!(again, Ok(second), "an apply that changes nothing keeps the time");
}

#[test]
fn conflicts_name_the_other_manager_and_force_takes_the_field() {
    let live = apply(None, &spec(json!({"image": "a", "user": "1"})), schema(), &by("one")).unwrap();
    let wish = spec(json!({"image": "b"}));
    let error = apply(Some(&live), &wish, schema(), &by("two")).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.image");
    let forced = apply(Some(&live), &wish, schema(), &Writer { force: true, ..by("two") }).unwrap();
    assert_eq!(forced["spec"], json!({"image": "b", "user": "1"}));
    let kept = apply(Some(&forced), &spec(json!({"user": "1"})), schema(), &by("one")).unwrap();
    assert_eq!(kept["spec"]["image"], "b", "the field is no longer the first manager's to remove");
}

#[test]
fn an_equal_value_is_shared_and_stays_until_the_last_gives_up() {
    let live = apply(None, &spec(json!({"image": "a", "user": "1"})), schema(), &by("one")).unwrap();
    let both = apply(Some(&live), &spec(json!({"user": "1"})), schema(), &by("two")).unwrap();
    let left = apply(Some(&both), &spec(json!({"image": "a"})), schema(), &by("one")).unwrap();
    assert_eq!(left["spec"]["user"], "1");
    let none = apply(Some(&left), &spec(json!({})), schema(), &by("two")).unwrap();
    assert!(none["spec"].get("user").is_none());
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = apply(None, &spec(json!({"image": "a", "user": "1"})), schema(), &by("one")).unwrap();
    let mut edited = live.clone();
    edited["spec"]["user"] = json!("2");
    track_update(Some(&live), &mut edited, schema(), &by("editor"));
    let error = apply(Some(&edited), &spec(json!({"image": "a", "user": "1"})), schema(), &by("one")).unwrap_err();
    let expected = "Apply failed with 1 conflict: conflict with \"editor\" using gantry.dev/v1 at 1970-01-01T00:00:00Z: .spec.user";
    assert_eq!(error.to_string(), expected);
    let mut same = edited.clone();
    track_update(Some(&edited), &mut same, schema(), &Writer { time: Timestamp::MAX, ..by("editor") });
    assert_eq!(same, edited, "a write that changes nothing changes no record");
}

#[test]
fn status_is_tracked_apart() {
    let live = apply(None, &spec(json!({"image": "a"})), schema(), &by("one")).unwrap();
    let mut new = live.clone();
    new["status"] = json!({"phase": "Running"});
    track_update(Some(&live), &mut new, schema(), &Writer { subresource: "status", ..by("agent") });
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {".": {}, "f:phase": {}}}));
    assert_eq!(entries[1]["subresource"], "status");
}

#[test]
fn lists_that_merge_need_their_keys_once() {
    for bad in [json!([{"value": "x"}]), json!([{"name": "A"}, {"name": "A"}])] {
        let error = apply(None, &spec(json!({"image": "a", "env": bad})), schema(), &by("me")).unwrap_err();
        assert!(matches!(error, PatchError::Invalid { .. }), "{error}");
    }
    let ports = |ports: Value| spec(json!({"image": "a", "ports": ports}));
    let live = apply(None, &ports(json!([{"containerPort": 80}])), schema(), &by("one")).unwrap();
    let both = apply(
        Some(&live),
        &ports(json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}])),
        schema(),
        &by("two"),
    )
    .unwrap();
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2, "the default of a key counts: {both}");
}
