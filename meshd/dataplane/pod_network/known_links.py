"""Links of pods that were made before this agent started, or by another plugin: found by asking the kernel.

Every function runs on a worker thread. ``host`` is a socket of the node's namespace, which the thread is in too.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from meshd.dataplane.pod_network import links
from meshd.kernel import rtnetlink as rt
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import Link, link_of
from meshd.model.attachment import Attachment
from meshd.model.workload import PodLink


def ours(attachment: Attachment, index: int) -> PodLink:
    """The link of a pod that we made, whose host's end is ``index``.

    Raises:
        KernelError: the pod's namespace is not there.
    """
    with Netns.open(Path(attachment.netns)) as pod:
        return links.link(attachment, index, pod.cookie())


def observed(host: RouteSocket, attachment: Attachment) -> PodLink | None:
    """The link that another plugin made; None: it has no end of its own on this node (macvlan, ipvlan, a moved device).

    Raises:
        KernelError: the pod's namespace is not there.
    """
    with Netns.open(Path(attachment.netns)) as pod:
        inside, cookie = pod.run(lambda: _inside(attachment.ifname))
    if inside is None or not inside.peer:
        return None
    try:
        name = socket.if_indextoname(inside.peer)
    except OSError:
        return None
    outside = _link(host, name)
    # The index alone proves nothing: a macvlan names its parent so, and the other end may be in a third namespace. And who
    # may make devices in the pod's namespace chooses their numbers: a link that we made ourselves is no other plugin's.
    if outside is None or outside.peer != inside.index or outside.group in links.PODS_GROUPS:
        return None
    return PodLink(
        outside.index,
        cookie,
        inside.mac,
        outside.mac,
        attachment.addresses,
        attachment.via_stack,
        observed=True,
    )


def _inside(ifname: str) -> tuple[Link | None, int]:
    with RouteSocket() as route:
        return _link(route, ifname), route.netns_cookie()


def _link(route: RouteSocket, name: str) -> Link | None:
    [answers] = route.exchange([rt.get_link(name, tolerated=(errno.ENODEV,))])
    return next(map(link_of, answers), None)
