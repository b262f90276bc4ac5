"""What an API server said so far, as values of the model, and what of it the mesh has not been told yet.

Lists come per kind and changes in any order, and one object may change what another means (a node, where node ports are
answered; a ClusterIP, who may have an address). So everything is kept here first and handed out together: nothing before
each kind that services depend on was listed, and a bad version of an object leaves its last good one in force. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

from meshd.errors import InvalidObject
from meshd.kubeapi.answers import Item
from meshd.kubeapi.watching import Batch
from meshd.model import Address, BackendSlice, Node, Service, ServiceName
from meshd.sources.kubernetes.admission import Admission, Policy
from meshd.sources.kubernetes.claims import claims
from meshd.sources.kubernetes.objects import Context, Value, object_name, value_of
from meshd.sources.kubernetes.services import Remark
from meshd.sources.kubernetes.surroundings import Network, surroundings
from meshd.sources.kubernetes.types import KubernetesObject, ObjectName, StoredService

# What a service's rows depend on; pods have nothing to do with it.
TOGETHER = frozenset({"Namespace", "Node", "Service", "EndpointSlice"})
API_SERVICE = ServiceName("default", "kubernetes")

Puts = list[Value]
Deletes = list[tuple[type, Hashable]]


class Contents:
    """``known``: what the mesh has of this source from before. ``pods``, ``api_server``: what no external address may be,
    besides what nodes and the service `kubernetes` name."""

    def __init__(
        self,
        context: Context,
        policy: Policy,
        known: Iterable[Value] = (),
        pods: Sequence[Network] = (),
        api_server: Collection[tuple[Address, int]] = (),
    ) -> None:
        self._context = context
        self._admission = Admission(policy)
        self._values = {object_name(value): value for value in known}
        self._pods = pods
        self._api_server = frozenset(api_server)
        self._listed: set[str] = set()
        self._puts: dict[ObjectName, Value] = {}
        self._deletes: dict[tuple[type, Hashable], None] = {}
        self._invalid: dict[ObjectName, str] = {}
        self._remarks: dict[ServiceName, tuple[str, ...]] = {}
        self._to_grant: set[ServiceName] = set()
        self._api_slices: dict[ObjectName, BackendSlice] = {}
        self._other_nodes: list[Node] = []
        self._surrounded = False

    # What is heard

    def listed(self, kind: str, items: Iterable[Item[KubernetesObject]]) -> Iterator[None]:
        """These are all of ``kind``. In steps: nothing is gone before the last one."""
        named: set[ObjectName] = set()
        for item in items:
            name = ObjectName(kind, item.namespace, item.name)
            named.add(name)
            self._put(name, item)
            yield
        for name in [name for name in self._values if name.kind == kind and name not in named]:
            self._delete(name)
        for name in [name for name in self._invalid if name.kind == kind and name not in named]:
            del self._invalid[name]
        self._listed.add(kind)

    def changed(self, kind: str, batch: Batch[KubernetesObject]) -> None:
        """What happened to objects of ``kind``, in this order."""
        for change in batch:
            name = ObjectName(kind, change.item.namespace, change.item.name)
            if change.gone:
                self._delete(name)
                self._invalid.pop(name, None)
            else:
                self._put(name, change.item)

    def other_nodes(self, nodes: Iterable[Node]) -> None:
        """The nodes that other sources know."""
        self._other_nodes = list(nodes)
        self._surrounded = False

    # What the mesh is told

    @property
    def is_complete(self) -> bool:
        """Whether each kind was listed."""
        return self._listed >= TOGETHER | {"Pod"}

    def take(self) -> tuple[Puts, Deletes]:
        """What is new since the last call, as one change; nothing while kinds that belong together were not all listed."""
        if not self._listed >= TOGETHER:
            return [], []
        self._grant()
        puts, deletes = list(self._puts.values()), list(self._deletes)
        self._puts, self._deletes = {}, {}
        return puts, deletes

    def problems(self) -> list[str]:
        """What cannot be used as it stands, each as one sentence; services' own remarks are with them."""
        left_out = self._admission.leaves_out_other_nodes
        return [*self._invalid.values(), *([left_out] if left_out else [])]

    # Inside

    def _put(self, name: ObjectName, item: Item[KubernetesObject]) -> None:
        found = item.value
        if found is None:
            self._invalid[name] = f"{name}: {item.reason}; its last good version stands"
            return
        try:
            converted = value_of(found, name, self._context)
        except InvalidObject as error:
            self._invalid[name] = f"{error}; its last good version stands"
            return
        self._invalid.pop(name, None)
        value, before = converted.value, self._values.get(name)
        if isinstance(value, Service) and isinstance(found, StoredService):
            value = self._claim(found, value, converted.remarks, before)
        if value is None or (before is not None and before.key != value.key):
            self._delete(name)
        if value is not None and value != before:
            self._keep(name, value)

    def _claim(
        self, found: StoredService, service: Service, remarks: Iterable[Remark], before: Value | None
    ) -> Service:
        """``service`` with what was granted to it before, until what it claims now is judged."""
        asked, more = claims(found, service)
        self._to_grant |= self._admission.put(service, found.metadata.creation_timestamp or "", asked)
        said = tuple(f"{field}: {reason}" for field, reason in (*remarks, *more))
        if not asked:
            self._remarks.pop(service.name, None)
            return replace(service, remarks=said) if said else service
        self._remarks[service.name] = said
        self._to_grant.add(service.name)
        if not isinstance(before, Service):
            return service
        return replace(service, external=before.external, remarks=before.remarks)

    def _keep(self, name: ObjectName, value: Value) -> None:
        self._values[name] = self._puts[name] = value
        self._deletes.pop((type(value), value.key), None)
        if isinstance(value, Node):
            self._surrounded = False
        elif isinstance(value, BackendSlice) and value.service == API_SERVICE:
            self._api_slices[name] = value
            self._surrounded = False

    def _delete(self, name: ObjectName) -> None:
        value = self._values.pop(name, None)
        if value is None:
            return
        self._puts.pop(name, None)
        self._deletes[type(value), value.key] = None
        if isinstance(value, Service):
            self._to_grant |= self._admission.remove(value.name)
            self._to_grant.discard(value.name)
            self._remarks.pop(value.name, None)
        elif isinstance(value, Node) or self._api_slices.pop(name, None) is not None:
            self._surrounded = False

    def _grant(self) -> None:
        """Judge the claims of all services whose answer may be another than before."""
        if not self._surrounded:
            self._surround()
        for service_name in self._to_grant:
            name = ObjectName("Service", service_name.namespace, service_name.name)
            value = self._values.get(name)
            if not isinstance(value, Service):
                continue
            granted = self._admission.granted(service_name)
            said = (*self._remarks.get(service_name, ()), *granted.refused)
            if (granted.frontends, said) != (value.external, value.remarks):
                self._keep(name, replace(value, external=granted.frontends, remarks=said))
        self._to_grant.clear()

    def _surround(self) -> None:
        context = self._context
        own = (value for value in self._values.values() if isinstance(value, Node))
        named = {
            (backend.address, port.port)
            for part in self._api_slices.values()
            for backend in part.backends
            for port in backend.ports
        }
        around = surroundings(
            [*own, *self._other_nodes],
            (context.cluster, context.node),
            self._pods,
            self._api_server | named,
        )
        self._to_grant |= self._admission.surround(around)
        self._surrounded = True
