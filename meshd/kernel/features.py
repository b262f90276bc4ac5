"""What this kernel can do, found out by trying, never by its version: distributions carry features back and leave them out.

`probe` tries all and refuses nothing; what is missing costs a feature, named in each row. `require` refuses what meshd
cannot run without, in one sentence.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from meshd.errors import ConfigError, KernelError
from meshd.kernel import cgroup
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.links import AttachType
from meshd.kernel.maps import Map
from meshd.kernel.netns import Netns
from meshd.kernel.pins import is_bpffs
from meshd.kernel.sockets import can_destroy

# Opcodes of the instructions that probes consist of (Documentation/bpf/standardization/instruction-set.rst).
_MOV64_IMM, _EXIT, _CALL = 0xB7, 0x95, 0x85
_KERNEL_FUNCTION = 2  # BPF_PSEUDO_KFUNC_CALL
# In a fresh namespace lo is link 1.
_LOOPBACK = 1
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39


@dataclass(frozen=True, slots=True)
class Feature:
    """``reason`` says why it is absent and ``cost`` what users lose then; both are empty where it is present."""

    name: str
    present: bool
    needed_by: str
    reason: str = ""
    cost: str = ""


# A probe returns why the feature is absent, or "" where it is there.
Probe = Callable[[], str]


def probe() -> tuple[Feature, ...]:
    """Every feature meshd may use, tried now. Needs root. Leaves nothing behind."""
    return tuple(_tried(name, needed_by, cost, attempt) for name, needed_by, cost, attempt in _catalogue())


def require(pins: Path) -> None:
    """Returns if meshd can run here with its pins in the directory ``pins``.

    Raises:
        ConfigError: no privileges, no BPF, no cgroup v2, or ``pins`` is in no bpffs; one sentence with what to do.
    """
    require_privileges()
    try:
        Map.create(lib.BPF_MAP_TYPE_HASH, "meshd_probe", 4, 4, 1).close()
    except KernelError as error:
        raise ConfigError(
            f"this kernel refuses BPF maps ({os.strerror(error.errno)}): use one with CONFIG_BPF_SYSCALL"
        ) from error
    cgroup.find_mount()
    if not is_bpffs(pins):
        raise ConfigError(
            f"{pins} is in no bpffs, so nothing could outlive meshd: "
            "`mount -t bpf bpf /sys/fs/bpf`, or choose a directory in one (bpffs)"
        )


def require_privileges() -> None:
    """Returns if this process may load programs and take them off.

    Raises:
        ConfigError: one sentence with what to do.
    """
    capabilities = _capabilities()
    if not capabilities >> _CAP_SYS_ADMIN & 1 and not (
        capabilities >> _CAP_BPF & 1 and capabilities >> _CAP_NET_ADMIN & 1
    ):
        raise ConfigError(
            "meshd may not load BPF programs: run it as root or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
        )


def _catalogue() -> tuple[tuple[str, str, str, Probe], ...]:
    """(name, needed by, cost when absent, attempt)"""
    sock_addr, tc = lib.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, lib.BPF_PROG_TYPE_SCHED_CLS
    sk_msg = lib.BPF_PROG_TYPE_SK_MSG
    refuses = "services without a backend answer EPERM instead of ECONNREFUSED"
    stale = "connected UDP clients of a backend that is gone wait for their own timeout"
    routed = "same-node packets take the whole network stack"
    return (
        ("cgroup_connect", "socket_lb", "service addresses are not answered at connect()",
         _all(_loads(sock_addr, AttachType.CGROUP_CONNECT4), _loads(sock_addr, AttachType.CGROUP_CONNECT6))),
        ("cgroup_sendmsg", "socket_lb", "unconnected UDP clients reach no service",
         _all(_loads(sock_addr, AttachType.CGROUP_SENDMSG4), _loads(sock_addr, AttachType.CGROUP_RECVMSG4),
              _loads(sock_addr, AttachType.CGROUP_SENDMSG6), _loads(sock_addr, AttachType.CGROUP_RECVMSG6))),
        ("cgroup_getpeername", "socket_lb", "applications see the backend's address instead of the service's",
         _all(_loads(sock_addr, AttachType.CGROUP_GETPEERNAME4), _loads(sock_addr, AttachType.CGROUP_GETPEERNAME6))),
        ("cgroup_sock_release", "socket_lb", "records of closed sockets stay until they are overwritten",
         _loads(lib.BPF_PROG_TYPE_CGROUP_SOCK, AttachType.CGROUP_SOCK_RELEASE)),
        ("cgroup_sock_ops", "socket_lb", "without an agent, backends that do not answer are not left alone",
         _loads(lib.BPF_PROG_TYPE_SOCK_OPS, AttachType.CGROUP_SOCK_OPS)),
        ("cgroup_getsockopt", "l7", "SO_ORIGINAL_DST is not answered for steered connections",
         _loads(lib.BPF_PROG_TYPE_CGROUP_SOCKOPT, AttachType.CGROUP_GETSOCKOPT)),
        ("set_retval", "socket_lb", refuses, _helper(sock_addr, lib.BPF_FUNC_set_retval)),
        ("netns_cookie_at_connect", "socket_lb", "workloads cannot be told apart at connect()",
         _helper(sock_addr, lib.BPF_FUNC_get_netns_cookie)),
        ("sock_destroy", "socket_lb", stale, lambda: "" if can_destroy() else "built without CONFIG_INET_DIAG_DESTROY"),
        ("batch_operations", "dataplane", "large changes are written entry by entry", _batch),
        ("ring_buffer", "telemetry", "no flow events", _map_type(lib.BPF_MAP_TYPE_RINGBUF)),
        ("sockhash", "short_circuit", "no short circuit", _map_type(lib.BPF_MAP_TYPE_SOCKHASH)),
        ("sk_msg", "short_circuit", "no short circuit", _loads(sk_msg, lib.BPF_SK_MSG_VERDICT)),
        ("sk_msg_reads_sockets", "short_circuit", "no short circuit", _reads_sockets),
        ("tc", "pod_network", "no pod network", _loads(tc, 0)),
        ("tcx", "pod_network", "programs are attached by older filters, which others may remove",
         partial(_device_link, tc, AttachType.TCX_INGRESS)),
        ("redirect_peer", "pod_network", routed, _helper(tc, lib.BPF_FUNC_redirect_peer)),
        ("redirect_neigh", "pod_network", routed, _helper(tc, lib.BPF_FUNC_redirect_neigh)),
        ("xdp_link", "pod_network", "packets from outside are balanced later, in tc",
         partial(_device_link, lib.BPF_PROG_TYPE_XDP, AttachType.XDP)),
        ("sk_lookup", "l7", "listeners are found by address and port only",
         _loads(lib.BPF_PROG_TYPE_SK_LOOKUP, AttachType.SK_LOOKUP)),
        ("fentry", "telemetry", "kernel functions cannot be observed", partial(_tracing, "tcp_connect")),
        ("lsm", "policy", "no checks at LSM hooks", _lsm),
        ("kprobes", "telemetry", "kernel functions cannot be probed", _kprobes),
    )  # fmt: skip


def _tried(name: str, needed_by: str, cost: str, attempt: Probe) -> Feature:
    try:
        reason = attempt()
    except KernelError as error:
        reason = str(error)
    return Feature(name, not reason, needed_by, reason, cost if reason else "")


def _all(*attempts: Probe) -> Probe:
    return lambda: next((reason for reason in (attempt() for attempt in attempts) if reason), "")


def _loads(program_type: int, attach_type: int) -> Probe:
    """Whether the verifier takes the shortest program of that type for that hook."""

    def attempt() -> str:
        fd = _load(program_type, attach_type)
        if fd < 0:
            return f"loading such a program answers {_errno_name(-fd)}"
        os.close(fd)
        return ""

    return attempt


def _load(program_type: int, attach_type: int, attach_btf_id: int = 0, returns: int = 1) -> int:
    """A descriptor of a program that returns ``returns``, or -errno."""
    instructions = [{"code": _MOV64_IMM, "imm": returns}, {"code": _EXIT}]
    options = {"expected_attach_type": attach_type, "attach_btf_id": attach_btf_id}
    return _loaded(program_type, instructions, options)


def _loaded(program_type: int, instructions: list[dict[str, int]], options: dict[str, int]) -> int:
    """The same of any program."""
    raw = ffi.new("struct bpf_insn[]", instructions)
    opts: Any = ffi.new("struct bpf_prog_load_opts *", options)
    opts.sz = ffi.sizeof(opts[0])
    return int(lib.bpf_prog_load(program_type, b"meshd_probe", b"Dual BSD/GPL", raw, len(instructions), opts))


def _reads_sockets() -> str:
    """Whether a program that decides about a message may look into the socket: bpf_rdonly_cast(ctx, id of struct sock)."""
    function = lib.libbpf_find_vmlinux_btf_id(b"bpf_rdonly_cast", lib.BPF_TRACE_FENTRY)
    struct_sock = lib.meshd_kernel_struct(b"sock")
    if function < 0 or struct_sock < 0:
        return "bpf_rdonly_cast is not in the kernel's BTF"
    if lib.meshd_kernel_member(b"sk_psock", b"msg_tot_len") != 1:
        return "the kernel does not know how many bytes wait (sk_psock.msg_tot_len)"
    instructions = [
        {"code": _MOV64_IMM, "dst_reg": 2, "imm": struct_sock},
        {"code": _CALL, "src_reg": _KERNEL_FUNCTION, "imm": function},
        {"code": _MOV64_IMM, "imm": 1},
        {"code": _EXIT},
    ]
    fd = _loaded(lib.BPF_PROG_TYPE_SK_MSG, instructions, {"expected_attach_type": lib.BPF_SK_MSG_VERDICT})
    if fd < 0:
        return f"loading a program that calls bpf_rdonly_cast answers {_errno_name(-fd)}"
    os.close(fd)
    return ""


def _helper(program_type: int, helper: int) -> Probe:
    """Whether programs of that type may call a helper; libbpf knows how to read the verifier's answer."""

    def attempt() -> str:
        answer = lib.libbpf_probe_bpf_helper(program_type, helper, ffi.NULL)
        return "" if answer == 1 else "the verifier does not know the helper here"

    return attempt


def _map_type(map_type: int) -> Probe:
    def attempt() -> str:
        answer = lib.libbpf_probe_bpf_map_type(map_type, ffi.NULL)
        return "" if answer == 1 else "the kernel does not know the map type"

    return attempt


def _batch() -> str:
    probed = Map.create(lib.BPF_MAP_TYPE_HASH, "meshd_probe", 4, 4, 2)
    try:
        return "" if probed.has_batch_operations() else "the system call knows no batches"
    finally:
        probed.close()


def _device_link(program_type: int, attach_type: int) -> str:
    """Attaches to lo of a namespace that exists for this only."""
    fd = _load(program_type, attach_type if attach_type == AttachType.XDP else 0)
    if fd < 0:
        return f"loading such a program answers {_errno_name(-fd)}"
    try:
        with Netns.create("probe") as throwaway:
            link = throwaway.run(lambda: int(lib.bpf_link_create(fd, _LOOPBACK, attach_type, ffi.NULL)))
    finally:
        os.close(fd)
    if link < 0:
        return f"making a link answers {_errno_name(-link)}"
    os.close(link)
    return ""


def _tracing(function: str) -> str:
    return _attaches_to_function(lib.BPF_PROG_TYPE_TRACING, lib.BPF_TRACE_FENTRY, function)


def _lsm() -> str:
    return _attaches_to_function(lib.BPF_PROG_TYPE_LSM, lib.BPF_LSM_MAC, "socket_connect")


def _attaches_to_function(program_type: int, attach_type: int, function: str) -> str:
    target = lib.libbpf_find_vmlinux_btf_id(function.encode(), attach_type)
    if target < 0:
        return f"{function} is not in the kernel's BTF"
    fd = _load(program_type, attach_type, target, returns=0)
    if fd < 0:
        return f"loading such a program answers {_errno_name(-fd)}"
    os.close(fd)
    return ""


def _kprobes() -> str:
    source = Path("/sys/bus/event_source/devices/kprobe/type")
    return "" if source.exists() else f"no {source}: built without CONFIG_KPROBE_EVENTS"


def _capabilities() -> int:
    """The effective set of this thread, one bit a capability."""
    status = Path("/proc/thread-self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def _errno_name(code: int) -> str:
    return errno.errorcode.get(code, str(code))
