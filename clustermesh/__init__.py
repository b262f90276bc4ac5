"""Multi-cluster sync over etcd in the format that Cilium ClusterMesh speaks.

Usable alone, never imports meshd.
"""
