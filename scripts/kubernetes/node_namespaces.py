"""What makes a part of this machine a node: a network namespace, and a mount and a cgroup namespace held by a process.

Inside, every path that Kubernetes, its runtimes and its networks use is where it is on a machine of its own: /etc/cni/net.d,
/opt/cni/bin, /run, /var/lib, /var/log, /sys/fs/bpf, /sys/fs/cgroup; so what is deployed there needs no settings for a test.
Nothing that happens there is seen outside, and all of it goes with the last process. Settings of the whole machine that
kubelets change (kernel.panic, vm.overcommit_memory and others) are files of the node's own there: a machine that is never
changed need not be put back, whoever is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.kubernetes import hierarchies
from scripts.kubernetes.layout import STATE_ROOT, Node
from scripts.kubernetes.processes import Program

SETTINGS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# What keeps alive what it shows, though its owner unmounts it: copies of others' would outlive them for as long as the node.
HOLDING = {"bpf", "nsfs", "overlay"}
PLUGINS = Path("/usr/lib/cni")
# Of /var/lib only this is seen inside; the rest is of the machine.
LIBRARIES = ("kubelet", "containerd", "cni", "meshd", STATE_ROOT.name)
# $1: the node's directory, $2: the root of all sites, $3: the file that says it is done.
SCRIPT = """
set -e
node=$1 sites=$2 done=$3
{unmount}
mount -t sysfs sysfs /sys
{cgroups}
mount -t bpf bpf /sys/fs/bpf
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$node/etc,workdir=$node/etc.work" /etc
mount -t overlay overlay -o "lowerdir=/opt,upperdir=$node/opt,workdir=$node/opt.work" /opt
mount --bind "$node/log" /var/log
for setting in {settings}; do
    mount --bind "$node/settings/$setting" "/proc/sys/$setting"
done
mount --rbind "$sites" "$node/lib/${{sites##*/}}"
mount --rbind "$node/lib" /var/lib
mount --rbind "$node/run" /run
mount --make-rshared /
ip link set lo up
echo done >"$done"
exec sleep infinity
"""


def holder(node: Node) -> Program:
    """The process that makes the mount and cgroup namespaces and holds them; it must be in the node's own cgroup."""
    words = ("nsenter", f"--net={node.netns}", "unshare", "--mount", "--cgroup", "--propagation", "private")
    script = SCRIPT.format(
        unmount="\n".join(f"umount -l '{path}' || true" for path in foreign_mounts(node)),
        cgroups="\n".join(_mounts_of_cgroups(hierarchies.mounted())),
        settings=" ".join(SETTINGS),
    )
    argv = ("sh", "-c", script, "sh", str(node.state), str(STATE_ROOT), str(ready_file(node)))
    return Program("namespaces", argv, node.cgroup, words, node.state / "log" / "namespaces.log", True)


def ready_file(node: Node) -> Path:
    """There once the namespaces are as they shall be."""
    return node.state / "ready"


def make_directories(node: Node) -> None:
    """What is mounted inside, on this machine's disk."""
    state = node.state
    for name in ("etc/cni/net.d", "etc.work", "opt/cni/bin", "opt.work", "log", "tmp", "settings"):
        (state / name).mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        (state / "lib" / name).mkdir(parents=True, exist_ok=True)
    for name in ("containerd", "netns", "lock", "meshd"):
        (state / "run" / name).mkdir(parents=True, exist_ok=True)
    for name in SETTINGS:
        copy = state / "settings" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(Path("/proc/sys", name).read_text())
    for plugin in PLUGINS.iterdir():
        (state / "opt" / "cni" / "bin" / plugin.name).symlink_to(plugin)


def foreign_mounts(node: Node, mountinfo: str | None = None) -> list[str]:
    """Mounts of this machine that a node must not hold on to, the deepest first."""
    found = []
    for line in (Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo).splitlines():
        before, _, after = line.partition(" - ")
        path = Path(before.split(" ")[4].encode().decode("unicode_escape"))
        if after.split(" ")[0] in HOLDING and path not in (node.state, *node.state.parents):
            found.append(str(path))
    return found[::-1]


def _mounts_of_cgroups(mounted: Sequence[hierarchies.Hierarchy]) -> list[str]:
    """Commands that mount the hierarchies anew, which shows them from the node's cgroup on."""
    root = Path("/sys/fs/cgroup")
    commands = []
    if all(hierarchy.directory != root for hierarchy in mounted):
        commands.append(f"mount -t tmpfs -o mode=755 tmpfs {root}")
    for hierarchy in mounted:
        # Elsewhere is not where anything looks for it.
        if hierarchy.directory == root or root in hierarchy.directory.parents:
            options = f"-o {hierarchy.options}" if hierarchy.options else ""
            commands += [
                f"mkdir -p {hierarchy.directory}",
                f"mount -t {hierarchy.kind} {options} cgroup {hierarchy.directory}",
            ]
    return commands


def enter(node: Node, pid: int) -> tuple[str, ...]:
    """The words before a command that shall run on the node; ``pid`` is the holder's."""
    return (
        "nsenter",
        f"--net={node.netns}",
        f"--mount=/proc/{pid}/ns/mnt",
        f"--cgroup=/proc/{pid}/ns/cgroup",
        "--",
    )
