"""Ports of 127.0.0.1 for servers that tests start.

A port that the system gives out (`bind` to 0) may be given to an outgoing connection, or to another process of the
tests, before the server has taken it. So they come from below the range that the system gives out, each test process
has a range of its own, and none is named twice until all have been.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

_FIRST, _EACH, _RANGES = 11_000, 750, 14
_CLUSTERS = range(21_500, 22_700)


def _range() -> range:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(worker[2:]) if worker[2:].isdigit() else os.getpid()
    first = _FIRST + number % _RANGES * _EACH
    return range(first, first + _EACH)


_ports = itertools.cycle(_range())


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    for port in itertools.islice(_ports, _EACH):
        with socket.socket() as probe:
            # As servers do: what lingers of an earlier connection does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port of 127.0.0.1 is free")


def free_port_of_a_cluster() -> int:
    """A free port whose companion 10,000 above, where the nodes talk to each other, is free too."""
    for _ in range(200):
        port = random.choice(_CLUSTERS)
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            return port
    raise OSError("no two ports of 127.0.0.1 are free")
