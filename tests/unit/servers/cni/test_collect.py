"""GC goes on past what fails, and says all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshd.errors import JournalError, KernelError
from meshd.model import Address, parse_address
from meshd.model.attachment import Attachment, AttachmentKey, PodInterface
from meshd.model.workload import PodLink
from meshd.servers.cni.errors import CniError
from meshd.servers.cni.plugin import Plugin
from meshd.servers.cni.question import NetworkConfig, Question, ValidAttachment
from meshd.state import Mesh
from meshd.state.attachments import Attachments


@dataclass(slots=True)
class Kernel:
    """Pods' links and rows, without a kernel: ``broken`` says what it refuses."""

    broken: str = ""
    forgotten: list[AttachmentKey] = field(default_factory=list)
    freed: list[Address] = field(default_factory=list)
    collected: int = 0

    def why_no_pod(self, netns: str) -> str:
        del netns
        return ""

    async def attach(self, attachment: Attachment) -> PodInterface:
        raise NotImplementedError

    async def observe(self, attachment: Attachment) -> None:
        raise NotImplementedError

    def link(self, attachment: Attachment) -> PodLink | None:
        del attachment
        return None

    def forget(self, key: AttachmentKey) -> None:
        self.forgotten.append(key)

    async def interface(self, attachment: Attachment) -> PodInterface:
        raise NotImplementedError

    async def alive(self, known: Callable[[], Iterable[Attachment]]) -> Sequence[Attachment]:
        if self.broken == "links":
            raise KernelError("list", "links", 5)
        return list(known())

    async def why_limited(self) -> str:
        return ""

    async def wrong(self, attachment: Attachment) -> Sequence[str]:
        del attachment
        return ()


class Rows:
    """Rows of pods: ``kernel`` says what it refuses."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def wrong(self, pod: str) -> Sequence[str]:
        del pod
        return ()

    def mend(self, pod: str) -> None:
        del pod

    def released(self, address: Address) -> None:
        self._kernel.freed.append(address)

    async def collect(self) -> Sequence[str]:
        self._kernel.collected += 1
        return ["read map flows: failed"] if self._kernel.broken == "rows" else ()


class FailingAttachments(Attachments):
    """A journal that cannot take the release of one container."""

    stuck = ""

    def release(self, key: AttachmentKey) -> Attachment | None:
        if key[0] == self.stuck:
            raise JournalError(str(self.path), "no space left on device")
        return super().release(key)


def chained(container: str, address: str) -> Attachment:
    return Attachment(
        "mesh",
        container,
        "eth0",
        "/run/netns/x",
        "default",
        container,
        (parse_address(address),),
        chained=True,
    )


@pytest.mark.parametrize(
    ("broken", "stuck", "said"),
    [
        ("", "", None),
        ("links", "", "list links"),
        ("rows", "", "read map flows: failed"),
        ("", "two", "no space left on device"),
    ],
)
async def test_what_fails_is_said_and_everything_else_is_collected(
    tmp_path: Path, broken: str, stuck: str, said: str | None
) -> None:
    kernel, attachments = Kernel(broken), FailingAttachments(tmp_path / "journal")
    plugin = Plugin(Mesh(), attachments, kernel, Rows(kernel), has_ranges=False)
    attachments.load()
    for number, container in enumerate(("one", "two", "three", "kept"), start=1):
        attachments.attach(chained(container, f"10.0.0.{number}"))
    attachments.stuck = stuck
    config = NetworkConfig(cni_version="1.1.0", name="mesh", valid=(ValidAttachment("kept", "eth0"),))
    try:
        await plugin.answer(Question("GC", config))
        heard = None
    except CniError as error:
        heard = error
    left = {each.container_id for each in attachments.all()}
    assert left == {"kept", *({stuck} if stuck else ())}
    assert len(kernel.freed) == len(kernel.forgotten) == (2 if stuck else 3)
    assert kernel.collected == 1
    assert (heard is None) == (said is None)
    if heard is not None and said is not None:
        assert (heard.code, said in heard.details) == (103, True)
    await attachments.close()
