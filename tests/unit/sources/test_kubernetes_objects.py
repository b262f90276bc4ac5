"""Which object a document is, and Namespace, Node and Pod as model values."""

from __future__ import annotations

import pytest
import yaml

from meshd.errors import InvalidObject
from meshd.model import Namespace, Node, Workload, parse_address
from meshd.sources.kubernetes.objects import Context, Converted, convert, identify, object_name
from meshd.sources.kubernetes.types import ObjectName

CONTEXT = Context(source="manifests", cluster="cm-1", node="node-1")


def converted(text: str) -> Converted:
    raw = yaml.safe_load(text)
    return convert(raw, identify(raw), CONTEXT)


def pod(
    spec: str = "{nodeName: node-1}", status: str = "{phase: Running}", annotations: str = "{}"
) -> Converted:
    return converted(f"""
        apiVersion: v1
        kind: Pod
        metadata: {{name: x-wing.1, namespace: galaxy, annotations: {annotations}}}
        spec: {spec}
        status: {status}
    """)


IN_NETNS = "{meshd.io/netns: /run/netns/x-wing}"


def test_a_pod_of_this_node_with_a_network_namespace_is_a_workload() -> None:
    outcome = pod(
        status="{phase: Running, podIP: 10.1.0.7, podIPs: [{ip: 10.1.0.7}, {ip: 'fd00::7'}]}",
        annotations=IN_NETNS,
    )
    addresses = (parse_address("10.1.0.7"), parse_address("fd00::7"))
    expected = Workload("galaxy", "x-wing.1", "manifests", "/run/netns/x-wing", addresses, labels=())
    assert expected == outcome.value


def test_a_pod_has_labels_and_a_service_account_and_a_namespace_labels() -> None:
    value = converted("""
        apiVersion: v1
        kind: Pod
        metadata:
          {name: a, namespace: n, labels: {b/c: "", a: x_y.z}, annotations: {meshd.io/netns: /n}}
        spec: {nodeName: node-1, serviceAccountName: robot.1}
    """).value
    assert isinstance(value, Workload)
    assert (value.labels, value.service_account) == ((("a", "x_y.z"), ("b/c", "")), "robot.1")
    namespace = converted("{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {b: '1', a: '2'}}}")
    assert isinstance(namespace.value, Namespace)
    assert namespace.value.labels == (("a", "2"), ("b", "1"))


def test_a_pod_with_one_address_may_name_it_in_pod_ip_only() -> None:
    value = pod(status="{podIP: 10.1.0.7}", annotations=IN_NETNS).value
    assert isinstance(value, Workload)
    assert (parse_address("10.1.0.7"),) == value.addresses


@pytest.mark.parametrize(
    ("spec", "status", "annotations"),
    [
        pytest.param("{nodeName: node-2}", "{}", IN_NETNS, id="another node"),
        pytest.param("null", "{}", IN_NETNS, id="not scheduled"),
        pytest.param("{nodeName: node-1}", "{}", "{}", id="no network namespace"),
        pytest.param("{nodeName: node-1}", "{phase: Succeeded}", IN_NETNS, id="succeeded"),
        pytest.param("{nodeName: node-1}", "{phase: Failed}", IN_NETNS, id="failed"),
    ],
)
def test_another_pod_is_a_good_object_that_says_nothing_here(
    spec: str, status: str, annotations: str
) -> None:
    assert Converted(None) == pod(spec, status, annotations)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("{meshd.io/netns: /n}", None),
        ("{meshd.io/netns: /n, meshd.io/socket-lb: 'false'}", False),
        ("{meshd.io/netns: /n, meshd.io/socket-lb: 'true'}", True),
    ],
)
def test_a_pod_can_be_left_out_of_translation(annotations: str, expected: bool | None) -> None:
    value = pod(annotations=annotations).value
    assert isinstance(value, Workload)
    assert expected is value.socket_lb


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("{meshd.io/netns: /n}", None),
        ("{meshd.io/netns: /n, meshd.io/short-circuit: 'false'}", False),
        ("{meshd.io/netns: /n, meshd.io/short-circuit: 'true'}", True),
    ],
)
def test_a_pod_can_be_selected_for_the_short_circuit(annotations: str, expected: bool | None) -> None:
    value = pod(annotations=annotations).value
    assert isinstance(value, Workload)
    assert expected is value.short_circuit


@pytest.mark.parametrize(
    ("annotations", "global_services", "socket_lb", "short_circuit"),
    [
        ("{}", None, None, None),
        ("{meshd.io/global: 'true'}", True, None, None),
        ("{meshd.io/global: 'false'}", False, None, None),
        ("{clustermesh.cilium.io/global: 'false'}", False, None, None),
        # There it only lets annotated services be global, which is so where nothing is said.
        ("{clustermesh.cilium.io/global: 'true'}", None, None, None),
        ("{meshd.io/global: 'true', clustermesh.cilium.io/global: 'false'}", True, None, None),
        ("{meshd.io/socket-lb: 'false'}", None, False, None),
        ("{meshd.io/short-circuit: 'true'}", None, None, True),
    ],
)
def test_a_namespace_says_what_holds_for_its_services_and_pods(
    annotations: str, global_services: bool | None, socket_lb: bool | None, short_circuit: bool | None
) -> None:
    outcome = converted(f"""
        apiVersion: v1
        kind: Namespace
        metadata: {{name: galaxy, annotations: {annotations}}}
    """)
    assert Namespace("galaxy", "manifests", global_services, socket_lb, short_circuit) == outcome.value


def test_a_node_has_addresses_pod_ranges_and_a_zone() -> None:
    outcome = converted("""
        apiVersion: v1
        kind: Node
        metadata: {name: node-1, labels: {topology.kubernetes.io/zone: west}}
        spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}
        status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: Hostname, address: node-1}]}
    """)
    addresses = (parse_address("172.18.0.2"),)
    assert (
        Node("cm-1", "node-1", "manifests", addresses, ("10.1.0.0/24", "fd00:1::/64"), "west")
        == outcome.value
    )


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[1, 2]", "object"),
        ("just words", "object"),
        ("{metadata: {name: a}}", "kind"),
        ("{kind: Service, metadata: {name: a}}", "apiVersion"),
        ("{apiVersion: v1, kind: Service}", "metadata.name"),
        ("{apiVersion: v1, kind: Service, metadata: {name: 1000}}", "metadata.name"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a, namespace: 7}}", "metadata.namespace"),
    ],
)
def test_what_cannot_be_identified_is_refused_with_the_reason(text: str, field: str) -> None:
    with pytest.raises(InvalidObject) as refused:
        identify(yaml.safe_load(text))
    assert field == refused.value.field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}", "kind"),
        ("{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}", "kind"),
        ("{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: a}}", "apiVersion"),
        ("{apiVersion: v1, kind: Service, metadata: {name: Rebel}}", "metadata.name"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a.b}}", "metadata.name"),
        ("{apiVersion: v1, kind: Service, metadata: {name: a, namespace: a.b}}", "metadata.namespace"),
        ("{apiVersion: v1, kind: Node, metadata: {name: -a}}", "metadata.name"),
        (
            "{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.0.0.1/24]}}",
            "spec.podCIDRs[0]",
        ),
        (
            "{apiVersion: v1, kind: Node, metadata: {name: a},"
            " status: {addresses: [{type: InternalIP, address: x}]}}",
            "status.addresses[0].address",
        ),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: []}}", "metadata.labels"),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {meshd.io/socket-lb: 'off'}}}",
            "metadata.annotations[meshd.io/socket-lb]",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {meshd.io/netns: n}},"
            " spec: {nodeName: node-1}}",
            "metadata.annotations[meshd.io/netns]",
        ),
        # What would be more than one label in etcd.
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: 'a;b=c'}, annotations:"
            " {meshd.io/netns: /n}}, spec: {nodeName: node-1}}",
            "metadata.labels[app]",
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {'a=b': c}}}",
            "metadata.labels[a=b]",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {meshd.io/netns: /n}},"
            " spec: {nodeName: node-1, serviceAccountName: 'a;b'}}",
            "spec.serviceAccountName",
        ),
    ],
)
def test_a_bad_field_is_named_by_its_path(text: str, field: str) -> None:
    with pytest.raises(InvalidObject) as refused:
        converted(text)
    assert field == refused.value.field


@pytest.mark.parametrize("length", [1, 63])
def test_a_name_may_have_up_to_63_characters(length: int) -> None:
    name = "a" * length
    assert converted(f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}}}").value is not None


def test_a_name_of_64_characters_is_refused() -> None:
    with pytest.raises(InvalidObject):
        converted(f"{{apiVersion: v1, kind: Service, metadata: {{name: {'a' * 64}}}}}")


@pytest.mark.parametrize(
    "text",
    [
        "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,"
        " metadata: {name: a, namespace: n, labels: {kubernetes.io/service-name: s}}}",
        "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
        "{apiVersion: v1, kind: Node, metadata: {name: a}}",
        "{apiVersion: v1, kind: Pod, spec: {nodeName: node-1},"
        " metadata: {name: a, namespace: n, annotations: {meshd.io/netns: /n}}}",
    ],
)
def test_a_value_tells_which_object_it_came_from(text: str) -> None:
    value = converted(text).value
    assert value is not None
    assert identify(yaml.safe_load(text)) == object_name(value)


def test_an_object_without_a_namespace_is_in_default() -> None:
    raw = yaml.safe_load("{apiVersion: v1, kind: Service, metadata: {name: a}}")
    assert ObjectName("Service", "default", "a") == identify(raw)


def test_a_kind_of_another_group_is_another_object() -> None:
    raw = yaml.safe_load("{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}")
    assert identify(raw) == ObjectName("Service.serving.knative.dev", "default", "a")


def test_another_version_of_a_known_kind_is_the_same_object() -> None:
    raw = yaml.safe_load("{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: a}}")
    assert identify(raw) == ObjectName("EndpointSlice", "default", "a")
