"""The first file system of a guest: busybox, a script, and the modules that tests may need, in the order in which they load.

All of them are loaded at once, because nothing in the guest would load them on demand: this machine's files have no modules
for the guest's kernel.
"""

from __future__ import annotations

import lzma
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

MODULES = (
    # What the guest's files come through, and what takes its writes.
    *("virtio_pci", "virtiofs", "overlay"),
    *("veth", "dummy", "bridge", "br_netfilter", "vxlan", "tun", "ifb", "wireguard", "tls"),
    *("sch_ingress", "sch_tbf", "sch_fq", "sch_netem", "cls_bpf", "cls_u32", "cls_matchall", "act_bpf", "act_mirred"),
    *("inet_diag", "tcp_diag", "udp_diag", "unix_diag", "netlink_diag"),
    *("nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_fib_inet", "nft_reject_inet", "nft_numgen"),
    *("nft_compat", "nf_conntrack", "nf_conntrack_netlink", "iptable_nat", "iptable_filter", "ip6table_nat"),
    *("ip6table_filter", "xt_nat", "xt_MASQUERADE", "xt_conntrack", "xt_comment", "xt_mark", "xt_statistic"),
    *("xt_multiport", "xt_addrtype"),
)  # fmt: skip
GUEST = Path(__file__).with_name("guest.sh")
DIRECTORIES = ("bin", "proc", "sys", "dev", "lower", "over", "root", "modules")
# stat(2)
DIRECTORY, PROGRAM, FILE = 0o040755, 0o100755, 0o100644


def write(path: Path, modules: Path) -> None:
    """Makes the file system at ``path``; ``modules`` is the directory of a kernel below lib/modules."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    ordered = in_order(modules)
    order = "".join(f"{name}\n" for name in ordered).encode()
    path.write_bytes(
        archive(
            [
                *((name, DIRECTORY, b"") for name in DIRECTORIES),
                ("bin/busybox", PROGRAM, busybox.read_bytes()),
                ("init", PROGRAM, GUEST.read_bytes()),
                ("modules/order", FILE, order),
                *((f"modules/{name}.ko", FILE, content) for name, content in ordered.items()),
            ]
        )
    )


def in_order(modules: Path) -> dict[str, bytes]:
    """Name -> content of :data:`MODULES` and all that they depend on, each after what it depends on.

    What this kernel does not have as a module, it has built in or lacks: which of the two, the tests find out.
    """
    there = {path.name.partition(".")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")}
    ordered: dict[str, bytes] = {}

    def add(names: Iterable[str]) -> None:
        for name in names:
            if name in there and name not in ordered:
                content = _content(there[name])
                add(_dependencies(content))
                ordered[name] = content

    add(MODULES)
    return ordered


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _dependencies(module: bytes) -> list[str]:
    """What a module says in its section .modinfo."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def archive(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    made = bytearray()
    for number, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], start=1):
        terminated = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(terminated), 0)
        made += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + terminated
        made += bytes(-len(made) % 4) + content
        made += bytes(-len(made) % 4)
    return bytes(made)
