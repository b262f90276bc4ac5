"""Real etcd servers here, too."""

from tests.etcd.conftest import make_etcd

__all__ = ["make_etcd"]
