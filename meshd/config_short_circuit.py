"""The section `shortCircuit` of the configuration: same-node connections handed from socket to socket."""

from __future__ import annotations

import msgspec

from meshd.errors import ConfigError

# What the programs remember of messages that wait is enough for so many.
MOST_MESSAGES = 1008
LEAST_BYTES, MOST_BYTES = 65536, 64 << 20


class ShortCircuit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which connections between workloads of this node go around TCP, and how much may wait in them.

    ``enabled``: whether any workload may be selected.
    ``default``: whether those are whose annotations, and those of their namespace, say nothing; processes of the node itself
    are selected by this alone.
    ``queue_bytes``: so many bytes may wait for the reader of a connection; what is more goes on TCP, which makes the writer
    wait.
    ``queue_messages``: the same in messages (what a writer wrote at once), at most 1008.
    ``watch_s``: for so long a new workload is watched before any of its connections is admitted: whether it splices.
    ``after_packets``: a connection is looked at after so many packets of a workload; shorter ones are not worth it.
    """

    enabled: bool = True
    default: bool = False
    queue_bytes: int = 8 << 20
    queue_messages: int = 1000
    watch_s: float = 5.0
    after_packets: int = 10


def check(options: ShortCircuit) -> None:
    """Returns if the options make sense.

    Raises:
        ConfigError: names the option and what to change.
    """
    if not LEAST_BYTES <= options.queue_bytes <= MOST_BYTES:
        raise ConfigError(
            f"shortCircuit.queueBytes is {options.queue_bytes}, it must be {LEAST_BYTES}..{MOST_BYTES}"
        )
    if not 1 <= options.queue_messages <= MOST_MESSAGES:
        raise ConfigError(
            f"shortCircuit.queueMessages is {options.queue_messages}, it must be 1..{MOST_MESSAGES}"
        )
    if options.watch_s < 0:
        raise ConfigError(f"shortCircuit.watchS is {options.watch_s:g}, it cannot be negative")
    if not 0 <= options.after_packets <= 255:
        raise ConfigError(f"shortCircuit.afterPackets is {options.after_packets}, it must be 0..255")
