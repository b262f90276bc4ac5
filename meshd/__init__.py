"""meshd: the node agent of a sidecarless service mesh. See ARCHITECTURE.md for how a change flows through it."""

__version__ = "0.1.0"
