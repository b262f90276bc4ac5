"""Multi-cluster sync over etcd in the format that Cilium ClusterMesh speaks; usable alone, never imports meshd."""
