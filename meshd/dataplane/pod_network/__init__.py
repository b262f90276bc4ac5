"""The pod network: pods' links, and the TC programs, rows and routes that carry their packets."""

from meshd.dataplane.pod_network.network import PodNetwork

__all__ = ["PodNetwork"]
