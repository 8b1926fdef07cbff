"""The profiler of the benchmarks finds what is at work."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import orjson

from benchmarks.bodies import agent
from benchmarks.sampler import PARTS, Sampler
from gateway.surfaces import chat

ROOT = Path(__file__).parents[2]


def test_every_part_is_a_place_that_exists() -> None:
    for path, _ in PARTS:
        if path.startswith("gateway/"):
            assert list(ROOT.glob(f"{path}*")), path


def test_the_work_is_where_it_is_done(tmp_path: Path) -> None:
    sampler = Sampler()
    before = signal.signal(signal.SIGPROF, sampler.look)
    body = agent()
    done = threading.Event()

    def elsewhere() -> None:
        while not done.is_set():
            sum(range(1000))

    thread = threading.Thread(target=elsewhere)
    try:
        sampler.switch(0, None)
        # Of the process' CPU time, so a busy machine only makes it longer.
        ends = time.process_time() + 0.25
        while time.process_time() < ends:
            chat.parse(body)
        alone = sampler.others
        thread.start()
        ends = time.process_time() + 0.25
        while time.process_time() < ends:
            time.sleep(0.001)
    finally:
        done.set()
        sampler.switch(0, None)
        signal.signal(signal.SIGPROF, before)
        thread.join()
    sampler.write(tmp_path / "looks.json")
    found = orjson.loads((tmp_path / "looks.json").read_bytes())
    assert found["parts"]["reading the request and the answer"] > 10
    assert any(name.startswith("gateway/surfaces/") for name in found["functions"])
    assert found["others"] - alone > 10
    assert sum(found["parts"].values()) == found["main"]
