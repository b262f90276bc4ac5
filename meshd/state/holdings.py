"""Who holds which address, who let go of one lately, and which one the next gets. Nothing here touches a disk or a clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from meshd.errors import AddressesExhausted, AddressRefused
from meshd.model.address import Address, format_address, is_ipv4
from meshd.model.address_pool import AddressRange
from meshd.model.attachment import Attachment, AttachmentKey


class Holdings:
    """Attachments in the order in which they were made, and the addresses of ``ranges``. Times are Unix time."""

    def __init__(self, ranges: Sequence[AddressRange], cool_down_s: float) -> None:
        self._ranges = tuple(ranges)
        self._cool_down_s = cool_down_s
        self._attachments: dict[AttachmentKey, Attachment] = {}
        self._of_pods: dict[tuple[str, str], dict[AttachmentKey, Attachment]] = {}
        self._holders: dict[Address, AttachmentKey] = {}
        # Released addresses and when, the earliest first.
        self._cooling: dict[Address, float] = {}
        self._last: dict[AddressRange, Address] = {}
        self._elsewhere: frozenset[Address] = frozenset()

    def avoid(self, addresses: Iterable[Address]) -> None:
        """Pods that are none of ours have ``addresses``, and no others: they are given to nobody."""
        self._elsewhere = frozenset(addresses)

    def knows(self, address: Address) -> bool:
        """Whether somebody has ``address``, or had it until lately."""
        return self.holds(address) or address in self._cooling

    def get(self, key: AttachmentKey) -> Attachment | None:
        """The attachment of that container and interface."""
        return self._attachments.get(key)

    def all(self) -> list[Attachment]:
        """Every attachment, the oldest first."""
        return list(self._attachments.values())

    def of_pod(self, namespace: str, name: str) -> list[Attachment]:
        """The attachments of one pod, the oldest first."""
        return list(self._of_pods.get((namespace, name), {}).values())

    def holds(self, address: Address) -> bool:
        """Whether somebody has ``address``, of ours or from another plugin."""
        return address in self._holders or any(
            each.chained and address in each.addresses for each in self._attachments.values()
        )

    def cooling(self) -> Iterator[tuple[Address, float]]:
        """Addresses that were released and may be too fresh, with the time of their release."""
        yield from self._cooling.items()

    def hold(self, attachment: Attachment) -> None:
        """``attachment`` is there, with its addresses."""
        before = self._without(attachment.key)
        for address in before.addresses if before else ():
            self._holders.pop(address, None)
        self._attachments[attachment.key] = attachment
        of_pod = self._of_pods.setdefault((attachment.namespace, attachment.name), {})
        of_pod[attachment.key] = attachment
        if attachment.chained:
            return
        for address in attachment.addresses:
            self._cooling.pop(address, None)
            self._holders[address] = attachment.key
            for each in self._ranges:
                if each.may_be_asked_for(address):
                    self._last[each] = address

    def let_go(self, key: AttachmentKey, now_s: float) -> None:
        """The attachment is gone; its addresses are nobody's, and cool down."""
        found = self._without(key)
        for address in found.addresses if found and not found.chained else ():
            if self._holders.pop(address, None) is not None:
                self.cool(address, now_s)

    def _without(self, key: AttachmentKey) -> Attachment | None:
        found = self._attachments.pop(key, None)
        if found is not None:
            pod = found.namespace, found.name
            del self._of_pods[pod][key]
            if not self._of_pods[pod]:
                del self._of_pods[pod]
        return found

    def cool(self, address: Address, since_s: float) -> None:
        """``address`` was released at ``since_s``."""
        self._cooling.pop(address, None)
        self._cooling[address] = since_s

    def choose(self, asked: Sequence[Address], now_s: float) -> tuple[Address, ...]:
        """An address of each family that there are ranges for; of those ``asked`` for, these themselves.

        Raises:
            AddressesExhausted: a family has none left. AddressRefused: one asked for is not to be had.
        """
        self._forget_cool(now_s)
        for address in asked:
            self._check(address)
        given = {4 if is_ipv4(address) else 6 for address in asked}
        wanted = sorted({each.version for each in self._ranges} - given)
        return (*asked, *(self._next(version, now_s) for version in wanted))

    def _next(self, version: int, now_s: float) -> Address:
        ranges = [each for each in self._ranges if each.version == version]
        taken_most = len(self._holders) + len(self._cooling) + len(self._elsewhere)
        for each in ranges:
            found = each.next_free(self._is_taken, taken_most, self._last.get(each))
            if found is not None:
                return found
        usable = sum(each.usable for each in ranges)
        used = self._elsewhere.union(self._holders)
        in_use = sum(1 for address in used if any(each.gives(address) for each in ranges))
        cooling = [since for address, since in self._cooling.items() if any(e.gives(address) for e in ranges)]
        wait_s = max(0.0, min(cooling) + self._cool_down_s - now_s) if cooling else None
        raise AddressesExhausted([str(each.network) for each in ranges], usable, in_use, len(cooling), wait_s)

    def _is_taken(self, address: Address) -> bool:
        return address in self._holders or address in self._cooling or address in self._elsewhere

    def _check(self, address: Address) -> None:
        text = format_address(address)
        holder = self._holders.get(address)
        if holder is not None:
            raise AddressRefused(text, f"interface {holder[1]} of container {holder[0]} has it")
        if address in self._cooling:
            raise AddressRefused(text, f"it was released less than {self._cool_down_s:g} s ago")
        if address in self._elsewhere:
            raise AddressRefused(text, "a pod of another network plugin has it")
        if not any(each.may_be_asked_for(address) for each in self._ranges):
            raise AddressRefused(text, "it is in no pod CIDR of this node, or excluded")

    def _forget_cool(self, now_s: float) -> None:
        for address, since in list(self._cooling.items()):
            if since + self._cool_down_s <= now_s:
                del self._cooling[address]
            elif since > now_s:
                # The clock was set back: not longer than the cool-down from here.
                self._cooling[address] = now_s
