"""Python's Kubernetes client as its users use it: typed core kinds (its models refuse what lacks a required field), the dynamic
client, watches, a loop as informers make it, and custom objects.

Run by `python_clients.rs` with the path of a kubeconfig; the server has a Namespace `default`, a Node `here` and a Container `bound` on it, and nothing else.
"""

import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException

PATIENCE_SECONDS = 30
OURS = dict(group="gantry.dev", version="v1", namespace="default", plural="containers")


def container(name, **spec):
    return {
        "apiVersion": "gantry.dev/v1",
        "kind": "Container",
        "metadata": {"name": name},
        "spec": {"image": "localhost/busybox:1", **spec},
    }


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"app": "test"}), data=data)


def refused(code, call, *arguments, **named):
    try:
        answer = call(*arguments, **named)
    except ApiException as error:
        assert error.status == code, f"{error.status} and not {code}: {error.body}"
        return error
    raise AssertionError(f"{code} was expected, not {answer}")


def typed_kinds(api):
    core = client.CoreV1Api(api)
    assert [node.metadata.name for node in core.list_node().items] == ["here"]
    assert core.read_namespace("default").status.phase == "Active"
    assert core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="py"))).metadata.uid
    secret = client.V1Secret(metadata=client.V1ObjectMeta(generate_name="s-"), string_data={"k": "v"})
    made = core.create_namespaced_secret("default", secret)
    assert made.metadata.name.startswith("s-") and made.data == {"k": "dg=="}
    core.create_namespaced_config_map("default", config_map("a", x="1"))
    refused(409, core.create_namespaced_config_map, "default", config_map("a", x="1"))
    assert core.create_namespaced_config_map("default", config_map("dry"), dry_run="All").metadata.name == "dry"
    refused(404, core.read_namespaced_config_map, "dry", "default")
    patched = core.patch_namespaced_config_map("a", "default", {"data": {"y": "2"}})
    assert patched.data == {"x": "1", "y": "2"}
    patched.data = {"z": "3"}
    replaced = core.replace_namespaced_config_map("a", "default", patched)
    assert replaced.data == {"z": "3"}
    error = refused(409, core.replace_namespaced_config_map, "a", "default", patched)
    assert "the object has been modified" in error.body
    account = client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="ci"), image_pull_secrets=[client.V1LocalObjectReference(name="s")])
    core.create_namespaced_service_account("default", account)
    for kind in ("service", "event", "secret", "config_map", "service_account", "pod"):
        listed = getattr(core, f"list_{kind}_for_all_namespaces")(limit=500)
        assert listed.metadata.resource_version, kind
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15))
    leases = client.CoordinationV1Api(api)
    leases.create_namespaced_lease("default", lease)
    assert leases.list_namespaced_lease("kube-node-lease").items[0].spec.holder_identity == "here"
    assert client.VersionApi(api).get_code().major == "1"
    assert any(group.name == "gantry.dev" for group in client.ApisApi(api).get_api_versions().groups)
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(verb="list", resource="pods"))
    )
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed
    rules = client.V1SelfSubjectRulesReview(spec=client.V1SelfSubjectRulesReviewSpec(namespace="default"))
    assert client.AuthorizationV1Api(api).create_self_subject_rules_review(rules).status.resource_rules[0].verbs == ["*"]
    assert client.AuthenticationV1Api(api).create_self_subject_review(client.V1SelfSubjectReview()).status.user_info.username == "admin"
    page = core.list_namespaced_config_map("default", limit=1, label_selector="app=test")
    assert len(page.items) == 1
    core.delete_namespaced_config_map("a", "default", propagation_policy="Background")
    core.delete_collection_namespaced_config_map("default", label_selector="app=test")


def custom_objects(api):
    custom = client.CustomObjectsApi(api)
    made = custom.create_namespaced_custom_object(**OURS, body=container("web"))
    assert made["metadata"]["generation"] == 1
    patched = custom.patch_namespaced_custom_object(**OURS, name="web", body={"spec": {"hostname": "web"}})
    assert patched["spec"]["hostname"] == "web" and patched["metadata"]["generation"] == 2
    status = custom.patch_namespaced_custom_object_status(**OURS, name="web", body={"status": {"phase": "Running"}})
    assert status["status"]["phase"] == "Running"
    patched["spec"]["workingDir"] = "/srv"
    refused(409, custom.replace_namespaced_custom_object, **OURS, name="web", body=patched)
    fresh = custom.get_namespaced_custom_object(**OURS, name="web")
    fresh["spec"]["workingDir"] = "/srv"
    custom.replace_namespaced_custom_object(**OURS, name="web", body=fresh)
    error = refused(400, custom.create_namespaced_custom_object, **OURS, body=container("bad", imagee="x"))
    assert "spec.imagee" in error.body
    everywhere = custom.list_cluster_custom_object("gantry.dev", "v1", "containers")
    assert [item["metadata"]["name"] for item in everywhere["items"]] == ["bound", "web"]


def pods(api):
    core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
    status = {"status": {"phase": "Running", "containerID": "gantry://1", "startedAt": "2026-01-01T00:00:00Z"}}
    custom.patch_namespaced_custom_object_status(**OURS, name="bound", body=status)
    (pod,) = core.list_namespaced_pod("default", field_selector="spec.nodeName=here").items
    assert pod.status.phase == "Running" and pod.status.container_statuses[0].name == "main"
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name="bound", namespace="default"))
    dry = client.V1Eviction(metadata=eviction.metadata, delete_options=client.V1DeleteOptions(dry_run=["All"]))
    core.create_namespaced_pod_eviction("bound", "default", dry)
    assert core.read_namespaced_pod("bound", "default").metadata.deletion_timestamp is None, "a dry run evicts nothing"
    core.create_namespaced_pod_eviction("bound", "default", eviction)
    assert core.read_namespaced_pod("bound", "default").metadata.deletion_timestamp
    custom.patch_namespaced_custom_object(**OURS, name="bound", body={"metadata": {"finalizers": None}})
    refused(404, core.read_namespaced_pod, "bound", "default")


def dynamic_client(api):
    found = dynamic.DynamicClient(api)
    containers = found.resources.get(api_version="gantry.dev/v1", kind="Container")
    containers.create(body=container("dyn"), namespace="default")
    refused(415, containers.patch, name="dyn", namespace="default", body={"spec": {"hostname": "d"}})
    merge = "application/merge-patch+json"
    assert containers.patch(name="dyn", namespace="default", body={"spec": {"hostname": "d"}}, content_type=merge).spec.hostname == "d"
    applied = containers.server_side_apply(body=container("dyn", user="1"), name="dyn", namespace="default", field_manager="py", force_conflicts=True)
    assert applied.spec.user == "1"
    refused(409, containers.server_side_apply, body=container("dyn", user="2"), name="dyn", namespace="default", field_manager="other")
    assert containers.status.get(name="dyn", namespace="default").kind == "Container"
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    maps.create(body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "1"}}, namespace="default")
    assert maps.patch(name="dyn", namespace="default", body={"data": {"b": "2"}}).data.to_dict() == {"a": "1", "b": "2"}
    containers.delete(name="dyn", namespace="default")
    maps.delete(name="dyn", namespace="default")


def watches(api):
    """As informers do it: list, then watch from the list's revision, and again from the last seen one."""
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map("default", config_map("first", n="0"))
    listed = core.list_namespaced_config_map("default", label_selector="app=test")
    known = {item.metadata.name: item for item in listed.items}
    revision = listed.metadata.resource_version
    done, failed = threading.Event(), []

    def follow():
        nonlocal revision
        try:
            while "stop" not in known:
                events = watch.Watch().stream(
                    core.list_namespaced_config_map, "default", label_selector="app=test",
                    resource_version=revision, timeout_seconds=2, allow_watch_bookmarks=True,
                )
                for event in events:
                    revision = event["raw_object"]["metadata"]["resourceVersion"]
                    if event["type"] == "DELETED":
                        known.pop(event["object"].metadata.name)
                    elif event["type"] != "BOOKMARK":
                        known[event["object"].metadata.name] = event["object"]
        except Exception as error:  # noqa: BLE001: it is told by the thread that waits
            failed.append(error)
        done.set()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    core.patch_namespaced_config_map("first", "default", {"data": {"n": "1"}})
    core.create_namespaced_config_map("default", config_map("second"))
    core.delete_namespaced_config_map("second", "default")
    core.create_namespaced_config_map("default", config_map("stop"))
    assert done.wait(PATIENCE_SECONDS), f"the last object was not seen, only {sorted(known)}"
    assert not failed, failed
    follower.join()
    assert sorted(known) == ["first", "stop"] and known["first"].data == {"n": "1"}
    synthetic = next(watch.Watch().stream(core.list_namespace, timeout_seconds=5))
    assert synthetic["type"] == "ADDED"


def main():
    config.load_kube_config(config_file=sys.argv[1])
    with client.ApiClient() as api:
        for part in (typed_kinds, custom_objects, pods, dynamic_client, watches):
            print(part.__name__, flush=True)
            part(api)


main()
