"""A guest: a kernel of Debian's, this machine's files, and no hardware. It runs one script and is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.kernels.images import Image

MEMORY = "2G"
# Below Debian 13 it comes with QEMU, from there on in a package of its own.
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
# In a mount namespace in which nothing can be written: a guest's root is nobody's root here.
SERVE = 'mount -o bind,remount,ro / && exec "$@"'
# QEMU 7.2's cmpxchg16b loses memory when Linux 6.12 allocates with it.
PROCESSOR = "max,cx16=off"

# A busy machine makes the guest mistrust its clock, and reading another one is slow, or miss the ticks of its timer, and it
# would not start; a grace period of RCU takes dozens of milliseconds, and namespaces and links wait for several; nothing
# here has to be kept from speculating.
HURRY = "tsc=reliable no_timer_check rcupdate.rcu_expedited=1 mitigations=off"


class GuestError(Exception):
    """The guest did not come to the end of its script; the text says what the kernel said last."""


def virtiofsd() -> str | None:
    """The program that lends files to guests; None: it is not installed."""
    return next((path for path in VIRTIOFSD if shutil.which(path)), None)


def run(image: Image, script: str, patience_s: float, say: Callable[[str], None]) -> int:
    """Runs ``script`` in a shell in a guest; its status. ``say`` is handed what it says, line by line as it comes.

    Raises:
        GuestError: the kernel did not start, or died, or ``patience_s`` was over.
    """
    with tempfile.TemporaryDirectory(prefix="meshd-kernel-") as name:
        directory = Path(name)
        (directory / "script").write_text(script)
        with (
            _files(directory),
            subprocess.Popen(
                _qemu(image, directory), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            ) as process,
        ):
            is_late = threading.Event()

            def end() -> None:
                is_late.set()
                process.kill()

            alarm = threading.Timer(patience_s, end)
            alarm.start()
            try:
                for line in process.stdout or ():
                    # What a program writes over what it wrote before, as on a terminal, is said once.
                    say(line.decode(errors="replace").rstrip().rpartition("\r")[2])
                process.wait()
            finally:
                alarm.cancel()
                process.kill()
            if is_late.is_set():
                raise GuestError(f"its script did not end within {patience_s:g} s")
        status = (directory / "status").read_text().strip()
        if not status:
            said = (directory / "console").read_text(errors="replace").splitlines()
            raise GuestError("it ended before its script did:\n  " + "\n  ".join(said[-25:]))
        return int(status)


@contextlib.contextmanager
def _files(directory: Path) -> Iterator[None]:
    """Meanwhile a guest finds this machine's files behind the socket ``files`` in ``directory``."""
    with socket.socket(socket.AF_UNIX) as listener, (directory / "virtiofsd.log").open("w") as log:
        # Made here, because where the server is nothing can be made.
        listener.bind(str(directory / "files"))
        listener.listen(1)
        server = [str(virtiofsd()), f"--fd={listener.fileno()}", "-o", "source=/"]
        options = ["-o", "cache=always", "-o", "sandbox=chroot"]
        private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SERVE, "sh"]
        process = subprocess.Popen(
            [*private, *server, *options], pass_fds=[listener.fileno()], stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _qemu(image: Image, directory: Path) -> list[str]:
    words = f"console=ttyS0 quiet panic=-1 {HURRY} meshd.script={directory}/script"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", str(os.cpu_count() or 1), "-m", MEMORY),
        *("-kernel", str(image.vmlinuz), "-initrd", str(image.initramfs), "-append", words),
        # The server of the files reads and writes the guest's memory itself.
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on", "-numa", "node,memdev=memory"),
        *("-chardev", f"socket,id=files,path={directory}/files"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=machine"),
        *("-serial", f"file:{directory}/console", "-serial", "stdio", "-serial", f"file:{directory}/status"),
    ]
