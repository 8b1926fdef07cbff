"""The supervisor with workers that do as they are told, do not, die, hang, or cannot start."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from gateway.supervisor import RENEWALS
from tests.support.gateway import wait_until

ROOT = Path(__file__).parents[3]
PATIENCE = {"start_s": 20.0, "silent_s": 20.0, "stop_s": 20.0, "hurry_s": 20.0, "give_up_s": 20.0}


@dataclass
class Toys:
    """A supervisor and its workers."""

    directory: Path
    process: subprocess.Popen[bytes]

    def become(self, mode: str) -> None:
        """What workers are like that start from now on."""
        (self.directory / "mode").write_text(mode)

    def events(self) -> list[tuple[float, int, str]]:
        """(seconds, process, what)."""
        path = self.directory / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(at), int(pid), what) for at, pid, what in (line.split(" ", 2) for line in lines)]

    def who(self, what: str) -> list[int]:
        return [pid for _, pid, said in self.events() if said == what]

    def alive(self) -> set[int]:
        """Workers that serve and have not ended."""
        return {pid for pid in self.who("serves") if _lives(pid)}

    def serve(self, count: int) -> set[int]:
        """Wait for so many."""
        wait_until(lambda: len(self.alive()) == count, 20, f"{count} workers")
        return self.alive()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def said(self) -> str:
        return (self.directory / "log").read_text()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    toys: list[Toys] = []

    def begin(mode: str, count: int = 2, **patience: float) -> Toys:
        (tmp_path / "mode").write_text(mode)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import logging; logging.basicConfig(level='INFO'); "
                    "from tests.integration.processes.toys import main; main()",
                    tmp_path,
                    str(count),
                    json.dumps({**PATIENCE, **patience}),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        toys.append(Toys(tmp_path, process))
        return toys[-1]

    yield begin
    for each in toys:
        with suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()


class Start(Protocol):
    """The type of the fixture."""

    def __call__(self, mode: str, count: int = 2, **patience: float) -> Toys: ...


# -- stops -------------------------------------------------------------------------------------------


def test_each_is_told_once_and_the_supervisor_leaves_after_the_last(start: Start) -> None:
    toys = start("serves")
    both = toys.serve(2)
    os.killpg(toys.process.pid, signal.SIGINT)  # as a terminal's Ctrl-C, to everyone
    assert toys.process.wait(20) == 0
    assert set(toys.who("leaves")) == both
    assert Counter(toys.who("hears s")) == Counter(both)


def test_a_second_signal_hurries_those_that_drain(start: Start) -> None:
    toys = start("drains")
    both = toys.serve(2)
    toys.signal(signal.SIGTERM)
    wait_until(lambda: set(toys.who("hears s")) == both, 20, "the first word")
    time.sleep(0.3)
    assert toys.alive() == both
    toys.signal(signal.SIGTERM)
    assert toys.process.wait(20) == 0
    assert set(toys.who("hears h")) == both


@pytest.mark.slow
def test_a_third_signal_waits_for_nobody(start: Start) -> None:
    toys = start("stays")
    both = toys.serve(2)
    for word in ("s", "h"):
        toys.signal(signal.SIGTERM)
        wait_until(lambda word=word: set(toys.who(f"hears {word}")) == both, 20, word)  # type: ignore[misc]
    toys.signal(signal.SIGTERM)
    assert toys.process.wait(20) == 0
    assert not toys.alive()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stays", "blocks", "hangs at the start"])
def test_who_does_not_leave_in_time_is_killed(start: Start, mode: str) -> None:
    toys = start(mode, stop_s=1.0)
    wait_until(lambda: len(toys.who(f"starts {mode}")) == 2, 20, "both")
    toys.signal(signal.SIGTERM)
    assert toys.process.wait(20) == 0
    assert "has not left in time" in toys.said()
    assert not [pid for pid in toys.who(f"starts {mode}") if _lives(pid)]


@pytest.mark.parametrize("mode", ["serves", pytest.param("stays", marks=pytest.mark.slow)])
def test_no_worker_outlives_its_supervisor(start: Start, mode: str) -> None:
    toys = start(mode)
    both = toys.serve(2)
    toys.signal(signal.SIGKILL)
    toys.process.wait(20)
    wait_until(lambda: not toys.alive(), 20, "the end of the workers")
    assert set(toys.who("hears nobody")) == both


# -- deaths ------------------------------------------------------------------------------------------


def test_who_dies_is_replaced(start: Start) -> None:
    toys = start("serves")
    victim, other = sorted(toys.serve(2))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(toys.alive() - {victim}) == 2, 20, "another one")
    assert other in toys.alive()
    assert f"worker {victim} ended with SIGKILL" in toys.said()


@pytest.mark.parametrize("how", ["blocks", pytest.param("stopped", marks=pytest.mark.slow)])
def test_who_stands_still_is_killed_and_replaced(start: Start, how: str) -> None:
    """Also one whose event loop alone does: its threads live on, and answer."""
    toys = start("blocks" if how == "blocks" else "serves", count=1, silent_s=1.0)
    (victim,) = toys.serve(1)
    toys.become("serves")
    if how == "stopped":
        os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: toys.alive() - {victim}, 20, "another one")
    assert not _lives(victim)
    assert "has not been heard of" in toys.said()


@pytest.mark.slow
def test_a_pause_of_the_whole_machine_kills_nobody(start: Start) -> None:
    toys = start("serves", silent_s=2.0)
    both = toys.serve(2)
    os.killpg(toys.process.pid, signal.SIGSTOP)
    time.sleep(5)
    os.killpg(toys.process.pid, signal.SIGCONT)
    time.sleep(2.5)
    assert toys.alive() == both
    assert "killed" not in toys.said()


def test_workers_that_cannot_start_end_the_gateway(start: Start) -> None:
    toys = start("fails")
    assert toys.process.wait(20) == 1
    assert len(toys.who("starts fails")) <= 2
    assert "the workers cannot start" in toys.said()


@pytest.mark.slow
def test_what_dies_again_and_again_is_started_ever_more_rarely_and_then_given_up(start: Start) -> None:
    toys = start("dies", count=1, give_up_s=3.0)
    # It serves each time for a moment: nothing but the pauses keeps it from spinning.
    assert toys.process.wait(60) == 1
    at = [at for at, _, said in toys.events() if said == "starts dies"]
    pauses = [later - sooner for sooner, later in itertools.pairwise(at)]
    assert 3 <= len(at) <= 4
    assert all(pause > 0.5 * 2**number for number, pause in enumerate(pauses))
    assert "no worker has stayed for 3 s" in toys.said()


@pytest.mark.slow
def test_a_start_that_fails_later_is_tried_again(start: Start) -> None:
    """As when a worker dies while the store is away: the others serve on, and it comes back with the store."""
    toys = start("serves")
    victim, other = sorted(toys.serve(2))
    toys.become("fails")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(toys.who("starts fails")) >= 2, 20, "two attempts")
    assert toys.alive() == {other}
    toys.become("serves")
    assert other in toys.serve(2)


# -- renewal -----------------------------------------------------------------------------------------


def test_renewal_replaces_one_by_one_and_never_serves_with_fewer(start: Start) -> None:
    toys = start("serves")
    before = toys.serve(2)
    toys.signal(signal.SIGHUP)
    wait_until(lambda: len(toys.alive() - before) == 2 and not toys.alive() & before, 30, "two new ones")
    order = [(pid in before, said) for _, pid, said in toys.events() if said in ("serves", "leaves")]
    assert order == [
        (True, "serves"),
        (True, "serves"),
        (False, "serves"),
        (True, "leaves"),
        (False, "serves"),
        (True, "leaves"),
    ]
    assert set(toys.who("hears r")) == before


@pytest.mark.slow
def test_a_renewal_that_fails_leaves_the_old_ones(start: Start) -> None:
    toys = start("serves", start_s=1.5)
    before = toys.serve(2)
    for number, mode in enumerate(("fails", "hangs at the start"), 1):
        toys.become(mode)
        toys.signal(signal.SIGHUP)
        wait_until(lambda n=number: toys.said().count("renewal ends here") == n, 30, "its end")  # type: ignore[misc]
        assert toys.alive() == before
        assert len(toys.who(f"starts {mode}")) == RENEWALS
    toys.become("serves")
    toys.signal(signal.SIGHUP)
    wait_until(lambda: len(toys.alive() - before) == 2, 30, "two new ones")


@pytest.mark.slow
def test_a_successor_that_fails_once_is_tried_again(start: Start) -> None:
    toys = start("serves")
    before = toys.serve(2)
    toys.become("fails")
    toys.signal(signal.SIGHUP)
    wait_until(lambda: toys.who("starts fails"), 20, "an attempt")
    toys.become("serves")
    wait_until(lambda: len(toys.alive() - before) == 2 and not toys.alive() & before, 30, "two new ones")


@pytest.mark.slow
def test_renewal_asked_for_twice_is_done_twice(start: Start) -> None:
    toys = start("serves")
    toys.serve(2)
    toys.signal(signal.SIGHUP)
    wait_until(lambda: "renewing" in toys.said(), 20, "the first")
    toys.signal(signal.SIGHUP)
    wait_until(lambda: len(toys.who("serves")) == 6 and len(toys.alive()) == 2, 40, "the second")


@pytest.mark.slow
def test_deaths_in_the_middle_of_renewals_leave_a_whole_gateway(start: Start) -> None:
    toys = start("serves", count=3)
    toys.serve(3)
    for round_ in range(3):
        toys.signal(signal.SIGHUP)
        time.sleep(0.05 * round_)
        victim = max(toys.alive())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda v=victim: len(toys.alive() - {v}) >= 3, 40, "three")  # type: ignore[misc]
    toys.signal(signal.SIGTERM)
    assert toys.process.wait(30) == 0
    assert not toys.alive()


# -- what every process sees to ----------------------------------------------------------------------


@pytest.mark.parametrize(("soft", "hard", "wanted"), [(64, 4096, 4096), (256, 256, 256)])
def test_a_low_limit_of_open_files_is_raised_as_far_as_it_may(soft: int, hard: int, wanted: int) -> None:
    code = (
        "import resource as r; from gateway.serving import allow_files;"
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard})); allow_files(); print(r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"({wanted}, {hard})", done.stderr
