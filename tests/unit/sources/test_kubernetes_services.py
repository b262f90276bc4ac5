"""Service and EndpointSlice of Kubernetes: one row per rule, in as an object from YAML, out as a model value."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from meshd.errors import InvalidObject
from meshd.model import (
    Affinity,
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    OnStale,
    Protocol,
    Service,
    TrafficDistribution,
    parse_address,
)
from meshd.model.failover import format_ladder
from meshd.sources.kubernetes.objects import Context, Converted, convert, identify

CONTEXT = Context(source="manifests", cluster="cm-1", node="node-1")


def converted(text: str) -> Converted:
    raw = yaml.safe_load(text)
    return convert(raw, identify(raw), CONTEXT)


def service(spec: str, annotations: str = "{}") -> Converted:
    return converted(f"""
        apiVersion: v1
        kind: Service
        metadata: {{name: rebel-base, namespace: galaxy, annotations: {annotations}}}
        spec: {spec}
    """)


def service_value(spec: str = "{clusterIP: 10.96.0.1}", annotations: str = "{}") -> Service:
    value = service(spec, annotations).value
    assert isinstance(value, Service)
    return value


def endpoint_slice(rest: str, annotations: str = "{}") -> Converted:
    return converted(f"""
        apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata:
          name: rebel-base-x1
          namespace: galaxy
          annotations: {annotations}
          labels: {{kubernetes.io/service-name: rebel-base}}
        {rest}
    """)


def slice_value(rest: str, annotations: str = "{}") -> BackendSlice:
    value = endpoint_slice(rest, annotations).value
    assert isinstance(value, BackendSlice)
    return value


def frontend(address: str, port: int, protocol: Protocol = Protocol.TCP, name: str = "") -> Frontend:
    return Frontend(parse_address(address), port, protocol, name)


HTTP = "ports: [{port: 80}]"
BOTH = "ports: [{port: 80, name: http}, {port: 53, name: dns, protocol: UDP}]"


@pytest.mark.parametrize(
    ("spec", "frontends"),
    [
        pytest.param(
            f"{{clusterIP: 10.96.0.1, {HTTP}}}", [frontend("10.96.0.1", 80)], id="one address, TCP by default"
        ),
        pytest.param(
            f"{{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], {HTTP}}}",
            [frontend("10.96.0.1", 80), frontend("fd00::1", 80)],
            id="dual stack",
        ),
        pytest.param(
            f"{{clusterIP: 10.96.0.1, {BOTH}}}",
            [frontend("10.96.0.1", 80, name="http"), frontend("10.96.0.1", 53, Protocol.UDP, "dns")],
            id="each port by its name",
        ),
        pytest.param(
            "{clusterIP: 10.96.0.1, ports: [{port: 80, name: web, targetPort: http}]}",
            [frontend("10.96.0.1", 80, name="web")],
            id="a named target port is joined by the name of the service port",
        ),
        pytest.param(f"{{clusterIP: None, {HTTP}}}", [], id="headless"),
        pytest.param(f"{{clusterIPs: ['None'], {HTTP}}}", [], id="headless in clusterIPs"),
        pytest.param("{type: ExternalName, externalName: example.org}", [], id="external name"),
        pytest.param(
            f"{{type: ExternalName, externalName: example.org, clusterIP: 10.96.0.1, {HTTP}}}",
            [],
            id="external name with an address left over from before",
        ),
        pytest.param(
            f"{{type: NodePort, clusterIP: 10.96.0.1, {HTTP}}}", [frontend("10.96.0.1", 80)], id="node port"
        ),
        pytest.param("{clusterIP: 10.96.0.1, ports: null}", [], id="no ports"),
        pytest.param("null", [], id="no spec"),
    ],
)
def test_frontends_are_the_cluster_addresses_times_the_ports(spec: str, frontends: list[Frontend]) -> None:
    assert tuple(frontends) == service_value(spec).frontends


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param(
            "{clusterIP: 10.96.0.1, ports: [{port: 80, name: a}, {port: 81, name: s, protocol: SCTP}]}",
            "spec.ports[1].protocol",
            id="SCTP",
        ),
        pytest.param("{ports: [{port: 80}]}", "spec.clusterIP", id="no address yet"),
    ],
)
def test_what_is_not_translated_is_remarked_and_the_rest_works(spec: str, field: str) -> None:
    outcome = service(spec)
    assert isinstance(outcome.value, Service)
    assert [field] == [remark.field for remark in outcome.remarks]


def test_the_other_ports_of_a_service_with_an_sctp_port_are_translated() -> None:
    value = service_value(
        "{clusterIP: 10.96.0.1, ports: [{port: 80, name: s, protocol: SCTP}, {port: 80, name: t}]}"
    )
    assert (frontend("10.96.0.1", 80, name="t"),) == value.frontends


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("null", TrafficDistribution.ANY),
        ("PreferClose", TrafficDistribution.SAME_ZONE),
        ("PreferSameZone", TrafficDistribution.SAME_ZONE),
        ("PreferSameNode", TrafficDistribution.SAME_NODE),
    ],
)
def test_traffic_distribution_means(said: str, meant: TrafficDistribution) -> None:
    assert (
        service_value(f"{{clusterIP: 10.96.0.1, trafficDistribution: {said}}}").traffic_distribution is meant
    )


def test_a_traffic_distribution_that_is_not_known_is_remarked() -> None:
    outcome = service("{clusterIP: 10.96.0.1, trafficDistribution: PreferWarm}")
    assert [remark.field for remark in outcome.remarks] == ["spec.trafficDistribution"]
    assert isinstance(outcome.value, Service)
    assert outcome.value.traffic_distribution is TrafficDistribution.ANY


def test_hints_say_for_whom_a_backend_is() -> None:
    (backend,) = slice_value("""
        addressType: IPv4
        endpoints:
        - addresses: [10.1.0.1]
          hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: n1}]}
    """).backends
    assert (backend.for_zones, backend.for_nodes) == (("z1", "z2"), ("n1",))


@pytest.mark.parametrize(
    ("spec", "timeout_s"),
    [
        ("{}", 0),
        ("{sessionAffinity: None}", 0),
        ("{sessionAffinity: ClientIP}", 10800),
        ("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}}", 10800),
        ("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}", 5),
        ("{sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}", 0),
    ],
)
def test_session_affinity_has_the_timeout_of_kubernetes(spec: str, timeout_s: int) -> None:
    assert timeout_s == service_value(spec).affinity_timeout_s


def test_policy_and_readiness_of_a_service_are_taken_over() -> None:
    value = service_value("{internalTrafficPolicy: Local, publishNotReadyAddresses: true}")
    assert (value.internal_traffic_local, value.publish_not_ready) == (True, True)
    plain = service_value("{internalTrafficPolicy: Cluster}")
    assert (plain.internal_traffic_local, plain.publish_not_ready) == (False, False)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("{}", None),
        ("{service.cilium.io/global: 'true'}", True),
        ("{service.cilium.io/global: 'TRUE'}", True),
        ("{service.cilium.io/global: 'yes'}", False),
        ("{io.cilium/global-service: 'true'}", True),
        ("{meshd.io/global: 'true'}", True),
        ("{meshd.io/global: 'false', service.cilium.io/global: 'true'}", False),
        ("{service.cilium.io/global: 'false', io.cilium/global-service: 'true'}", False),
    ],
)
def test_a_service_is_global_by_the_annotation_of_the_highest_rank(
    annotations: str, expected: bool | None
) -> None:
    assert expected is service_value(annotations=annotations).is_global


@pytest.mark.parametrize(
    ("annotations", "shared", "affinity"),
    [
        ("{}", True, Affinity.NONE),
        ("{service.cilium.io/shared: 'false'}", False, Affinity.NONE),
        ("{io.cilium/shared-service: 'false'}", False, Affinity.NONE),
        ("{meshd.io/shared: 'true', service.cilium.io/shared: 'false'}", True, Affinity.NONE),
        ("{service.cilium.io/affinity: local}", True, Affinity.LOCAL),
        ("{io.cilium/service-affinity: remote}", True, Affinity.REMOTE),
        ("{service.cilium.io/affinity: nearest}", True, Affinity.NONE),
        ("{meshd.io/affinity: local, service.cilium.io/affinity: remote}", True, Affinity.LOCAL),
    ],
)
def test_sharing_and_affinity_follow_their_annotations(
    annotations: str, shared: bool, affinity: Affinity
) -> None:
    value = service_value(annotations=annotations)
    assert (shared, affinity) == (value.shared, value.affinity)


def test_a_ladder_and_its_minimum_are_annotations() -> None:
    value = service_value(
        annotations="{meshd.io/failover: 'local, cluster:cm-2 weight 3', "
        "meshd.io/min-healthy-percent: '50', meshd.io/ramp: '90'}"
    )
    assert format_ladder(value.failover) == "local, cluster:cm-2 weight 3"
    assert (value.min_healthy_percent, value.ramp_s) == (50, 90)
    plain = service_value()
    assert (plain.failover, plain.min_healthy_percent, plain.ramp_s) == ((), None, 0)


def test_a_bad_ladder_is_refused_with_its_part() -> None:
    with pytest.raises(InvalidObject, match="'near' is not one of node, zone, region, local") as refused:
        service("{}", "{meshd.io/failover: 'local, near'}")
    assert refused.value.object_name == "Service galaxy/rebel-base"


def test_an_external_name_can_be_global_without_having_frontends() -> None:
    value = service_value("{type: ExternalName}", "{service.cilium.io/global: 'true'}")
    assert (value.is_global, value.frontends) == (True, ())


def test_what_becomes_of_stale_backends_is_said_by_annotation() -> None:
    assert service_value(annotations="{meshd.io/on-stale: Deprioritise}").on_stale is OnStale.DEPRIORITISE
    assert service_value().on_stale is None


def test_closing_connections_on_failover_is_asked_for_by_annotation() -> None:
    assert service_value(annotations="{meshd.io/close-on-failover: 'true'}").close_on_failover
    assert not service_value(annotations="{meshd.io/close-tcp-on-removal: 'true'}").close_on_failover


def test_closing_tcp_connections_is_asked_for_by_annotation() -> None:
    assert service_value(annotations="{meshd.io/close-tcp-on-removal: 'true'}").close_tcp
    assert not service_value().close_tcp


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        ("null", True, True, False),
        ("{}", True, True, False),
        ("{ready: true}", True, True, False),
        ("{ready: null, serving: null}", True, True, False),
        ("{ready: false}", False, False, False),
        ("{ready: false, serving: true, terminating: true}", False, True, True),
        ("{ready: false, serving: false, terminating: true}", False, False, True),
        ("{ready: true, terminating: true}", True, True, True),
    ],
)
def test_absent_conditions_mean_what_kubernetes_says(
    conditions: str, ready: bool, serving: bool, terminating: bool
) -> None:
    value = slice_value(f"""addressType: IPv4
        endpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]
    """)
    (backend,) = value.backends
    assert (ready, serving, terminating) == (backend.ready, backend.serving, backend.terminating)


def test_a_slice_names_its_service_its_ports_and_where_each_backend_runs() -> None:
    value = slice_value("""addressType: IPv6
        ports:
        - {port: 8080, name: http}
        - {port: 5353, name: dns, protocol: UDP}
        endpoints:
        - {addresses: ['fd00::7', 'fd00::8'], nodeName: node-2, zone: west}
    """)
    ports = (BackendPort("http", Protocol.TCP, 8080), BackendPort("dns", Protocol.UDP, 5353))
    backend = Backend(parse_address("fd00::7"), ports, node="node-2", zone="west", weight=100)
    assert (backend,) == value.backends
    assert (
        str(value.service),
        value.name,
        value.source,
        value.cluster,
    ) == ("galaxy/rebel-base", "rebel-base-x1", "manifests", "cm-1")


def test_a_slice_may_give_its_backends_a_weight() -> None:
    rest = """addressType: IPv4
        endpoints: [{addresses: [10.0.0.1]}]
    """
    assert slice_value(rest, "{meshd.io/weight: '7'}").backends[0].weight == 7


def test_a_port_without_a_number_and_an_sctp_port_are_left_out_of_a_slice() -> None:
    outcome = endpoint_slice("""addressType: IPv4
        ports: [{name: any}, {port: 7, name: s, protocol: SCTP}, {port: 80, name: http}]
        endpoints: [{addresses: [10.0.0.1]}]
    """)
    assert isinstance(outcome.value, BackendSlice)
    assert (BackendPort("http", Protocol.TCP, 80),) == outcome.value.backends[0].ports
    assert [remark.field for remark in outcome.remarks] == ["ports[0].port", "ports[1].protocol"]


def test_a_slice_without_endpoints_is_a_slice_without_backends() -> None:
    assert slice_value("addressType: IPv4\n        endpoints: null").backends == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("{clusterIP: 10.96.0.300}", "spec.clusterIP"),
        ("{clusterIPs: [10.96.0.1, 10.96.0.2]}", "spec.clusterIPs"),
        ("{clusterIPs: [10.96.0.1, 'fe80::1%eth0']}", "spec.clusterIPs[1]"),
        ("{clusterIP: 10.96.0.2, clusterIPs: [10.96.0.1]}", "spec.clusterIP"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 65536}]}", "spec.ports[0].port"),
        ("{clusterIP: 10.96.0.1, ports: [{port: '80'}]}", "spec.ports[0].port"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 80, name: a}, {name: b}]}", "spec.ports[1].port"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 81}]}", "spec.ports[0].name"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 80, name: a}, {port: 81, name: a}]}", "spec.ports[1].name"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 80, name: a}, {port: 80, name: b}]}", "spec.ports[1]"),
        ("{clusterIP: 10.96.0.1, ports: [{port: 80, protocol: tcp}]}", "spec.ports[0].protocol"),
        ("{type: Cluster}", "spec.type"),
        ("{sessionAffinity: ClientIp}", "spec.sessionAffinity"),
        (
            "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        ("{internalTrafficPolicy: local}", "spec.internalTrafficPolicy"),
    ],
)
def test_a_bad_field_of_a_service_is_named_by_its_path(spec: str, field: str) -> None:
    with pytest.raises(InvalidObject) as refused:
        service(spec)
    assert ("Service galaxy/rebel-base", field) == (refused.value.object_name, refused.value.field)


@pytest.mark.parametrize(
    ("annotations", "field"),
    [
        ("{meshd.io/global: 'yes'}", "metadata.annotations[meshd.io/global]"),
        ("{meshd.io/affinity: nearest}", "metadata.annotations[meshd.io/affinity]"),
        ("{meshd.io/failover: 'local, near'}", "metadata.annotations[meshd.io/failover]"),
        ("{meshd.io/ramp: 1m}", "metadata.annotations[meshd.io/ramp]"),
        ("{meshd.io/min-healthy-percent: '101'}", "metadata.annotations[meshd.io/min-healthy-percent]"),
        ("{meshd.io/on-stale: maybe}", "metadata.annotations[meshd.io/on-stale]"),
        ("{meshd.io/close-tcp-on-removal: '1'}", "metadata.annotations[meshd.io/close-tcp-on-removal]"),
        ("{meshd.io/close-on-failover: 'yes'}", "metadata.annotations[meshd.io/close-on-failover]"),
        ("{a: b, service.cilium.io/global: true}", "metadata.annotations[service.cilium.io/global]"),
    ],
)
def test_a_bad_annotation_of_a_service_is_named(annotations: str, field: str) -> None:
    with pytest.raises(InvalidObject) as refused:
        service("{}", annotations)
    assert field == refused.value.field


@pytest.mark.parametrize(
    ("rest", "field"),
    [
        ("addressType: FQDN\n        endpoints: [{addresses: [a.example.org]}]", "addressType"),
        ("endpoints: []", "addressType"),
        ("addressType: IPv6\n        endpoints: [{addresses: [10.0.0.1]}]", "endpoints[0].addresses[0]"),
        ("addressType: IPv4\n        endpoints: [{addresses: [10.0.0]}]", "endpoints[0].addresses[0]"),
        ("addressType: IPv4\n        endpoints: [{addresses: []}]", "endpoints[0].addresses"),
        ("addressType: IPv4\n        ports: [{port: 70000}]", "ports[0].port"),
        ("addressType: IPv4\n        ports: [{port: 1}, {port: 2}]", "ports[1].name"),
        (
            "addressType: IPv4\n        endpoints: [{addresses: [10.0.0.1], conditions: {ready: 'no'}}]",
            "endpoints[0].conditions.ready",
        ),
    ],
)
def test_a_bad_field_of_a_slice_is_named_by_its_path(rest: str, field: str) -> None:
    with pytest.raises(InvalidObject) as refused:
        endpoint_slice(rest)
    assert ("EndpointSlice galaxy/rebel-base-x1", field) == (refused.value.object_name, refused.value.field)


@pytest.mark.parametrize("weight", ["0", "65536", "-1", "x", "", "²", "9" * 5000])
def test_a_weight_outside_1_to_65535_is_refused(weight: str) -> None:
    with pytest.raises(InvalidObject, match=r"meshd\.io/weight"):
        endpoint_slice("addressType: IPv4", f"{{meshd.io/weight: '{weight}'}}")


def test_a_slice_that_names_no_service_is_refused() -> None:
    raw: dict[str, Any] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "x"},
        "addressType": "IPv4",
    }
    with pytest.raises(InvalidObject, match=r"kubernetes\.io/service-name"):
        convert(raw, identify(raw), CONTEXT)
