"""Tests with real sockets in throwaway namespaces, cgroups and bpffs mounts. They need root."""
