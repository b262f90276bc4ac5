"""Addresses of pods: nobody gets one that another has, or had a moment ago, whatever the machine does in between."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import AddressesExhausted, AddressRefused, ConfigError, JournalError
from meshd.model import Address, format_address, parse_address
from meshd.model.address_pool import address_ranges
from meshd.model.attachment import Attachment, workloads
from meshd.state.attachments import Attachments

COOL_DOWN_S = 10.0


def is_of_same_pod(one: Attachment, other: Attachment) -> bool:
    return (one.namespace, one.name) == (other.namespace, other.name)


def wanted(number: int, **more: object) -> Attachment:
    made = Attachment("mesh", f"c{number}", "eth0", f"/run/netns/{number}", "default", f"pod-{number}")
    return Attachment(**({f: getattr(made, f) for f in made.__slots__} | more))


@dataclass
class Machine:
    """A clock that the test sets, and a disk that may lose what was not synced."""

    directory: Path
    now_s: float = 1000.0
    ranges: tuple[str, ...] = ("10.1.1.0/28", "fd00:1:1::/64")
    reserved: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    synced: dict[int, int] = field(default_factory=dict)
    syncs_until_crash: int = -1
    refuse: int = 0
    during_sync: Callable[[], None] | None = None

    def attachments(self) -> Attachments:
        made = Attachments(
            self.directory / "attachments.journal",
            address_ranges(self.ranges, self.reserved, self.excluded),
            COOL_DOWN_S,
            clock=lambda: self.now_s,
            sync=self.sync,
            worth_bytes=300,
        )
        made.load()
        return made

    def sync(self, file: int) -> None:
        if self.refuse:
            raise OSError(self.refuse, os.strerror(self.refuse))
        if self.during_sync is not None:
            call, self.during_sync = self.during_sync, None
            call()
        if self.syncs_until_crash == 0:
            raise Crash
        self.syncs_until_crash -= 1
        os.fdatasync(file)
        status = os.fstat(file)
        self.synced[status.st_ino] = status.st_size

    def lose(self, share: float) -> None:
        """The power goes: of what was not synced a part is there."""
        path = self.directory / "attachments.journal"
        status = path.stat()
        durable = self.synced.get(status.st_ino, 0)
        os.truncate(path, durable + int((status.st_size - durable) * share))
        self.syncs_until_crash = -1


class Crash(Exception):
    """The process is gone."""


def text_of(addresses: tuple[Address, ...]) -> list[str]:
    return [format_address(address) for address in addresses]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_pod_gets_one_address_of_each_family(machine: Machine) -> None:
    made = machine.attachments().attach(wanted(1))
    assert text_of(made.addresses) == ["10.1.1.1", "fd00:1:1::1"]


def test_addresses_come_back_only_after_the_cool_down_and_as_late_as_possible(machine: Machine) -> None:
    machine.ranges = ("10.1.1.0/29",)
    found = machine.attachments()
    given_out = [found.attach(wanted(n)).addresses for n in range(6)]
    found.release(("c2", "eth0"))
    with pytest.raises(
        AddressesExhausted, match=r"10\.1\.1\.0/29: 6 usable, 5 in use, 1 just released .* 10 s"
    ):
        found.attach(wanted(7))
    machine.now_s += COOL_DOWN_S
    assert found.attach(wanted(7)).addresses == given_out[2]


def test_a_range_that_is_full_gives_over_to_the_next(machine: Machine) -> None:
    machine.ranges = ("10.1.1.0/31", "10.1.2.0/31")
    found = machine.attachments()
    addresses = [text_of(found.attach(wanted(n)).addresses) for n in range(4)]
    assert addresses == [["10.1.1.0"], ["10.1.1.1"], ["10.1.2.0"], ["10.1.2.1"]]
    with pytest.raises(AddressesExhausted, match=r"10\.1\.1\.0/31, 10\.1\.2\.0/31: 4 usable, 4 in use$"):
        found.attach(wanted(5))


def test_one_family_exhausted_takes_no_address_of_the_other(machine: Machine) -> None:
    machine.ranges = ("10.1.1.0/32", "fd00:1:1::/64")
    found = machine.attachments()
    found.attach(wanted(1))
    for _ in range(3):
        with pytest.raises(AddressesExhausted):
            found.attach(wanted(2))
    assert str(found.exhausted()) == "no address left in 10.1.1.0/32: 1 usable, 1 in use"
    assert [each.container_id for each in found.all()] == ["c1"]


def test_an_address_that_a_pod_of_another_plugin_has_is_given_to_nobody_for_as_long(machine: Machine) -> None:
    machine.ranges = ("10.1.1.0/29",)
    attachments = machine.attachments()
    attachments.avoid([parse_address("10.1.1.1"), parse_address("10.1.1.2")])
    assert text_of(attachments.attach(wanted(1)).addresses) == ["10.1.1.3"]
    with pytest.raises(AddressRefused, match="a pod of another network plugin has it"):
        attachments.attach(wanted(2), [parse_address("10.1.1.1")])
    for number in (4, 5, 6):
        attachments.attach(wanted(number))
    with pytest.raises(AddressesExhausted, match="6 usable, 6 in use"):
        attachments.attach(wanted(7))
    attachments.avoid([])
    assert text_of(attachments.attach(wanted(7)).addresses) == ["10.1.1.1"]


def test_reserved_addresses_are_given_by_name_and_excluded_ones_to_nobody(machine: Machine) -> None:
    machine.ranges, machine.reserved, machine.excluded = ("10.1.1.0/29",), ("10.1.1.1",), ("10.1.1.2/31",)
    found = machine.attachments()
    assert text_of(found.attach(wanted(1)).addresses) == ["10.1.1.4"]
    assert text_of(found.attach(wanted(2), [parse_address("10.1.1.1")]).addresses) == ["10.1.1.1"]
    for address, reason in {
        "10.1.1.2": "in no pod CIDR of this node, or excluded",
        "10.9.9.9": "in no pod CIDR of this node, or excluded",
        "fd00::1": "in no pod CIDR of this node, or excluded",
        "10.1.1.4": "interface eth0 of container c1 has it",
    }.items():
        with pytest.raises(AddressRefused, match=reason):
            found.attach(wanted(3), [parse_address(address)])


@pytest.mark.parametrize(
    ("cidrs", "reserved", "reason"),
    [
        (("10.1.1.0/24", "10.1.1.128/25"), (), "overlap"),
        (("10.1.1.1/24",), (), "host bits"),
        (("10.1.1.0/24",), ("10.2.0.1",), "in none of cni.podCidrs"),
        (("fd00::/64",), ("::/0",), "in none of cni.podCidrs"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(
    cidrs: tuple[str, ...], reserved: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        address_ranges(cidrs, reserved)


def test_a_clock_that_is_set_back_does_not_keep_addresses_for_longer(machine: Machine) -> None:
    machine.ranges = ("10.1.1.0/32",)
    found = machine.attachments()
    found.attach(wanted(1))
    found.release(("c1", "eth0"))
    machine.now_s -= 900.0
    assert found.exhausted() is not None
    machine.now_s += COOL_DOWN_S
    assert found.exhausted() is None


async def test_attachments_that_wait_together_share_the_way_to_the_disk(machine: Machine) -> None:
    found = machine.attachments()
    machine.syncs_until_crash = 2

    async def attach(number: int) -> None:
        found.attach(wanted(number))
        await found.durable()

    await asyncio.gather(*(attach(number) for number in range(13)))
    assert len(found.all()) == 13


async def test_a_disk_that_fails_is_told_and_then_used_again(machine: Machine) -> None:
    found = machine.attachments()
    found.attach(wanted(1))
    machine.refuse = errno.EIO
    with pytest.raises(JournalError, match=r"attachments\.journal: Input/output error"):
        await found.durable()
    machine.refuse = 0
    await found.durable()
    assert machine.attachments().all() == found.all()


async def test_what_changes_while_the_file_is_written_again_is_in_the_new_one(machine: Machine) -> None:
    found = machine.attachments()
    for number in range(8):
        found.attach(wanted(number))
    loop = asyncio.get_running_loop()

    async def meanwhile() -> None:
        found.attach(wanted(8))
        found.release(("c1", "eth0"))

    machine.during_sync = lambda: asyncio.run_coroutine_threadsafe(meanwhile(), loop).result()
    old_file = found.path.stat().st_ino
    await found.durable()
    assert found.path.stat().st_ino != old_file
    again = machine.attachments()
    assert again.all() == found.all()


@pytest.mark.parametrize("corrupt", [b"\0\0\0\n", b'["eat"]\n', b'["attached",{"a":1}]\n', b'["released"]\n'])
def test_a_line_that_cannot_be_read_costs_only_itself(machine: Machine, corrupt: bytes) -> None:
    machine.attachments().attach(wanted(1))
    with (machine.directory / "attachments.journal").open("ab") as file:
        file.write(corrupt)
    machine.attachments().attach(wanted(2))
    assert [each.name for each in machine.attachments().all()] == ["pod-1", "pod-2"]


def test_the_newer_container_of_a_pod_is_the_pod_with_all_of_its_interfaces() -> None:
    one, two, three = (parse_address(f"10.1.1.{n}") for n in (1, 2, 3))
    old = wanted(1, addresses=(one,))
    new = wanted(2, name="pod-1", addresses=(two,))
    second = wanted(2, name="pod-1", ifname="net1", addresses=(three,))
    (found,) = workloads([old, new, second]).values()
    assert (found.netns, found.addresses) == ("/run/netns/2", (two, three))
    (found,) = workloads([old]).values()
    assert found.netns == "/run/netns/1"


STEPS = st.one_of(
    st.tuples(st.just("attach"), st.integers(0, 7)),
    st.tuples(st.just("attach meanwhile"), st.integers(0, 7)),
    st.tuples(st.just("release"), st.integers(0, 7)),
    st.tuples(st.just("wait"), st.integers(1, 8)),
    st.tuples(st.just("kill"), st.just(0)),
    st.tuples(st.just("power cut"), st.just(0)),
    st.tuples(st.just("power cut at sync"), st.integers(0, 3)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(STEPS, min_size=5, max_size=80), st.floats(0, 1))
def test_an_address_is_never_given_twice_whenever_the_machine_dies(
    steps: list[tuple[str, int]], share: float
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        machine = Machine(Path(directory), ranges=("10.1.1.0/29", "fd00:1:1::/125"))
        asyncio.run(History(machine, share).live_through(steps))


class History:
    """What a runtime asked for and was told. Checks each answer against those before it."""

    def __init__(self, machine: Machine, share: float) -> None:
        self.machine = machine
        self.share = share
        self.attachments = machine.attachments()
        self.held: dict[int, Attachment] = {}
        self.released: dict[Address, float] = {}

    async def live_through(self, steps: list[tuple[str, int]]) -> None:
        meanwhile: list[asyncio.Task[None]] = []
        for step, number in steps:
            try:
                match step:
                    case "attach":
                        await self.attach(number)
                    case "attach meanwhile":
                        meanwhile.append(asyncio.create_task(self.attach(number)))
                        await asyncio.sleep(0)
                    case "release":
                        self.release(number)
                    case "wait":
                        self.machine.now_s += number
                    case "power cut at sync":
                        self.machine.syncs_until_crash = number
                    case _:
                        await self.die(meanwhile)
                        await self.start_again(power_cut=step == "power cut")
            except Crash:
                await self.die(meanwhile)
                await self.start_again(power_cut=True)
            told = {f"c{number}": each for number, each in self.held.items()}
            known = self.attachments.all()
            assert told.items() <= {each.container_id: each for each in known}.items()
            by_pod = [self.attachments.of_pod(each.namespace, each.name) for each in known]
            assert by_pod == [[other for other in known if is_of_same_pod(other, each)] for each in known]
        await self.end(meanwhile)
        await self.attachments.close()

    async def die(self, meanwhile: list[asyncio.Task[None]]) -> None:
        for task in meanwhile:
            task.cancel()
        await self.end(meanwhile)

    async def end(self, meanwhile: list[asyncio.Task[None]]) -> None:
        for outcome in await asyncio.gather(*meanwhile, return_exceptions=True):
            if isinstance(outcome, AssertionError):
                raise outcome
        meanwhile.clear()

    async def attach(self, number: int) -> None:
        if number in self.held:
            return
        try:
            made = self.attachments.get((f"c{number}", "eth0")) or self.attachments.attach(wanted(number))
        except AddressesExhausted:
            return
        for address in made.addresses:
            assert address not in {a for each in self.held.values() for a in each.addresses}
            assert self.machine.now_s >= self.released.get(address, -1e9) + COOL_DOWN_S
        await self.attachments.durable()
        # Somebody may have taken it away while it was written.
        if self.attachments.get(made.key) == made:
            self.held[number] = made

    def release(self, number: int) -> None:
        self.attachments.release((f"c{number}", "eth0"))
        # Of an address that nobody was told, nobody remembers the last holder.
        if number in self.held:
            self.released.update(dict.fromkeys(self.held.pop(number).addresses, self.machine.now_s))

    async def start_again(self, *, power_cut: bool) -> None:
        """As the agent starts: what no runtime was told of, or what one gave back, has no interface any more."""
        await self.attachments.close()
        if power_cut:
            self.machine.lose(self.share)
        self.machine.syncs_until_crash = -1
        self.attachments = self.machine.attachments()
        for each in self.attachments.all():
            if each not in self.held.values():
                self.release(int(each.container_id[1:]))
