"""The image of a neighbouring build (tests/another_build.py): the agent's own with one layer more, made in a second."""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts.image import __main__ as building
from scripts.image import debian_root, layer, python_parts
from tests import another_build
from tests.netns.runtime import agent_image

TAG = "another"
VERSION = "0.0.0+another"


def archive() -> Path:
    """``meshd:another``: another object, and a version that `meshctl status` shows."""
    agent_image.archive()
    lower = [layer.load(building.BUILD / name / "layer.json") for name in ("debian", "dependencies", "meshd")]
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
    top = layer.from_directory(
        root, ["opt"], another_build.MADE / "layer.tar.gz", building.EPOCH, "another object"
    )
    made = another_build.MADE / "meshd-another.tar"
    building.written(building.NAME, made, TAG, debian_root.architecture(), "another", [*lower, top])
    return made
