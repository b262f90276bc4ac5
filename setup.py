"""The extension module, which pyproject.toml has no words for. Everything else is declared there."""

from setuptools import setup

setup(cffi_modules=["build_backend/libbpf_extension.py:ffibuilder"])
