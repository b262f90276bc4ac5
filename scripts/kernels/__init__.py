"""Tests on kernels that this machine does not run: Debian's, in QEMU's software emulation.

    python -m scripts.kernels [--kernel 6.1] [pytest's arguments]

A guest sees this machine's files and changes none of them: Python, the virtual environment and the tree are the ones that
are here, and only the kernel is another.
"""
