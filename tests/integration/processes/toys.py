"""Workers that do nothing but live and die, under the real supervisor.

    python -c 'from tests.integration.processes.toys import main; main()' DIRECTORY WORKERS PATIENCE

What a worker is like is in `DIRECTORY/mode` when it starts; what happens is written to `DIRECTORY/events`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from gateway.supervisor import BEAT_S, HURRY, STARTUP_FAILURE, Patience, Supervisor, Tether


def note(directory: Path, event: str) -> None:
    """One line, whole."""
    fd = os.open(directory / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{time.monotonic():.3f} {os.getpid()} {event}\n".encode())
    os.close(fd)


def work(tether: Tether, _listener: socket.socket) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory = Path(os.environ["TOYS"])
    mode = (directory / "mode").read_text()
    note(directory, f"starts {mode}")
    if mode == "fails":
        sys.exit(STARTUP_FAILURE)
    told, words = threading.Event(), list[bytes]()

    def hear(word: bytes) -> None:
        note(directory, f"hears {word.decode() or 'nobody'}")
        words.append(word)
        told.set()

    tether.listen(hear, 0.2 if mode == "stays" else 30)
    if mode == "hangs at the start":
        time.sleep(1000)
    tether.ready()
    note(directory, "serves")
    if mode == "dies":
        sys.exit(1)
    if mode == "blocks":
        time.sleep(1000)
    while True:
        leaves = told.is_set() and mode != "stays" and (mode != "drains" or words[-1] in (HURRY, b""))
        if leaves:
            break
        tether.beat()
        time.sleep(min(BEAT_S, 0.05))
    note(directory, "leaves")


def main() -> None:
    """The supervisor."""
    directory, count, patience = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    os.environ["TOYS"] = str(directory)
    with socket.socket() as listener:
        sys.exit(Supervisor(work, listener, count, Patience(**patience)).run())
