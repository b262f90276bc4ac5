"""What the image of the mesh's etcd has beside the agent's: Debian's etcd, one program that needs nothing but libc.

On a node that has the agent's image, this layer is all that is fetched.
"""

from __future__ import annotations

from pathlib import Path

from scripts.image.run import run

PACKAGE = "etcd-server"
PROGRAM = Path("usr/bin/etcd")
KEPT = (PROGRAM, Path("usr/share/doc") / PACKAGE / "copyright")


def fetch(release: str, directory: Path) -> None:
    """Program and licence below ``directory``, the newest of ``release``.

    Raises:
        ImageError: Debian's archive could not be read.
    """
    archive = directory / "extracted.tar"
    # With all that the package depends on, which the image's Debian has or etcd does not use.
    run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=extract",
            f"--include={PACKAGE}",
            release,
            str(archive),
        ]
    )
    kept = [f"./{path}" for path in KEPT]
    run(["tar", "--extract", f"--file={archive}", f"--directory={directory}", *kept])
    archive.unlink()
