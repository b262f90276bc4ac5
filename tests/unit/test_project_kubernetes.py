"""What the tests' own clusters follow from: names, addresses, cgroups and mounts of a machine, as values."""

from __future__ import annotations

import itertools

import pytest

from scripts.kubernetes import components, hierarchies, layout
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.node_namespaces import foreign_mounts
from scripts.kubernetes.site import place_of

SITE = layout.Site("here")


@pytest.mark.parametrize("name", ["", "1st", "Upper", "with-dash", "eleven-long", "elevenchars", "../up"])
def test_a_name_that_cannot_be_part_of_a_links_name_is_refused(name: str) -> None:
    with pytest.raises(SiteError, match="no name for a site"):
        place_of(name)


def test_names_of_links_fit_the_kernel() -> None:
    site = place_of("tenletters")
    cluster = site.cluster(layout.LAST)
    names = [site.bridge, cluster.access, cluster.node(layout.LAST).link]
    assert [len(name) <= 15 for name in names] == [True] * len(names)


def test_no_two_networks_of_a_site_overlap() -> None:
    networks = [each.network for each in (*layout.ROUTER, *layout.OUTSIDE)]
    for number in range(1, layout.LAST + 1):
        cluster = SITE.cluster(number)
        networks += [*cluster.pods, *cluster.services]
    overlapping = [
        (one, other)
        for one, other in itertools.combinations(networks, 2)
        if one.version == other.version and one.overlaps(other)
    ]
    assert overlapping == []


def test_no_two_machines_of_a_site_have_one_address() -> None:
    clusters = [SITE.cluster(number) for number in range(1, layout.LAST + 1)]
    nodes = [cluster.node(number) for cluster in clusters for number in range(1, layout.LAST + 1)]
    each = [address.ip for place in (*clusters,) for address in place.control]
    each += [address.ip for node in nodes for address in node.addresses]
    each += [address.ip for address in layout.ROUTER]
    assert len(each) == len(set(each))


def test_a_pair_of_addresses_to_an_api_server_is_a_network_of_its_own() -> None:
    pairs = [layout.access(number) for number in (0, 1, 2**32 - 1)]
    assert [near.network == far.network for near, far in pairs] == [True] * 3
    assert len({near.network for near, _ in pairs}) == 3


MOUNTS = """\
proc /proc proc rw,nosuid 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate,memory_recursiveprot 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,nosuid,noexec,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0
"""


def test_hierarchies_are_mounted_again_with_their_controllers_alone() -> None:
    found = [(each.directory.name, each.kind, each.options) for each in hierarchies.mounted(MOUNTS)]
    assert found == [
        ("unified", "cgroup2", ""),
        ("cpu", "cgroup", "cpu,cpuacct"),
        ("systemd", "cgroup", "name=systemd"),
    ]


MOUNTINFO = """\
1 0 8:1 / / rw shared:1 - overlay overlay rw
2 1 0:2 / /sys/fs/bpf rw shared:2 - bpf bpf rw
3 1 0:3 / /run/netns/other rw - nsfs nsfs rw
4 1 0:4 / /run/a\\040place rw - nsfs nsfs rw
5 1 0:5 / /home rw - ext4 /dev/sda rw
"""


def test_a_node_lets_go_of_what_others_hold_by_a_mount() -> None:
    node = SITE.cluster(1).node(1)
    assert foreign_mounts(node, MOUNTINFO) == ["/run/a place", "/run/netns/other", "/sys/fs/bpf"]


@pytest.mark.parametrize("module", components.MODULES, ids=lambda module: module.name)
def test_a_module_says_which_version_it_builds(module: components.Module) -> None:
    numbers = components.version(module)
    assert all(number.isdigit() for number in numbers.values())
    assert all(variable in components.flags(module) for variable in module.stamped)
