"""Who is selected, as rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from meshd.dataplane.pod_network.rows import AddressRow
from meshd.dataplane.rows import Plan
from meshd.dataplane.short_circuit.rows import Layouts, WorkloadRow
from meshd.model import Address
from meshd.model.workload import PodLink

# What programs look up a socket of the node's own namespace by.
OWN_NETNS = -1


def plan(made: Layouts, links: Iterable[PodLink], netns_id: int) -> Plan:
    """A row for each address under which nothing but our programs carries packets."""
    carried = [link for link in links if not link.via_stack and not link.observed]
    return Plan(
        {
            "short_circuit_workloads": {
                made.address.encode(AddressRow(address)): made.workload.encode(
                    WorkloadRow(link.netns_cookie, netns_id)
                )
                for link in carried
                for address in link.addresses
            }
        }
    )


def plan_of_node(made: Layouts, addresses: Iterable[Address], cookie: int) -> Plan:
    """The same for the node itself, under the addresses that pods reach it by."""
    row = made.workload.encode(WorkloadRow(cookie, OWN_NETNS))
    reached = sorted(each for each in addresses if not is_on_one_link(each))
    return Plan({"short_circuit_workloads": {made.address.encode(AddressRow(each)): row for each in reached}})


def is_on_one_link(address: Address) -> bool:
    """Loopback and link-local: each namespace has its own of these."""
    found = ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_link_local
