"""Real etcd servers here, too."""

from tests.etcd.conftest import etcd, make_etcd

__all__ = ["etcd", "make_etcd"]
