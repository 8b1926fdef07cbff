"""`gateway serve` on a host whose clock is wrong: by `SKEW_S` seconds, and by `SKEW_THEN_S` from SIGUSR1 on.

SKEW_S=300 SKEW_THEN_S=-300 python -m tests.chaos.skewed
"""

from __future__ import annotations

import os
import signal
import sys
import time


def main() -> None:
    """Put the wall clock wrong before anything of the gateway is imported, and serve."""
    offsets = [float(os.environ["SKEW_S"]), float(os.environ.get("SKEW_THEN_S", os.environ["SKEW_S"]))]
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + offsets[0]
    time.time_ns = lambda: now_ns() + int(offsets[0] * 1e9)
    signal.signal(signal.SIGUSR1, lambda *_: offsets.pop(0) if len(offsets) > 1 else None)
    from gateway.cli import main as gateway

    sys.argv = ["gateway", "serve"]
    gateway()


if __name__ == "__main__":
    main()
