"""What agents are told of the mesh that their cluster is part of, as `meshctl clustermesh init --kubernetes` left it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from meshd.ctl.errors import CtlError
from meshd.errors import ApiServerError
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import CONFIG_MAPS

NAME, CLUSTER = "meshd-clustermesh", "cluster.yaml"
# Where the DaemonSet mounts the Secrets.
ETCD, PEERS = "/etc/clustermesh/client/etcd.yaml", "/etc/clustermesh/peers"


async def options_of_mesh(client: Client, namespace: str) -> Mapping[str, Any]:
    """Options of agents; none: the cluster is part of no mesh.

    Raises:
        CtlError: the ConfigMap is not what meshctl wrote.
    """
    try:
        found = await client.get(CONFIG_MAPS, NAME, namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status != 404:
            raise
        return {}
    try:
        cluster = yaml.safe_load(found["data"][CLUSTER])
        name, number = str(cluster["name"]), int(cluster["id"])
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise CtlError(f"ConfigMap {namespace}/{NAME} is not what meshctl wrote: {error!r}") from error
    return {"clusterName": name, "clusterId": number, "clustermesh": {"etcd": ETCD, "peers": PEERS}}
