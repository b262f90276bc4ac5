"""What is learned of a peer that nobody pinned: arithmetic, the file it is kept in, and the file it is stated in."""

from __future__ import annotations

import stat
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import structlog.testing

from clustermesh.addresses import Network
from clustermesh.errors import InvalidRecord, OptionsError, PeerFileError
from clustermesh.learned_pin import MOST, learnable, learned, no_network
from clustermesh.learner import LearnedPins, Learner
from clustermesh.node_record import Node, NodeAddress
from clustermesh.peers import read_directory
from clustermesh.pin import ANY, Pin
from clustermesh.pin_file import state


def node(name: str, *named: str, kind: str = "InternalIP") -> Node:
    """A node with these pod CIDRs and addresses, whatever the family."""
    networks = [ip_network(each) for each in named if "/" in each]
    return Node(
        name,
        "cm-2",
        2,
        addresses=tuple(NodeAddress(kind, ip_address(each)) for each in named if "/" not in each),
        ipv4_secondary_networks=tuple(each for each in networks if each.version == 4),
        ipv6_secondary_networks=tuple(each for each in networks if each.version == 6),
    )


def of(*named: str, stated: tuple[str, ...] = (), elsewhere: tuple[str, ...] = ()) -> list[str] | None:
    """The networks that are learned of one node that names these; None: nothing is."""
    taken = learnable([node("n1", *named)], no_network, [ip_network(each) for each in elsewhere])
    found = learned(2, taken, [ip_network(each) for each in stated])
    return None if found is None else [str(each) for each in found.networks]


@pytest.mark.parametrize(
    ("named", "networks"),
    [
        (("10.2.1.0/24", "192.0.2.7"), ["10.2.0.0/16", "192.0.0.0/16"]),
        (("10.2.0.0/16",), ["10.2.0.0/16"]),
        (("10.2.1.0/24", "10.3.1.0/24"), ["10.2.0.0/15"]),
        (("10.3.1.0/24", "10.4.1.0/24"), ["10.3.0.0/16", "10.4.0.0/16"]),
        (("fd00:2:0:1::/64", "fd00:2::7"), ["fd00:2::/48"]),
        (("fd00:2::7", "10.2.1.0/24"), ["10.2.0.0/16", "fd00:2::/48"]),
        # Wider than what anything is widened to: not learned, and so refused from then on.
        (("0.0.0.0/0", "10.2.1.0/24"), ["10.2.0.0/16"]),
        (("10.0.0.0/8", "192.0.2.7"), ["192.0.0.0/16"]),
        (("::/0", "fd00::/16", "fd00:2::7"), ["fd00:2::/48"]),
        (("0.0.0.0/0",), None),
        ((), None),
    ],
)
def test_what_a_node_names_is_widened_so_far_and_no_further(
    named: tuple[str, ...], networks: list[str] | None
) -> None:
    assert of(*named) == networks


@pytest.mark.parametrize(
    ("named", "elsewhere", "networks"),
    [
        # Another's, a part of it, all around it: none of that is learned.
        (("10.3.1.0/24", "10.2.1.0/24"), "10.3.1.0/24", ["10.2.0.0/16"]),
        (("10.3.1.5", "10.2.1.0/24"), "10.3.1.0/24", ["10.2.0.0/16"]),
        (("10.3.0.0/16", "10.2.1.0/24"), "10.3.1.7/32", ["10.2.0.0/16"]),
        (("10.3.1.0/24",), "10.3.1.0/24", None),
        # A neighbour in the same network keeps nobody from growing there.
        (("172.18.0.5",), "172.18.0.4/32", ["172.18.0.0/16"]),
    ],
)
def test_what_another_peer_has_is_not_learned(
    named: tuple[str, ...], elsewhere: str, networks: list[str] | None
) -> None:
    assert of(*named, elsewhere=(elsewhere,)) == networks


@pytest.mark.parametrize(
    ("stated", "networks"),
    [
        (("10.2.128.0/17",), ["10.2.0.0/17"]),
        (("10.2.64.0/18", "10.2.128.0/17"), ["10.2.0.0/18"]),
        (("10.3.0.0/16", "fd00:2::/48"), ["10.2.0.0/16"]),
        (("10.0.0.0/8",), None),
    ],
)
def test_what_others_were_joined_with_is_cut_out(stated: tuple[str, ...], networks: list[str] | None) -> None:
    assert of("10.2.1.0/24", stated=stated) == networks


def test_what_is_ours_is_not_learned() -> None:
    def forbids(network: Network) -> str:
        return "is ours" if network.overlaps(ip_network("10.1.0.0/16")) else ""

    named = learnable([node("n1", "10.1.3.0/24", "10.1.0.9", "10.2.1.0/24")], forbids)
    assert [str(each) for each in named] == ["10.2.1.0/24"]


def test_a_peer_that_names_very_many_networks_gets_those_that_most_nodes_are_in() -> None:
    crowd = [node(f"n{number}", f"20.{number}.0.1", "10.2.1.0/24") for number in range(200)]
    crowd += [node(f"m{number}", f"30.{number}.0.1", "10.2.1.0/24") for number in range(200)]
    found = learned(2, learnable(crowd, no_network))
    assert found is not None
    assert any(each == ip_network("10.2.0.0/16") for each in found.networks)
    assert sum(each.num_addresses for each in found.networks) == MOST << 16


LEARNED = Pin(2, (ip_network("10.2.0.0/16"), ip_network("fd00:2::/48")), is_learned=True)
NODES = [node("n1", "10.2.1.0/24", "fd00:2::1")]


async def test_the_first_list_with_nodes_is_learned_once_and_by_the_next_process_too(tmp_path: Path) -> None:
    pins = LearnedPins(tmp_path / "pins")
    one = Learner("cm-2", ANY, pins, learn_s=0.0)
    assert (one.pin, one.origin) == (ANY, "none yet")
    assert not await one.learn(2, [])
    assert one.origin == "none yet"
    assert await one.learn(2, NODES)
    assert (one.pin, one.origin) == (LEARNED, "learned")
    assert not await one.learn(3, [node("n1", "10.9.1.0/24")])
    again = Learner("cm-2", ANY, LearnedPins(tmp_path / "pins"))
    assert (again.pin, again.origin, again.is_to_learn) == (LEARNED, "learned", False)
    assert stat.S_IMODE((tmp_path / "pins" / "cm-2").stat().st_mode) == 0o600
    assert Learner("cm-3", ANY, pins).origin == "none yet"
    assert pins.forget("cm-2")
    assert not pins.forget("cm-2")
    assert Learner("cm-2", ANY, pins).origin == "none yet"


async def test_more_is_learned_for_a_while_of_the_same_bounds(tmp_path: Path) -> None:
    one = Learner("cm-2", ANY, LearnedPins(tmp_path), learn_s=600.0)
    wider = node("n2", "10.3.1.0/24")
    assert one.would_learn(wider)
    assert await one.learn(2, NODES)
    assert not one.would_learn(NODES[0])
    assert not one.would_learn(wider)  # asked for already: its list is under way
    assert await one.learn(2, [wider])
    assert [str(each) for each in one.pin.networks] == ["10.2.0.0/15", "fd00:2::/48"]
    assert not await one.learn(2, NODES)
    assert LearnedPins(tmp_path).load("cm-2") == one.pin
    assert not Learner("cm-2", ANY, LearnedPins(tmp_path), learn_s=600.0).is_to_learn


@pytest.mark.parametrize(
    ("stated", "pin", "origin"),
    [
        (Pin(2, (ip_network("10.9.0.0/16"),)), Pin(2, (ip_network("10.9.0.0/16"),)), "stated"),
        (Pin(7), Pin(7, LEARNED.networks, is_learned=True), "learned"),
        (
            Pin(0, (ip_network("10.9.0.0/16"),)),
            Pin(2, (ip_network("10.9.0.0/16"),), is_learned=True),
            "learned",
        ),
    ],
)
def test_what_is_stated_stands_above_what_was_learned(
    stated: Pin, pin: Pin, origin: str, tmp_path: Path
) -> None:
    pins = LearnedPins(tmp_path)
    pins.put("cm-2", LEARNED)
    one = Learner("cm-2", stated, pins)
    assert (one.pin, one.origin, one.is_to_learn) == (pin, origin, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("networks: [10.2.0.0/16", "is not YAML"),
        ("", "is not a mapping"),
        ("cluster-id: 2\nnetworks: []\n", "expected a cluster-id and networks"),
        ("cluster-id: 2\nnetworks: [10.2.0.1/16]\n", "has host bits set"),
    ],
)
async def test_a_broken_file_is_one_error_and_nothing_is_learned_anew(
    text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "cm-2").write_text(text)
    with structlog.testing.capture_logs() as logs:
        one = Learner("cm-2", ANY, LearnedPins(tmp_path))
        one.load()
    assert [each["log_level"] for each in logs] == ["error"]
    assert reason in one.problem
    assert str(tmp_path / "cm-2") in one.problem
    assert not await one.learn(2, NODES)
    assert (tmp_path / "cm-2").read_text() == text
    # Mended: it is as it was.
    LearnedPins(tmp_path).put("cm-2", LEARNED)
    one.load()
    assert (one.problem, one.pin) == ("", LEARNED)


async def test_what_cannot_be_written_holds_until_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "pins").write_text("a file where the directory should be")
    with structlog.testing.capture_logs() as logs:
        one = Learner("cm-2", ANY, LearnedPins(tmp_path / "pins"))
    assert one.problem
    assert [each["log_level"] for each in logs] == ["error"]
    (tmp_path / "pins").unlink()
    one = Learner("cm-2", ANY, LearnedPins(tmp_path / "pins"))
    (tmp_path / "pins").write_text("again")
    with structlog.testing.capture_logs() as logs:
        assert await one.learn(2, NODES)
    assert "learned pin not written, it holds until the next start" in {each["event"] for each in logs}
    assert one.pin == LEARNED


def test_a_refusal_says_that_the_network_was_learned() -> None:
    with pytest.raises(
        InvalidRecord, match=r"AllocCIDR: 10\.3\.1\.0/24 is in no network that the peer named"
    ):
        LEARNED.node("KEY", node("n2", "10.3.1.0/24"))
    assert LEARNED.config_problem(3) == "its cluster id is 3, its first 2"


FILE = "# of our own\nendpoints: [http://127.0.0.1:2379]"


def test_a_pin_is_stated_at_the_end_of_the_peer_file(tmp_path: Path) -> None:
    path = tmp_path / "cm-2"
    path.write_text(FILE)
    path.chmod(0o640)
    state(path, "cm-2", LEARNED)
    assert path.read_text().startswith(FILE + "\nmeshd.io/pin:\n")
    assert read_directory(tmp_path, "cm-1", {}).peers["cm-2"].pin == Pin(2, LEARNED.networks)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["cm-2"]


def _linked(path: Path) -> None:
    path.with_name("real").write_text(FILE)
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_linked, "is a link"),
        (
            lambda path: path.write_text(FILE + "\nmeshd.io/pin: {cluster-id: 2}\n"),
            "states meshd.io/pin already",
        ),
        (lambda path: path.write_text("{endpoints: ['http://127.0.0.1:2379']}"), "is not YAML"),
        (lambda path: path.write_text("endpoints: 5"), "endpoints: expected a list"),
    ],
)
def test_a_file_that_cannot_take_it_stays_as_it_is(
    make: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "cm-2"
    make(path)
    before = path.read_bytes()
    with pytest.raises(PeerFileError, match=reason):
        state(path, "cm-2", LEARNED)
    assert path.read_bytes() == before


def test_a_learned_pin_of_nothing_is_no_pin(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="expected a cluster-id and networks"):
        (tmp_path / "cm-2").write_text("cluster-id: 0\nnetworks: [10.2.0.0/16]\n")
        LearnedPins(tmp_path).load("cm-2")
