"""The local cluster's voice: of all its nodes one is elected and keeps the cluster's records in etcd as
they should be.

What a term in office does is in term.py; here is who has it, and for how long.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn

import structlog

from clustermesh import keys
from clustermesh.desired import DesiredServices
from clustermesh.election import Office, again_and_again, campaign, given_up
from clustermesh.errors import ClustermeshError, InvalidRecord, KvError, OptionsError
from clustermesh.kv import Kv
from clustermesh.lease_pool import KEYS_PER_LEASE, LeasePool
from clustermesh.records import EXPORT_MODES, ClusterConfig, ClusterService, encode_config
from clustermesh.single_key import until_absent
from clustermesh.term import Tally, Term
from clustermesh.together import until_failure

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PublisherOptions:
    """Times in seconds.

    ``election_ttl_s`` is how long a dead publisher is waited for, ``data_ttl_s`` how long its records
    outlive it; the first must be the shorter, or records would vanish before a successor could adopt them.
    Below 15 s a change of etcd's leader can end a lease. ``audit_s``: how often etcd is read again and
    compared.
    """

    election_ttl_s: int = 15
    data_ttl_s: int = 900
    heartbeat_s: float = 60.0
    audit_s: float = 300.0
    keys_per_lease: int = KEYS_PER_LEASE

    def __post_init__(self) -> None:
        if not 0 < self.election_ttl_s < self.data_ttl_s:
            raise OptionsError(
                f"election lease of {self.election_ttl_s} s must be shorter than the data lease of "
                f"{self.data_ttl_s} s, or records vanish before a successor is elected"
            )


Role = Literal["stopped", "candidate", "standby", "publisher"]


@dataclass(frozen=True, slots=True)
class PublisherStatus:
    """``role`` since ``since`` (Unix seconds); ``holder`` is who publishes.

    ``failed``: key -> why etcd refused it.
    """

    role: Role = "stopped"
    since: float = 0.0
    holder: str = ""
    services: int = 0
    complete: bool = False
    pending: int = 0
    puts: int = 0
    deletes: int = 0
    terms: int = 0
    last_error: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)


class Publisher:
    """Publishes ``cluster`` into ``kv`` whenever this process is the elected one. ``run()`` does the work.

    The desired services may be changed at any time, before, during and after being elected; the newest count.
    """

    def __init__(
        self,
        kv: Kv,
        cluster: str,
        config: ClusterConfig,
        *,
        node: str = "",
        options: PublisherOptions | None = None,
    ) -> None:
        if (problem := keys.cluster_name_problem(cluster)) is not None:
            raise OptionsError(f"cluster name {cluster!r} {problem}")
        if not 0 < config.cluster_id <= config.max_connected_clusters:
            limit = config.max_connected_clusters
            raise OptionsError(f"cluster id {config.cluster_id} is not within 1..{limit}")
        if config.endpoint_slices_export_mode not in EXPORT_MODES:
            raise OptionsError(
                f"export mode {config.endpoint_slices_export_mode!r} is none of {EXPORT_MODES}"
            )
        self._kv = kv
        self._cluster = cluster
        self._config = encode_config(config)
        self._options = options or PublisherOptions()
        self._name = f"{node or 'publisher'}/{secrets.token_hex(8)}"
        # One process at a time runs on a node, so at our start whoever holds the office in its name is dead. Once only:
        # two nodes that were given one name by mistake must not throw each other out for ever.
        self._dead_prefix = f"{node}/" if node else ""
        self._pool = LeasePool(kv, self._options.data_ttl_s, self._options.keys_per_lease)
        self._export_mode = config.endpoint_slices_export_mode
        self._desired = DesiredServices(cluster, config.cluster_id, self._export_mode)
        self._tally = Tally()
        self._status = PublisherStatus()

    def set_services(
        self, services: Iterable[ClusterService], *, complete: bool = True
    ) -> dict[str, InvalidRecord]:
        """Replace the desired services; with ``complete`` False, while the source still lists, only add to
        them.

        Returns those that cannot be published, by ``namespace/name``; what was published of them stays.
        """
        return self._desired.replace(services, complete=complete)

    def upsert(self, service: ClusterService) -> None:
        """Add or change one. InvalidRecord if it cannot be published; then nothing changes."""
        self._desired.upsert(service)

    def delete(self, namespace: str, name: str) -> None:
        """Take one back, also before the desired set is complete. An absent one is no error."""
        self._desired.delete(namespace, name)

    async def settled(self) -> None:
        """Return when all that was handed over before the call is in etcd (or refused: see status.failed).

        Only an elected publisher writes, so on a standby this waits until it is elected.
        """
        await self._desired.settled()

    @property
    def status(self) -> PublisherStatus:
        """Role, counters and the last failure."""
        return replace(
            self._status,
            services=self._desired.services,
            complete=self._desired.complete,
            pending=self._desired.pending,
            puts=self._tally.puts,
            deletes=self._tally.deletes,
            failed=dict(self._tally.failed),
        )

    async def run(self) -> NoReturn:
        """Stand for election, publish while in office, again and again until cancelled.

        When cancelled the records stay, kept by their leases, and the office is given up at once.
        """

        def failed(failure: ClustermeshError, retry_s: float) -> None:
            self._status = replace(self._status, last_error=str(failure))
            log.warning("publishing interrupted", cluster=self._cluster, reason=str(failure), retry_s=retry_s)

        await again_and_again(self._kv, self._try_once, failed)

    async def _try_once(self) -> ClustermeshError | None:
        """Be elected and serve, or wait until the office is free (None); else what went wrong."""
        key = keys.publisher(self._cluster)
        self._enter("candidate")
        try:
            await self._pool.revive()
            office = await campaign(
                self._kv, key, self._name, self._options.election_ttl_s, self._dead_prefix
            )
            self._dead_prefix = ""
            if isinstance(office, str):
                self._enter("standby", holder=office)
                await until_absent(self._kv, key)
                return None
            self._enter("publisher", holder=self._name)
            self._status = replace(self._status, terms=self._status.terms + 1)
            log.info("elected publisher", cluster=self._cluster)
            return await self._serve(office)
        except KvError as error:
            return error
        finally:
            self._desired.stop_noting()

    async def _serve(self, office: Office) -> ClustermeshError:
        """One term in office; why it ended."""
        term = Term(
            self._kv,
            self._cluster,
            self._config,
            office.fence,
            export_mode=self._export_mode,
            pool=self._pool,
            desired=self._desired,
            tally=self._tally,
        )
        async with given_up(self._kv, office):
            return await until_failure(
                self._kv.keep(office.lease),
                self._pool.keep(),
                term.publish(self._options.audit_s),
                term.beat(self._options.heartbeat_s),
            )

    def _enter(self, role: Role, *, holder: str = "") -> None:
        self._status = replace(self._status, role=role, since=time.time(), holder=holder)
