"""The Helm chart, and the manifests that meshctl applies, from the one source: base and components of deploy/kubernetes.

    python deploy/generate.py [--check]

A line of the base is a line of the chart, but for three marks in comments:

    key: value #: NAME -- TEXT     the value, and what is indented below it, becomes the chart's value NAME with this default
    key: value #: NAME             the same value in another place; NAME may have dots
    #+ TEXT                        TEXT is a line of the chart only
    namespace: meshd-system        is the namespace of the release

So whoever reads the base reads all there is, and the chart can do nothing that kustomize cannot.
"""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
MONITOR = KUBERNETES / "components" / "service-monitor"
ETCD = KUBERNETES / "components" / "etcd"
CHART = ROOT / "deploy" / "helm" / "meshd"
APPLIED = ROOT / "meshd" / "ctl" / "kube" / "manifests.yaml"
APPLIED_ETCD = ROOT / "meshd" / "ctl" / "clustermesh" / "etcd.yaml"
CONFIG = "meshd.yaml"
NAMESPACE = "meshd-system"
# A namespace is made by `helm install --create-namespace`, or it is there.
NOT_IN_CHART = ("namespace.yaml",)

GENERATED = "# Written by deploy/generate.py from deploy/kubernetes: change it there.\n"
MARK = re.compile(
    r"^(?P<indent> *(?:- )?)(?P<key>[\w-]+): ?(?P<value>.*?) ?#: (?P<name>[\w.]+)(?: -- (?P<text>.+))?$"
)
CHART_ONLY = re.compile(r"^(?P<indent> *)#\+ (?P<text>.*)$")

CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: meshd
  namespace: {namespace}
  labels:
    app.kubernetes.io/name: meshd
data:
  meshd.yaml: |{content}
"""
CONFIG_TEMPLATE = "\n    {{- toYaml .Values.config | nindent 4 }}"
# What the chart has and the base has not.
MORE_VALUES = """\
# Secrets with credentials for the image's registry: [{name: NAME}].
imagePullSecrets: []

# Annotations of the agents' pods.
podAnnotations: {}

serviceMonitor:
  # For the Prometheus operator; wants `config.metrics.listen: "0.0.0.0:9878"`.
  enabled: false
"""
ETCD_ENABLED = """\
Whether the mesh's etcd runs here. It waits for what `meshctl clustermesh init --kubernetes --no-apply` writes."""
NOTES = """\
meshd {{ .Chart.AppVersion }} is being rolled out to every node, one after the other:

    kubectl --namespace {{ .Release.Namespace }} rollout status daemonset/meshd

What the agent of a node sees:

    kubectl --namespace {{ .Release.Namespace }} exec daemonset/meshd -- meshctl status

NetworkPolicies are not enforced by meshd, and without kube-proxy nothing from outside reaches node ports: what of the
cluster that concerns says `meshctl kube check`.
"""


class MarkError(Exception):
    """A mark in the base makes no sense; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the chart: ``default`` is YAML, as it stands in the base without its indentation."""

    name: str
    text: str
    default: str


def templated(source: str) -> tuple[str, list[Value]]:
    """The template that ``source`` becomes, and the values that it asks for.

    Raises:
        MarkError: a name is used twice.
    """
    lines = source.splitlines()
    made: list[str] = []
    values: list[Value] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if only := CHART_ONLY.match(line):
            made.append(only["indent"] + only["text"])
        elif mark := MARK.match(line):
            below = len(block_below(lines, position, len(mark["indent"])))
            default = textwrap.dedent("\n".join(lines[position : position + below])) or mark["value"]
            position += below
            if mark["text"]:
                if any(value.name == mark["name"] for value in values):
                    raise MarkError(f"{mark['name']} is marked twice")
                values.append(Value(mark["name"], mark["text"], default))
            made.append(f"{mark['indent']}{mark['key']}: {expression(mark, nested=below > 0)}")
        else:
            made.append(line.replace(f"namespace: {NAMESPACE}", "namespace: {{ .Release.Namespace }}"))
    return "\n".join(made) + "\n", values


def block_below(lines: Sequence[str], start: int, indent: int) -> Sequence[str]:
    """The lines from ``start`` on that belong to a key which is indented by ``indent``."""
    end = start
    while end < len(lines) and lines[end].startswith(" " * (indent + 1)):
        end += 1
    return lines[start:end]


def expression(mark: re.Match[str], *, nested: bool) -> str:
    """What the chart says for a value: JSON for a scalar, which is YAML too, and a block for what is nested."""
    name = f".Values.{mark['name']}"
    if nested:
        return f"{{{{- toYaml {name} | nindent {len(mark['indent']) + 2} }}}}"
    return f"{{{{ {name} | toJson }}}}"


def values_file(values: Sequence[Value], config: str) -> str:
    """values.yaml: each value below what it means."""
    parts = _described(values)
    parts.append(
        "# meshd's configuration; what is given is merged with this.\nconfig:\n"
        + textwrap.indent(config, "  ")
    )
    return GENERATED + "\n" + "\n".join([*parts, MORE_VALUES])


def _described(values: Iterable[Value]) -> list[str]:
    """Each value with what it means; those whose names have dots as mappings."""
    parts: list[str] = []
    nested: dict[str, list[Value]] = {}
    for value in values:
        first, dot, rest = value.name.partition(".")
        if dot:
            nested.setdefault(first, []).append(replace(value, name=rest))
        else:
            parts.append(f"{textwrap.indent(textwrap.fill(value.text, 118), '# ')}\n{_assigned(value)}")
    for name, below in nested.items():
        parts.append(f"{name}:\n{textwrap.indent(chr(10).join(_described(below)), '  ')}")
    return parts


def _assigned(value: Value) -> str:
    if "\n" in value.default or isinstance(yaml.safe_load(value.default), list | dict):
        return f"{value.name}:\n{textwrap.indent(value.default, '  ')}\n"
    return f"{value.name}: {value.default}\n"


def plain(source: str) -> str:
    """``source`` without marks, as an API server is given it."""
    kept = [line for line in source.splitlines() if not CHART_ONLY.match(line)]
    return "\n".join(re.sub(r" *#: [\w.]+( -- .*)?$", "", line) for line in kept) + "\n"


def config_map(content: str) -> str:
    return CONFIG_MAP.format(namespace=NAMESPACE, content="\n" + textwrap.indent(content, "    ").rstrip())


def version() -> str:
    """Of the project, and so of chart and image."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def generated() -> Mapping[Path, str]:
    """All files that are made, with their content.

    Raises:
        MarkError: a mark makes no sense.
    """
    resources = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    config = (BASE / CONFIG).read_text()
    files: dict[Path, str] = {}
    values: list[Value] = []
    for name in resources:
        if name not in NOT_IN_CHART:
            template, found = templated((BASE / name).read_text())
            files[CHART / "templates" / name] = GENERATED + template
            values += found
    configured = CONFIG_MAP.format(namespace="{{ .Release.Namespace }}", content=CONFIG_TEMPLATE)
    monitored = "---\n".join(
        templated((MONITOR / name).read_text())[0] for name in ("service.yaml", "service-monitor.yaml")
    )
    etcd = yaml.safe_load((ETCD / "kustomization.yaml").read_text())["resources"]
    values.append(Value("clustermesh.etcd.enabled", ETCD_ENABLED, "false"))
    etcd_templates = []
    for name in etcd:
        template, found = templated((ETCD / name).read_text())
        etcd_templates.append(template)
        values += found
    joined = "---\n".join(etcd_templates)
    files |= {
        CHART / "templates" / "etcd.yaml": (
            f"{GENERATED}{{{{- if .Values.clustermesh.etcd.enabled }}}}\n{joined}{{{{- end }}}}\n"
        ),
        APPLIED_ETCD: GENERATED + "---\n".join(plain((ETCD / name).read_text()) for name in etcd),
        CHART / "templates" / "config-map.yaml": GENERATED + configured,
        CHART / "templates" / "service-monitor.yaml": (
            f"{GENERATED}{{{{- if .Values.serviceMonitor.enabled }}}}\n{monitored}{{{{- end }}}}\n"
        ),
        CHART / "templates" / "NOTES.txt": NOTES,
        CHART / "values.yaml": values_file(values, config),
        CHART / "Chart.yaml": chart(),
        APPLIED: GENERATED
        + "---\n".join([*(plain((BASE / name).read_text()) for name in resources), config_map(config)]),
    }
    return files


def chart() -> str:
    """Chart.yaml."""
    return (
        f"{GENERATED}apiVersion: v2\nname: meshd\ntype: application\nversion: {version()}\nappVersion: {version()}\n"
        "description: A service-mesh dataplane without sidecars, the pod network of a cluster\n"
        'kubeVersion: ">=1.30.0-0"\n'
    )


def main(arguments: Sequence[str]) -> int:
    """Writes what differs; with --check says so instead, and status 1."""
    if unknown := set(arguments) - {"--check"}:
        print(f"usage: generate.py [--check]; {unknown.pop()} is unknown", file=sys.stderr)
        return 2
    files = generated()
    there = {path for directory in (CHART / "templates",) for path in directory.glob("*")}
    stale = [path for path, content in files.items() if not path.exists() or path.read_text() != content]
    extra = sorted(there - set(files))
    if arguments:
        for path in (*stale, *extra):
            print(f"{path.relative_to(ROOT)} is not what deploy/generate.py makes")
        return 1 if stale or extra else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    for path in extra:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
