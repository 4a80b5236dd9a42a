//! The Rust client of Kubernetes, as its users use it: from a kubeconfig, over TLS. Its types, watcher, reflector, controller,
//! finalizer helper and discovery are the judges.

mod live;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    Preconditions, TypeMeta, WatchEvent, WatchParams,
};
use kube::core::{PartialObjectMeta, Status};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event as FinalizerEvent, finalizer};
use kube::runtime::reflector;
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Config, Error, ResourceExt as _};
use live::Live;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

async fn client(live: &Live) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(live.kubeconfig()).expect("read the kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a configuration");
    let client = Client::try_from(config).expect("a client");
    let namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("a Namespace");
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("make the namespace");
    client
}

/// A kind of ours, of which the library has no type.
fn ours(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("gantry.dev", "v1", kind))
}

fn containers(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &ours("Container"))
}

fn config_maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

fn container(name: &str) -> DynamicObject {
    DynamicObject::new(name, &ours("Container")).data(json!({"spec": {"image": "localhost/busybox:1"}}))
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": "test"}}, "data": {"a": value}})).expect("a ConfigMap")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> Box<Status> {
    match result {
        Err(Error::Api(status)) => status,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_elapsed| panic!("waited {PATIENCE:?} for {what}"))
}

#[tokio::test]
async fn objects_are_written_read_and_patched() {
    let live = Live::start().await;
    let client = client(&live).await;
    let api = containers(&client);
    let post = PostParams { field_manager: Some("test".into()), ..PostParams::default() };
    let dry = PostParams { dry_run: true, ..post.clone() };
    assert!(api.create(&dry, &container("web")).await.expect("a dry run").uid().is_some());
    assert!(api.get_opt("web").await.expect("a look").is_none(), "a dry run stores nothing");
    let made = api.create(&post, &container("web")).await.expect("create");
    assert_eq!(
        (made.metadata.generation, made.types.clone()),
        (Some(1), Some(TypeMeta { api_version: "gantry.dev/v1".into(), kind: "Container".into() }))
    );
    assert_eq!(refused(api.create(&post, &container("web")).await).reason, "AlreadyExists");
    let mut generated = container("");
    generated.metadata = serde_json::from_value(json!({"generateName": "job-"})).expect("metadata");
    assert!(api.create(&post, &generated).await.expect("generate a name").name_any().starts_with("job-"));

    let mut changed = made.clone();
    changed.data["spec"]["hostname"] = "web".into();
    let replaced = api.replace("web", &post, &changed).await.expect("replace");
    assert_eq!((replaced.metadata.generation, &replaced.data["spec"]["hostname"]), (Some(2), &json!("web")));
    let stale = refused(api.replace("web", &post, &changed).await);
    assert!(stale.is_conflict() && stale.message.contains("the object has been modified"), "{stale}");

    let merge = Patch::Merge(json!({"spec": {"hostname": null, "workingDir": "/srv"}}));
    assert_eq!(api.patch("web", &PatchParams::default(), &merge).await.expect("merge").data["spec"]["workingDir"], "/srv");
    let same = api.patch("web", &PatchParams::default(), &merge).await.expect("merge again");
    assert_eq!(same.resource_version(), api.get("web").await.expect("get").resource_version(), "no change is no write");
    let operations = serde_json::from_value(json!([{"op": "replace", "path": "/spec/workingDir", "value": "/"}])).expect("a patch");
    let json = api.patch("web", &PatchParams::default(), &Patch::Json::<()>(operations)).await.expect("JSON patch");
    assert_eq!(json.data["spec"]["workingDir"], "/");
    let strategic = api.patch("web", &PatchParams::default(), &Patch::Strategic(json!({"spec": {}}))).await;
    assert_eq!(refused(strategic).code, 415);
    let status = json!({"status": {"phase": "Running"}, "spec": {"image": "never:1"}});
    let written = api.patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await.expect("patch the status");
    assert_eq!((&written.data["status"]["phase"], &written.data["spec"]["image"]), (&json!("Running"), &json!("localhost/busybox:1")));
    assert_eq!(api.get_status("web").await.expect("the status").metadata.generation, written.metadata.generation);

    let unknown = Patch::Merge(json!({"spec": {"imagee": "x"}}));
    let strict = refused(
        api.patch(
            "web",
            &PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..PatchParams::default() },
            &unknown,
        )
        .await,
    );
    assert!(strict.code == 400 && strict.message.contains("spec.imagee"), "{strict}");
    api.patch("web", &PatchParams { field_validation: Some(kube::api::ValidationDirective::Ignore), ..PatchParams::default() }, &unknown)
        .await
        .expect("ignored");
    let metadata = api.get_metadata("web").await.expect("metadata");
    assert_eq!(
        (metadata.types.map(|types| types.kind), metadata.metadata.name),
        (Some("PartialObjectMetadata".into()), Some("web".into()))
    );
    assert_eq!(api.list_metadata(&ListParams::default()).await.expect("a list of metadata").items.len(), 2);
    live.stop().await;
}

#[tokio::test]
async fn server_side_apply_has_owners_and_conflicts() {
    let live = Live::start().await;
    let client = client(&live).await;
    let api = containers(&client);
    let wish = |image: &str| {
        Patch::Apply(json!({"apiVersion": "gantry.dev/v1", "kind": "Container", "metadata": {"name": "web"}, "spec": {"image": image}}))
    };
    api.patch("web", &PatchParams::apply("first"), &wish("a:1")).await.expect("apply");
    let conflict = refused(api.patch("web", &PatchParams::apply("second"), &wish("b:1")).await);
    assert!(conflict.is_conflict() && conflict.message.contains("conflict with \"first\": .spec.image"), "{conflict}");
    let causes = conflict.details.as_ref().map(|details| details.causes.clone()).unwrap_or_default();
    assert_eq!(causes.iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>(), [".spec.image"]);
    let forced = api.patch("web", &PatchParams::apply("second").force(), &wish("b:1")).await.expect("force");
    let managers: Vec<_> = forced.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
    assert!(managers.contains(&"second".to_owned()), "{managers:?}");
    assert_eq!(refused(api.patch("web", &PatchParams::default(), &wish("b:1")).await).code, 422, "an apply needs a manager");
    live.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_by_selectors_and_at_revisions() {
    let live = Live::start().await;
    let client = client(&live).await;
    let api = config_maps(&client);
    for n in 0..7 {
        api.create(&PostParams::default(), &config_map(&format!("m{n}"), "1")).await.expect("create");
    }
    let mut names = BTreeSet::new();
    let mut page = ListParams::default().limit(3);
    let revision = loop {
        let list = api.list(&page).await.expect("a page");
        names.extend(list.iter().map(|map| map.name_any()));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = ListParams::default().limit(3).continue_token(&token),
            None => break list.metadata.resource_version.expect("a revision"),
        }
    };
    assert_eq!(names.len(), 7);
    let one = api.list(&ListParams::default().labels("app=test").fields("metadata.name=m3")).await.expect("a selection");
    assert_eq!(one.items.len(), 1);
    let exact =
        ListParams { resource_version: Some(revision), version_match: Some(kube::api::VersionMatch::Exact), ..ListParams::default() };
    api.delete("m0", &DeleteParams::default()).await.expect("delete");
    assert_eq!(api.list(&exact).await.expect("a list of the past").items.len(), 7);
    assert_eq!(refused(api.list(&ListParams::default().fields("data.a=1")).await).code, 400);

    let uid = api.get("m1").await.expect("get").uid();
    let other = DeleteParams::default().preconditions(Preconditions { uid: Some("another".into()), resource_version: None });
    assert!(refused(api.delete("m1", &other).await).is_conflict());
    let gone =
        api.delete("m1", &DeleteParams::foreground().preconditions(Preconditions { uid: uid.clone(), resource_version: None })).await;
    let waits = gone.expect("delete").left().expect("foreground deletion marks first");
    assert!(waits.metadata.deletion_timestamp.is_some() && waits.finalizers() == ["foregroundDeletion"]);
    let deleted = api.delete("m2", &DeleteParams::background()).await.expect("delete").right().expect("a Status");
    assert!(deleted.is_success() && deleted.details.is_some_and(|details| details.name == "m2" && !details.uid.is_empty()));
    let all = api.delete_collection(&DeleteParams::default().dry_run(), &ListParams::default()).await.expect("a dry run");
    assert!(all.left().is_some_and(|list| list.items.len() == 5));
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=test")).await.expect("delete the collection");
    assert_eq!(api.list(&ListParams::default()).await.expect("list").items.len(), 1, "the marked one has its finalizer still");
    live.stop().await;
}

#[tokio::test]
async fn watches_and_reflectors_follow() {
    let live = Live::start().await;
    let client = client(&live).await;
    let api = config_maps(&client);
    api.create(&PostParams::default(), &config_map("old", "1")).await.expect("create");
    let from = api.list(&ListParams::default()).await.expect("list").metadata.resource_version.expect("a revision");
    let mut raw = Box::pin(api.watch(&WatchParams::default().timeout(60), &from).await.expect("watch"));
    api.create(&PostParams::default(), &config_map("new", "1")).await.expect("create");
    api.delete("old", &DeleteParams::default()).await.expect("delete");
    let first = within("an event", raw.try_next()).await.expect("an event");
    assert!(matches!(first, Some(WatchEvent::Added(map)) if map.name_any() == "new"));
    let second = within("an event", raw.try_next()).await.expect("an event");
    assert!(matches!(second, Some(WatchEvent::Deleted(map)) if map.name_any() == "old"));
    let expired = api.watch(&WatchParams::default(), "1").await;
    if let Ok(stream) = expired {
        let ends = within("the end", Box::pin(stream).try_next()).await;
        assert!(matches!(ends, Ok(Some(WatchEvent::Added(_) | WatchEvent::Error(_)))), "{ends:?}");
    }

    for streaming in [false, true] {
        let config = if streaming { watcher::Config::default().streaming_lists() } else { watcher::Config::default().page_size(1) };
        let (store, writer) = reflector::store();
        let follow = reflector(writer, watcher(api.clone(), config)).default_backoff().touched_objects();
        let follow = tokio::spawn(follow.for_each(|_| async {}));
        within("the store", store.wait_until_ready()).await.expect("the reflector lives");
        let name = format!("seen{streaming}");
        assert_eq!(store.state().iter().filter(|map| map.name_any().starts_with("new")).count(), 1);
        api.create(&PostParams::default(), &config_map(&name, "1")).await.expect("create");
        let mut look = tokio::time::interval(Duration::from_millis(5));
        within("the new one in the store", async {
            while !store.state().iter().any(|map| map.name_any() == name) {
                look.tick().await;
            }
        })
        .await;
        follow.abort();
    }
    let partial: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(client.clone(), "default", &ours("Container"));
    let mut metadata = Box::pin(watcher(partial, watcher::Config::default()).applied_objects());
    containers(&client).create(&PostParams::default(), &container("web")).await.expect("create");
    let seen = within("metadata", metadata.try_next()).await.expect("an event").expect("an object");
    assert_eq!((seen.types.map(|types| types.kind), seen.metadata.name), (Some("PartialObjectMetadata".into()), Some("web".into())));
    live.stop().await;
}

struct Counts {
    client: Client,
    applied: AtomicUsize,
    cleaned: AtomicUsize,
}

async fn reconcile(object: Arc<DynamicObject>, counts: Arc<Counts>) -> Result<Action, kube::runtime::finalizer::Error<std::io::Error>> {
    let counts = &counts;
    let api = containers(&counts.client);
    finalizer(&api, "example.com/test", object, |event| async move {
        match event {
            FinalizerEvent::Apply(_) => counts.applied.fetch_add(1, Ordering::SeqCst),
            FinalizerEvent::Cleanup(_) => counts.cleaned.fetch_add(1, Ordering::SeqCst),
        };
        Ok(Action::await_change())
    })
    .await
}

#[tokio::test]
async fn a_controller_with_a_finalizer_sees_every_object_come_and_go() {
    let live = Live::start().await;
    let client = client(&live).await;
    let api = containers(&client);
    let counts = Arc::new(Counts { client: client.clone(), applied: AtomicUsize::new(0), cleaned: AtomicUsize::new(0) });
    let controller = Controller::new_with(api.clone(), watcher::Config::default(), ours("Container"))
        .owns(config_maps(&client), watcher::Config::default())
        .run(reconcile, |_, error, _| panic!("reconcile: {error}"), counts.clone());
    let controller = tokio::spawn(controller.for_each(|_| async {}));
    api.create(&PostParams::default(), &container("web")).await.expect("create");
    let held =
        |object: Option<&DynamicObject>| object.is_some_and(|object| object.finalizers().iter().any(|held| held == "example.com/test"));
    let seen = within("the finalizer", await_condition(api.clone(), "web", held)).await.expect("the condition").expect("an object");
    api.delete("web", &DeleteParams::default()).await.expect("delete");
    let uid = seen.uid().expect("a uid");
    within("it to be gone", await_condition(api.clone(), "web", conditions::is_deleted(&uid))).await.expect("the condition");
    assert!(counts.applied.load(Ordering::SeqCst) >= 1);
    assert_eq!(counts.cleaned.load(Ordering::SeqCst), 1);
    controller.abort();
    live.stop().await;
}

#[tokio::test]
async fn discovery_in_both_forms_finds_the_same() {
    let live = Live::start().await;
    let client = client(&live).await;
    assert_eq!(client.apiserver_version().await.expect("the version").major, "1");
    let plain = Discovery::new(client.clone()).run().await.expect("discovery");
    let aggregated = Discovery::new(client.clone()).run_aggregated().await.expect("aggregated discovery");
    let kinds = |discovery: &Discovery| {
        let resources = discovery.groups().flat_map(|group| group.recommended_resources());
        resources
            .map(|(resource, capabilities)| (resource.api_version, resource.kind, resource.plural, capabilities.operations.len()))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(kinds(&plain), kinds(&aggregated));
    for discovery in [plain, aggregated] {
        let (resource, capabilities) = discovery.resolve_gvk(&GroupVersionKind::gvk("gantry.dev", "v1", "Container")).expect("Containers");
        assert_eq!((resource.plural.as_str(), &capabilities.scope), ("containers", &Scope::Namespaced));
        assert!(
            capabilities.supports_operation(verbs::WATCH)
                && capabilities.subresources.iter().any(|(part, _)| part.plural.ends_with("status"))
        );
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
        api.list(&ListParams::default()).await.expect("list what was discovered");
    }
    live.stop().await;
}

#[tokio::test]
async fn core_kinds_have_their_types_and_pods_can_be_evicted() {
    let live = Live::start().await;
    let client = client(&live).await;
    let (post, list) = (PostParams::default(), ListParams::default());
    let nodes = Api::<Node>::all(client.clone());
    nodes.create(&post, &serde_json::from_value(json!({"metadata": {"name": "here"}})).expect("a Node")).await.expect("create");
    nodes.cordon("here").await.expect("cordon");
    assert_eq!(nodes.get("here").await.expect("get").spec.and_then(|spec| spec.unschedulable), Some(true));
    nodes.uncordon("here").await.expect("uncordon");
    let secrets = Api::<Secret>::namespaced(client.clone(), "default");
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).expect("a Secret");
    assert_eq!(secrets.create(&post, &secret).await.expect("create").data.expect("data")["k"].0, b"v");
    let account =
        serde_json::from_value(json!({"metadata": {"name": "ci"}, "imagePullSecrets": [{"name": "s"}]})).expect("a ServiceAccount");
    Api::<ServiceAccount>::namespaced(client.clone(), "default").create(&post, &account).await.expect("create");
    let maps = config_maps(&client);
    let mut entry = maps.entry("settings").await.expect("look").or_insert(|| config_map("settings", "1"));
    entry.commit(&post).await.expect("create by entry");
    entry.get_mut().data.get_or_insert_default().insert("b".into(), "2".into());
    entry.commit(&post).await.expect("update by entry");
    assert!(Api::<Service>::all(client.clone()).list(&list).await.expect("list").items.is_empty());
    Api::<Event>::all(client.clone()).list(&list).await.expect("list");
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease").list(&list).await.expect("list");
    assert_eq!(leases.items[0].spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()), Some("here"));
    assert_eq!(
        Api::<Namespace>::all(client.clone()).get_status("default").await.expect("get").status.and_then(|s| s.phase).as_deref(),
        Some("Active")
    );

    let made = containers(&client).create(&post, &container("web")).await.expect("create");
    let bind = serde_json::to_vec(&json!({"nodeName": "here"})).expect("JSON");
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let request = http::Request::post("/apis/gantry.dev/v1/namespaces/default/containers/web/binding").body(bind).expect("a request");
    client.request::<Value>(request).await.expect("bind");
    containers(&client)
        .patch_status("web", &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Running"}})))
        .await
        .expect("status");
    within("the pod to run", await_condition(pods.clone(), "web", conditions::is_pod_running())).await.expect("the condition");
    let pod = pods.get("web").await.expect("get");
    assert_eq!(pod.owner_references()[0].uid, made.uid().expect("a uid"));
    let dry = EvictParams { post_options: PostParams { dry_run: true, ..PostParams::default() }, ..EvictParams::default() };
    assert!(pods.evict("web", &dry).await.expect("a dry run").is_success());
    assert!(pods.get("web").await.expect("get").metadata.deletion_timestamp.is_none());
    assert!(pods.evict("web", &EvictParams::default()).await.expect("evict").is_success());
    containers(&client)
        .patch("web", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .expect("let go");
    within("the pod to be gone", await_condition(pods.clone(), "web", conditions::is_deleted(&pod.uid().expect("a uid"))))
        .await
        .expect("the condition");
    assert_eq!(refused(pods.create(&post, &pod).await).code, 405);
    live.stop().await;
}
