"""Taking a site away, by its name alone: whatever state it is in, and as often as one likes.

Every process of a site is in its cgroup, every mount and file below its two directories, and every link in its namespaces
but the ones to its API servers, which have its name. So a site whose maker was killed between any two
steps goes like any other. Nobody is asked to end: an API server without its etcd would hang, and a sandbox outlive its
kubelet; killed all at once, none of them sees another go.
"""

from __future__ import annotations

import shutil
from contextlib import suppress

from meshd.kernel import netlink
from meshd.kernel.netns import Netns, remove_named
from meshd.kernel.pins import unmount_bpffs
from meshd.lab.down import mounts_below
from scripts.kubernetes.layout import LAST, Site
from scripts.kubernetes.processes import kill_all


def remove(place: Site) -> None:
    """Nothing of the site is left; a site that is not there is no error.

    Raises:
        SiteError, KernelError, OSError: something cannot be removed; what it is. The rest is gone, and it may be repeated.
    """
    kill_all(place.name)
    with Netns.current() as here:
        for number in range(1, LAST + 1):
            netlink.delete_link(here, place.cluster(number).access)
    for directory in (place.run, place.state):
        for path in reversed(mounts_below(directory)):
            if path.is_dir():
                unmount_bpffs(path)
            else:
                remove_named(path)
        if directory.exists():
            shutil.rmtree(directory)
        # The last site takes the directory of all sites along.
        with suppress(OSError):
            directory.parent.rmdir()
