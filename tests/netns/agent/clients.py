"""COUNT processes that open one connection after another to ADDRESS:PORT, each once and at least 20, until SIGTERM.

Prints `started`, and at the end one JSON object: connections answered by whom, and every failure.
"""

import json
import os
import signal
import socket
import sys
from collections import Counter

AT_LEAST = 20


def client(address: str, port: int, result: int) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    answers: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    while not stopped or answers.total() + failures.total() < AT_LEAST:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            made.settimeout(10)
            try:
                made.connect((address, port))
                answer = made.recv(64).decode()
                answers[answer] += 1
                if not answer:
                    failures["closed without an answer"] += 1
            except OSError as error:
                failures[str(error)] += 1
    os.write(result, json.dumps([answers, failures]).encode())
    os._exit(0)


def main() -> None:
    os.nice(10)  # fifty busy processes on few cores: the load is there, and the agent still gets its turn
    count, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    children = []
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for _ in range(count):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            client(address, port, write)
        os.close(write)
        children.append((pid, read))

    print("started", flush=True)
    # Waited for while it is blocked: a handler could be set off just before the read below, which would then never end.
    signal.sigwait({signal.SIGTERM})
    for pid, _ in children:
        os.kill(pid, signal.SIGTERM)
    answers: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for pid, read in children:
        with os.fdopen(read, "rb") as result:
            mine, lost = json.loads(result.read())
        os.waitpid(pid, 0)
        answers.update(mine)
        failures.update(lost)
    print(json.dumps({"answers": answers, "failures": failures}), flush=True)


main()
