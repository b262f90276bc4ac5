"""What a configuration may say, and how it is refused: file, option and reason in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd import config
from meshd.errors import ConfigError

PEERS = "clustermesh: {peers: /etc/meshd/peers}"

REFUSED = [
    ("{", "configuration {path}: "),
    ("nodeNam: a", "unknown field `nodeNam`"),
    ("clusterName: cm-1", "missing required field `nodeName`"),
    ("nodeName: a\nmaps: {slots: many}", r"Expected `int`, got `str` - at `\$.maps.slots`"),
    ("nodeName: a\napi: {listen: '0.0.0.0:4245'}", "api.listen needs api.tls"),
    (f"nodeName: a\nclusterName: cm-1\nclusterId: 256\n{PEERS}", "it must be 1..255"),
    (f"nodeName: a\nclusterId: 1\n{PEERS}", "something else than `default`"),
    ("nodeName: a\nclustermesh: {electionLeaseS: 900}", "must be shorter than dataLeaseS"),
    ("nodeName: a\nclustermesh: {maxConnectedClusters: 300}", "must be 255 or 511"),
    ("nodeName: a\nclustermesh: {endpointSlicesExportMode: telepathy}", "endpointSlicesExportMode"),
    ("nodeName: a\nclustermesh: {holdS: -1}", "clustermesh.holdS is -1, it cannot be negative"),
    ("nodeName: a\nclustermesh: {staleAfterS: .nan}", "clustermesh.staleAfterS is nan"),
    ("nodeName: a\nclustermesh: {onStale: never}", "onStale"),
    (
        "nodeName: a\npodNetwork: {routing: bridge}",
        r"Invalid enum value 'bridge' - at `\$.podNetwork.routing`",
    ),
    ("nodeName: a\npodNetwork: {masqueradePorts: many}", "is 'many', it must be FIRST-LAST"),
    ("nodeName: a\npodNetwork: {masqueradePorts: 60000-60010}", "it must be at least 256 ports"),
    ("nodeName: a\npodNetwork: {masqueradePorts: 60000-70000}", "in 1024-65535"),
    ("nodeName: a\npodNetwork: {masqueradeExcluded: [10.0.0.1/8]}", "10.0.0.1/8 has host bits set"),
    ("nodeName: a\npodNetwork: {viaStack: [somewhere]}", "viaStack names 'somewhere', which is no CIDR"),
    ("nodeName: a\npodNetwork: {tunnelPort: 0}", "tunnelPort is 0, it must be 1..65535"),
    ("nodeName: a\npodNetwork: {flowQuotaPercent: 0}", "flowQuotaPercent is 0, it must be 1..100"),
    ("nodeName: a\nkubernetes: {apiServer: {endpoints: ['a:port']}}", "names 'a:port', it must be HOST:PORT"),
    ("nodeName: a\nkubernetes: {externalIPs: {allowed: [10.0.0.1/8]}}", "10.0.0.1/8 has host bits set"),
    (
        "nodeName: a\nkubernetes: {nodePorts: some}",
        r"Invalid enum value 'some' - at `\$.kubernetes.nodePorts`",
    ),
    ("nodeName: a\nkubernetes: {nodePortRows: -1}", "nodePortRows is -1, it cannot be negative"),
    ("nodeName: a\npodNetwork: {timeouts: {echoS: 1}}", "timeouts.echoS is 1, it must be at least 2"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_configuration_is_refused_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason.replace("{path}", str(path))):
        config.load(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="configuration /nowhere cannot be read: No such file"):
        config.load(Path("/nowhere"))


def test_a_node_name_is_all_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("nodeName: node-1\nstateDir: /var/lib/elsewhere\n")
    made = config.load(path)
    assert (made.node_name, made.state_dir, made.socket) == (
        "node-1",
        Path("/var/lib/elsewhere"),
        Path("/run/meshd/meshd.sock"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("cni: {socket: /run/cni.sock}", False),
        ("cni: {podCidrs: [10.0.0.0/24]}", True),
        ("cni: {podCidrs: [10.0.0.0/24]}\npodNetwork: {enabled: false}", False),
        ("cni: {socket: /run/cni.sock}\npodNetwork: {enabled: true}", True),
    ],
)
def test_programs_carry_pods_where_the_node_gives_them_addresses_unless_said_otherwise(
    tmp_path: Path, text: str, expected: bool
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"nodeName: node-1\n{text}\n")
    assert config.load(path).has_pod_network is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{}", False),
        ("{kubeconfig: /etc/kubeconfig}", True),
        ("{kubeconfig: /etc/kubeconfig, enabled: false}", False),
        ("{enabled: true}", True),
        ("{apiServer: {endpoints: ['10.0.0.1:6443', 'https://[fd00::1]:443', api.example]}}", False),
    ],
)
def test_the_api_server_is_read_where_a_kubeconfig_is_named_or_it_is_said(
    tmp_path: Path, said: str, expected: bool
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"nodeName: a\nkubernetes: {said}\n")
    assert config.load(path).kubernetes.is_used is expected


@pytest.mark.parametrize(
    ("said", "environment", "expected"),
    [
        ("clusterName: cm-1", {"NODE_NAME": "n1"}, "n1"),
        ("nodeName: n2", {"NODE_NAME": "n1"}, "n2"),
        ("", {"NODE_NAME": "n1"}, "n1"),
        ("nodeName: n2", {"NODE_NAME": ""}, "n2"),
    ],
)
def test_the_environment_names_a_node_that_the_file_does_not(
    tmp_path: Path, said: str, environment: dict[str, str], expected: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(said)
    assert config.load(path, environment).node_name == expected
