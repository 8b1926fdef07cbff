"""`gateway serve` in this process, looked at every two milliseconds of CPU for what its main thread does.

    python -m benchmarks.sampler FILE

SIGUSR2 begins to look and the next one ends it; the counts are in FILE when the process ends, as JSON:
`{"parts": {part: looks}, "functions": {"file:function": looks}, "main": looks, "others": looks}`.
"""

from __future__ import annotations

import atexit
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import orjson

EVERY_S = 0.002
PARTS = (
    ("uvicorn/", "HTTP server"),
    ("gateway/web/", "HTTP server"),
    ("gateway/surfaces/", "reading the request and the answer"),
    ("gateway/rules/identity", "which run it is"),
    ("gateway/rules/lineage", "which run it is"),
    ("gateway/pipeline", "which run it is"),
    ("gateway/steps/governor", "loops, tools, claims"),
    ("gateway/rules/", "loops, tools, claims"),
    ("gateway/steps/screens", "screening"),
    ("gateway/screening/", "screening"),
    ("gateway/rules/budgets", "admission"),
    ("gateway/rules/kills", "admission"),
    ("gateway/rules/route", "admission"),
    ("gateway/steps/dispatch", "admission"),
    ("gateway/metering/", "prices and usage"),
    ("gateway/stores/", "the store"),
    ("gateway/steps/breakers", "sending and relaying"),
    ("gateway/upstreams/", "sending and relaying"),
    ("gateway/steps/attempt", "sending and relaying"),
    ("gateway/steps/delivery", "sending and relaying"),
    ("gateway/steps/relay", "sending and relaying"),
    ("gateway/steps/sending", "sending and relaying"),
    ("gateway/steps/last_steps", "sending and relaying"),
    ("gateway/steps/turn", "sending and relaying"),
    ("gateway/steps/booking", "settling"),
    ("gateway/steps/settling", "settling"),
    ("gateway/journal", "settling"),
    ("gateway/telemetry/", "metrics and logs"),
    ("prometheus_client/", "metrics and logs"),
)
"""Where a file belongs by its path; the longest beginning counts. Others belong to whoever calls them."""
REST = "the rest"


class Sampler:
    """Counts looks. What C code does counts for the Python function that called it."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.others = 0
        self._of: dict[str, str | None] = {}
        self._main_s = 0.0
        self._looking = False

    def switch(self, _signal: int, _frame: FrameType | None) -> None:
        """Begin or end."""
        self._looking = not self._looking
        self._main_s = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, *((EVERY_S, EVERY_S) if self._looking else (0.0, 0.0)))

    def look(self, _signal: int, frame: FrameType | None) -> None:
        """What goes on now. When other threads have used the time, it is theirs."""
        main_s = time.thread_time()
        used, self._main_s = main_s - self._main_s, main_s
        if used < EVERY_S / 2:
            self.others += 1
            return
        if frame is not None:
            file = frame.f_code.co_filename
            self.functions[f"{_short(file)}:{frame.f_code.co_qualname}"] += 1
        at: FrameType | None = frame
        while at is not None and (part := self._part(at.f_code.co_filename)) is None:
            at = at.f_back
        self.parts[part if at is not None and part is not None else REST] += 1

    def _part(self, file: str) -> str | None:
        if file not in self._of:
            short = _short(file)
            known = [(len(path), part) for path, part in PARTS if short.startswith(path)]
            self._of[file] = max(known)[1] if known else None
        return self._of[file]

    def write(self, path: Path) -> None:
        """The counts, as JSON."""
        told = {
            "parts": dict(self.parts.most_common()),
            "functions": dict(self.functions.most_common(100)),
            "main": sum(self.parts.values()),
            "others": self.others,
        }
        path.write_bytes(orjson.dumps(told))


def _short(file: str) -> str:
    """The path from the package on."""
    for root in ("/site-packages/", "/gateway/"):
        if root in file:
            before, _, rest = file.rpartition(root)
            return rest if root == "/site-packages/" else f"gateway/{rest}" if before else file
    return Path(file).name


def main() -> None:
    """Serve, looked at."""
    sampler = Sampler()
    signal.signal(signal.SIGUSR2, sampler.switch)
    signal.signal(signal.SIGPROF, sampler.look)
    atexit.register(sampler.write, Path(sys.argv[1]))
    from gateway.cli import app

    sys.argv = ["gateway", "serve"]
    app()


if __name__ == "__main__":
    main()
