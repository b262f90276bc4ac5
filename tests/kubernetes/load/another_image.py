"""The image of a neighbouring build (tests/another_build.py): the agent's own with one layer more, made in a second."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from scripts.image import __main__ as building
from scripts.image import debian_root, layer, python_parts
from scripts.image.layer import Layer
from tests import another_build
from tests.netns.runtime import agent_image

TAG = "another"
VERSION = "0.0.0+another"


def archive() -> Path:
    """``meshd:another``: another object, and a version that `meshctl status` shows."""
    agent_image.archive()
    with (building.BUILD / "lock").open("w") as lock:
        # Nobody makes one of the lower layers anew meanwhile.
        fcntl.flock(lock, fcntl.LOCK_EX)
        lower = [
            layer.load(building.BUILD / name / "layer.json") for name in ("debian", "dependencies", "meshd")
        ]
        made = another_build.MADE / "meshd-another.tar"
        layers = [*lower, _top()]
        building.written(building.NAME, made, TAG, debian_root.architecture(), "another", layers)
        return made


def _top() -> Layer:
    """What is another in it."""
    root = another_build.MADE / "image"
    shutil.rmtree(root, ignore_errors=True)
    debian = debian_root.described(building.BUILD / "debian" / "root")
    package = python_parts.site_packages(debian, root / "opt") / "meshd"
    (package / "kernel").mkdir(parents=True)
    shutil.copy(another_build.other_object(), package / "kernel" / "meshd.bpf.o")
    (package / "__init__.py").write_text(f'__version__ = "{VERSION}"\n')
    # What Python has compiled already is not looked at again; a whiteout takes it away (OCI image-spec, layer.md).
    major, minor = debian.python
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / f".wh.__init__.cpython-{major}{minor}.pyc").touch()
    target = another_build.MADE / "layer.tar.gz"
    return layer.from_directory(root, ["opt"], target, building.EPOCH, "another object")
