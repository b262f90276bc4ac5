"""A pin that is written into the file of a peer, whose other lines stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clustermesh import pin
from clustermesh.errors import PeerFileError
from clustermesh.invitation import dump
from clustermesh.peers import parse_file
from clustermesh.pin import Pin
from clustermesh.whole_file import write


def render(one: Pin) -> bytes:
    """The lines that state ``one``."""
    return dump({pin.KEY: pin.render(one)})


def state(path: Path, name: str, one: Pin) -> None:
    """``path``, the file of peer ``name``, states ``one`` from now on.

    Raises:
        PeerFileError: it cannot be used, states a pin already, or is not a file of its own; OSError. It is as it was.
    """
    if path.is_symlink():
        # Kubernetes mounts Secrets like that, and would put back what was there.
        raise PeerFileError(str(path), "is a link to where somebody else writes it")
    text = path.read_bytes()
    before = parse_file(str(path), name, text)
    if before.pin != pin.ANY:
        raise PeerFileError(str(path), f"states {pin.KEY} already")
    new = text.rstrip(b"\n") + b"\n" + render(one)
    after = parse_file(str(path), name, new)
    if replace(after, digest="", pin=pin.ANY) != replace(before, digest=""):
        raise PeerFileError(str(path), "would say something else with these lines at its end")
    write(path, new, path.stat().st_mode & 0o777)
