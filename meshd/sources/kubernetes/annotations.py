"""The annotations that meshd reads, and who wins where two of them speak of the same thing.

``meshd.io/`` wins over the names that Cilium defines, and Cilium's newer name over its older alias. Cilium
takes anything but "true" (in any case) as false, and so do we for its names, so that an object means here what
it means there; under our own prefix a value that says neither is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshd.errors import InvalidObject
from meshd.model import Affinity, OnStale
from meshd.model.failover import RAMP_MAX_S, Ladder, parse_ladder

OWN_PREFIX = "meshd.io/"
NETNS = "meshd.io/netns"
SOCKET_LB = "meshd.io/socket-lb"
SHORT_CIRCUIT = "meshd.io/short-circuit"
WEIGHT = "meshd.io/weight"
CLOSE_TCP = "meshd.io/close-tcp-on-removal"
CLOSE_ON_FAILOVER = "meshd.io/close-on-failover"
ON_STALE = "meshd.io/on-stale"
SERVICE_GLOBAL = ("meshd.io/global", "service.cilium.io/global", "io.cilium/global-service")
SERVICE_SHARED = ("meshd.io/shared", "service.cilium.io/shared", "io.cilium/shared-service")
SERVICE_AFFINITY = ("meshd.io/affinity", "service.cilium.io/affinity", "io.cilium/service-affinity")
FAILOVER = "meshd.io/failover"
MIN_HEALTHY_PERCENT = "meshd.io/min-healthy-percent"
RAMP = "meshd.io/ramp"
NAMESPACE_GLOBAL = "meshd.io/global"
# Of Cilium: whether annotated services of the namespace may be global; it makes no service global by itself.
NAMESPACE_MAY_BE_GLOBAL = "clustermesh.cilium.io/global"

WEIGHT_DEFAULT = 100
WEIGHT_MAX = 65535


class Annotations:
    """The annotations of one object; a value that is no answer is refused with the names of both."""

    def __init__(self, object_name: str, values: Mapping[str, str] | None) -> None:
        self._object_name = object_name
        self._values = values or {}

    def text(self, *names: str) -> tuple[str, str] | None:
        """Name and value of the first of ``names`` that is there."""
        return next(((name, self._values[name]) for name in names if name in self._values), None)

    def truth(self, *names: str) -> bool | None:
        """What the first of ``names`` that is there says; None: none is.

        Raises:
            InvalidObject: one of ours says neither true nor false.
        """
        found = self.text(*names)
        if found is None:
            return None
        name, value = found
        if name.startswith(OWN_PREFIX) and value.lower() not in ("true", "false"):
            raise self._invalid(name, f"{value!r} is neither true nor false")
        return value.lower() == "true"

    def service_affinity(self) -> Affinity:
        """Which clusters' backends the service prefers; none where nothing is said.

        Raises:
            InvalidObject: ``meshd.io/affinity`` says something else than none, local or remote.
        """
        found = self.text(*SERVICE_AFFINITY)
        if found is None:
            return Affinity.NONE
        name, value = found
        try:
            return Affinity(value.lower())
        except ValueError:
            if not name.startswith(OWN_PREFIX):
                return Affinity.NONE
            raise self._invalid(name, f"{value!r} is not one of none, local, remote") from None

    def failover(self) -> Ladder:
        """The ladder of a service; empty where nothing is said, so its affinity decides.

        Raises:
            InvalidObject: a part of it is none.
        """
        text = self._values.get(FAILOVER)
        if text is None:
            return ()
        try:
            return parse_ladder(text)
        except ValueError as error:
            raise self._invalid(FAILOVER, str(error)) from None

    def min_healthy_percent(self) -> int | None:
        """Which share of a rung must be healthy for it to take everything; None where nothing is said.

        Raises:
            InvalidObject: it is no number from 0 to 100.
        """
        return self._number(MIN_HEALTHY_PERCENT, 0, 100)

    def ramp_s(self) -> int:
        """For so many seconds the share of a cluster grows that serves again; 0 where nothing is said.

        Raises:
            InvalidObject: it is no number from 0 to 86400.
        """
        return self._number(RAMP, 0, RAMP_MAX_S) or 0

    def on_stale(self) -> OnStale | None:
        """What becomes of stale backends of the service; None where nothing is said.

        Raises:
            InvalidObject: it says something else than keep, deprioritise or drop.
        """
        value = self._values.get(ON_STALE)
        if value is None:
            return None
        try:
            return OnStale(value.lower())
        except ValueError:
            raise self._invalid(ON_STALE, f"{value!r} is not one of keep, deprioritise, drop") from None

    def weight(self) -> int:
        """The weight of the backends of a slice, 1..65535.

        Raises:
            InvalidObject: it is no such number.
        """
        found = self._number(WEIGHT, 1, WEIGHT_MAX)
        return WEIGHT_DEFAULT if found is None else found

    def _number(self, name: str, least: int, most: int) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and least <= int(value[:9]) <= most):
            raise self._invalid(name, f"{value!r} is not a number from {least} to {most}")
        return int(value)

    def _invalid(self, name: str, reason: str) -> InvalidObject:
        return InvalidObject(self._object_name, f"metadata.annotations[{name}]", reason)
