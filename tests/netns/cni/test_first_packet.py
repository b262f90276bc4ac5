"""What a pod's address receives from the moment on at which ADD was answered."""

from __future__ import annotations

from socket import AF_INET6, SOCK_DGRAM

import pytest

from meshd.kernel.netns import Netns
from tests.netns.cni.node import PATIENCE_S, CniNode

PORT = 7701
# The kernel makes an IPv6 address receive a little later than it adds it, and not always: one pod would show nothing.
PODS = 40


@pytest.mark.timeout(120)
def test_a_single_datagram_right_after_the_answer_arrives(node: CniNode) -> None:
    lost = []
    with node.netns.socket(AF_INET6, SOCK_DGRAM) as sender:
        for number in range(PODS):
            path = node.pod(f"p{number}")
            with Netns.open(path) as pod, pod.socket(AF_INET6, SOCK_DGRAM) as receiver:
                receiver.bind(("::", PORT))
                receiver.settimeout(PATIENCE_S)
                answer = node.ask("ADD", f"p{number}", path)
                address = next(each for each in answer.addresses if ":" in each)
                sender.sendto(b"first", (address, PORT))
                try:
                    receiver.recv(16)
                except TimeoutError:
                    lost.append(address)
    assert lost == []
