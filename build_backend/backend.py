"""The PEP 517 and 660 build backend: setuptools, preceded by the BPF object, the CNI shim, the probe of the path
bench and checks that speak plainly.

An editable install leaves meshd.bpf.o, meshd-cni.*, path-probe and the extension in the source tree (ignored by git);
a wheel carries them.
"""

from __future__ import annotations

import shutil
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from build_backend import bpf, cni_shim, commit, path_probe, toolchain

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# setuptools' own type for what a front end passes as --config-settings.
Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """setuptools' requirements, and `ziglang` only where no clang can compile BPF, or no lld link."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler_wheel()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """The same for `pip install -e .`."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiler_wheel()]


def _compiler_wheel() -> list[str]:
    return [] if toolchain.system_clang() and shutil.which("ld.lld") else ["ziglang>=0.13"]


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """A wheel with the BPF object and the extension in it; its file name."""
    _prepare()
    with commit.noted():
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """The sources, with the commit they are of; the file name."""
    with commit.noted():
        return build_meta.build_sdist(sdist_directory, config_settings)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Builds both in the source tree; the file name of the wheel that points there."""
    _prepare()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _prepare() -> None:
    try:
        toolchain.require_c_toolchain()
        bpf.build()
        cni_shim.build()
        path_probe.build()
    except toolchain.BuildError as error:
        # A front end shows the whole traceback of any other exception; this shows the sentence alone.
        raise SystemExit(f"meshd cannot be built: {error}") from None
