"""The pin that is in force of one peer: stated in its file, or learned from its first list and kept on disk."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import structlog

from clustermesh import pin
from clustermesh.addresses import Network
from clustermesh.errors import ClustermeshError, OptionsError
from clustermesh.invitation import as_mapping, dump
from clustermesh.learned_pin import ForbidsNetwork, learnable, learned, no_network
from clustermesh.node_record import Node
from clustermesh.pin import Pin, within
from clustermesh.whole_file import write

log = structlog.get_logger()

LEARN_S = 60.0
"""For so long after the first list with nodes others teach, too: of a cluster that is starting they come one by one."""
MOST_TRIED = 10_000

PinOrigin = Literal["stated", "learned", "none yet"]


class LearnedPins:
    """What was learned of peers, a file for each in ``directory``, which is made when the first is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> Path:
        """Where it stands of peer ``name``, if anything was learned."""
        return self._directory / name

    def load(self, name: str) -> Pin | None:
        """What was learned of peer ``name``; None: nothing yet.

        Raises:
            OptionsError: the file cannot be used.
        """
        path = self.path(name)
        try:
            found = pin.parse(as_mapping(path, path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OptionsError(f"{path}: {error.strerror}") from error
        except ClustermeshError as error:
            raise OptionsError(f"{path}: {error}") from error
        if not (found.cluster_id and found.networks):
            raise OptionsError(f"{path}: expected a cluster-id and networks")
        return Pin(found.cluster_id, found.networks, is_learned=True)

    def put(self, name: str, one: Pin) -> None:
        """``one`` was learned of peer ``name``. Raises OSError: what was there before is there still."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(self.path(name), dump(pin.render(one)))

    def forget(self, name: str) -> bool:
        """Nothing was learned of peer ``name``; whether something was. Raises OSError."""
        try:
            self.path(name).unlink()
        except FileNotFoundError:
            return False
        return True


class Learner:
    """Of peer ``name``, whose file states ``stated``. ``pins`` None: nothing is ever learned.

    ``forbids``: which networks no peer may have. ``elsewhere()``: what other peers have, ``stated_elsewhere()`` what they
    were joined with. ``learn_s``: after the first list with nodes for so long.
    """

    def __init__(
        self,
        name: str,
        stated: Pin,
        pins: LearnedPins | None = None,
        *,
        forbids: ForbidsNetwork = no_network,
        elsewhere: Callable[[], Iterable[Network]] = tuple,
        stated_elsewhere: Callable[[], Sequence[Network]] = tuple,
        learn_s: float = LEARN_S,
    ) -> None:
        self._name = name
        self._stated = stated
        self._pins = pins
        self._forbids = forbids
        self._elsewhere = elsewhere
        self._stated_elsewhere = stated_elsewhere
        self._learn_s = learn_s
        self._learned: Pin | None = None
        # All that was learned from; empty: an earlier process did.
        self._named = Counter[Network]()
        self._until = 0.0
        self._tried: set[frozenset[Network]] = set()
        self.problem = ""
        self.load()

    def load(self) -> None:
        """Look at the disk: ``problem`` says why what was learned cannot be used; "": it can, or nothing was."""
        if self._pins is None or self._learned is not None or self._states_all:
            return
        try:
            self._learned, self.problem = self._pins.load(self._name), ""
        except OptionsError as error:
            if self.problem != str(error):
                log.error(
                    "learned pin cannot be used, the peer is not connected, what it shared before stands",
                    cluster=self._name,
                    reason=str(error),
                )
            self.problem = str(error)

    @property
    def pin(self) -> Pin:
        """What the peer may be and name: what is stated, and for what is not, what was learned."""
        if self._learned is None or self._states_all:
            return self._stated
        stated, found = self._stated, self._learned
        return Pin(stated.cluster_id or found.cluster_id, stated.networks or found.networks, is_learned=True)

    @property
    def origin(self) -> PinOrigin:
        """Where pin() is from; learned also if only a part of it was."""
        if self._states_all:
            return "stated"
        return "none yet" if self._learned is None else "learned"

    @property
    def is_to_learn(self) -> bool:
        """Whether the next list with nodes says what the peer's pin is, or more of it."""
        if self._pins is None or self.problem or self._states_all:
            return False
        return self._learned is None or time.monotonic() < self._until

    def would_learn(self, node: Node) -> bool:
        """Whether a list with ``node`` may teach something; said once of the same networks."""
        if not self.is_to_learn:
            return False
        named = frozenset(each for each in learnable([node], self._forbids) if not self._has(each))
        if not named or named in self._tried or len(self._tried) >= MOST_TRIED:
            return False
        self._tried.add(named)
        return True

    async def learn(self, cluster_id: int, nodes: Sequence[Node]) -> bool:
        """``nodes`` are all that a peer with ``cluster_id`` names; whether its pin is another by them."""
        if not self.is_to_learn or self._pins is None:
            return False
        self._named |= learnable(nodes, self._forbids, self._elsewhere())
        found = learned(cluster_id, self._named, self._stated_elsewhere())
        if found is None or found == self._learned:
            return False
        networks = [str(each) for each in found.networks]
        log.info("pin learned, unconfirmed", cluster=self._name, cluster_id=cluster_id, networks=networks)
        try:
            await asyncio.to_thread(self._pins.put, self._name, found)
        except OSError as error:
            log.error(
                "learned pin not written, it holds until the next start",
                cluster=self._name,
                path=str(self._pins.path(self._name)),
                reason=str(error),
            )
        # Once it is written: whoever sees it in force finds the file.
        if self._learned is None:
            self._until = time.monotonic() + self._learn_s
        self._learned = found
        return True

    def _has(self, network: Network) -> bool:
        found = self._learned.networks if self._learned is not None else ()
        return any(within(network, each) for each in found)

    @property
    def _states_all(self) -> bool:
        return bool(self._stated.cluster_id and self._stated.networks)
