"""Several workers' figures as one: nothing counted twice, nothing lost when one dies, no counter going back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from gateway.telemetry import exposition
from gateway.telemetry.exposition import Exposition, clear_group, group_folder
from gateway.telemetry.metrics import Metrics


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def figures(text: bytes) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Group:
    """Workers of one folder, all in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: dict[str, Exposition] = {}

    def add(self, name: str) -> Metrics:
        shown = Exposition(Metrics(), name, self.folder, lambda: shown.metrics.workers.set(1))
        shown.start()
        self.workers[name] = shown
        return shown.metrics

    async def save(self) -> None:
        for worker in self.workers.values():
            await worker._save()

    def kill(self, name: str, pid: int) -> None:
        """The worker is gone, and its process with it."""
        worker = self.workers.pop(name)
        assert worker._task is not None
        worker._task.cancel()
        path = self.folder / f"{name}.json"
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "pid": pid}))

    async def ask(self, name: str) -> dict[str, float]:
        return figures(await self.workers[name].render())

    async def close(self) -> None:
        for worker in self.workers.values():
            await worker.close()


async def test_counters_add_up_and_gauges_by_what_they_mean(tmp_path: Path) -> None:
    group = Group(tmp_path)
    for n, name in enumerate(("a", "b", "c"), 1):
        m = group.add(name)
        m.tokens.labels("gpt-4o", "output_text").inc(n)
        m.overhead.observe(0.002)
        m.store_seconds.observe("admit", 0.002 * n)
        m.in_flight.set(n)
        m.policy_healthy.set(n != 2)
        m.policy_generation.set(n)
        m.drain_lag.set(n)
    await group.save()
    for name in ("a", "b", "c"):
        found = await group.ask(name)
        assert found['gateway_tokens_total{kind="output_text",model="gpt-4o"}'] == 6
        assert found["gateway_overhead_seconds_count"] == 3
        assert found['gateway_overhead_seconds_bucket{le="0.0025"}'] == 3
        assert found['gateway_store_seconds_count{operation="admit"}'] == 3
        assert found["gateway_in_flight_requests"] == 6
        assert found["gateway_workers"] == 3
        assert found["gateway_policy_healthy"] == 0
        assert found["gateway_policy_generation"] == 3
        assert found["gateway_drain_lag_seconds"] == 1
    await group.close()


async def test_a_dead_worker_is_counted_on_and_gauged_no_more(tmp_path: Path, dead_pid: int) -> None:
    group = Group(tmp_path)
    a, b = group.add("a"), group.add("b")
    a.unpriced.inc(3)
    b.unpriced.inc(4)
    b.in_flight.set(9)
    await group.save()
    group.kill("b", dead_pid)
    found = await group.ask("a")
    assert found["gateway_unpriced_total"] == 7
    assert (found["gateway_in_flight_requests"], found["gateway_workers"]) == (0, 1)
    # Whoever comes next tidies up; nothing changes by it, however often that is.
    for n in range(3):
        group.add(f"c{n}").unpriced.inc(10)
        await group.save()
        group.kill(f"c{n}", dead_pid)
        assert (await group.ask("a"))["gateway_unpriced_total"] == 7 + 10 * (n + 1)
    group.add("d")
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["a.json", "ended.json"]
    assert (await group.ask("d"))["gateway_unpriced_total"] == 37
    assert (await group.ask("a"))["gateway_workers"] == 2
    await group.close()


async def test_tidying_up_that_breaks_off_counts_nobody_twice(
    tmp_path: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(tmp_path)
    group.add("a").unpriced.inc(1)
    for name in ("b", "c"):
        group.add(name).unpriced.inc(10)
    await group.save()
    for name in ("b", "c"):
        group.kill(name, dead_pid)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", lambda *_a, **_k: (_ for _ in ()).throw(OSError("killed here")))
        with pytest.raises(OSError, match="killed here"):
            exposition._fold_the_dead(tmp_path)
    assert {p.name for p in tmp_path.glob("*.json")} == {"a.json", "b.json", "c.json", "ended.json"}
    assert (await group.ask("a"))["gateway_unpriced_total"] == 21
    exposition._fold_the_dead(tmp_path)
    assert (await group.ask("a"))["gateway_unpriced_total"] == 21
    await group.close()


async def test_what_was_shown_is_in_a_file(tmp_path: Path) -> None:
    group = Group(tmp_path)
    m = group.add("a")
    m.unpriced.inc(5)
    assert (await group.ask("a"))["gateway_unpriced_total"] == 5
    kept = exposition._sum_of(tmp_path)
    assert figures(kept)["gateway_unpriced_total"] == 5
    await group.close()


async def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    group = Group(tmp_path)
    group.add("a").unpriced.inc(5)
    (tmp_path / "b.json").write_bytes(b'{"worker": "b", "pi')
    (tmp_path / "c.new").write_bytes(b"half")
    assert (await group.ask("a"))["gateway_unpriced_total"] == 5
    await group.close()


async def test_a_full_disk_is_said_once_and_scraping_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exposition, "SAVE_S", 0.01)
    monkeypatch.setattr(
        exposition, "_replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    group = Group(tmp_path)
    group.add("a")
    await asyncio.sleep(0.1)
    with pytest.raises(OSError, match="No space"):
        await group.ask("a")
    assert len([r for r in caplog.records if "cannot be written" in r.getMessage()]) == 1
    await group.close()


async def test_asking_all_at_once(tmp_path: Path) -> None:
    group = Group(tmp_path)
    names = ["a", "b", "c", "d"]
    for name in names:
        group.add(name).unpriced.inc(1)
    await group.save()
    answers = await asyncio.gather(*(group.ask(name) for name in names * 10))
    assert {found["gateway_unpriced_total"] for found in answers} == {4}
    await group.close()


async def test_alone_there_are_no_files(tmp_path: Path) -> None:
    alone = Exposition(Metrics(), "a", None)
    alone.start()
    alone.metrics.unpriced.inc()
    assert figures(await alone.render())["gateway_unpriced_total"] == 1
    await alone.close()
    assert not list(tmp_path.iterdir())


def test_a_start_forgets_what_earlier_ones_of_this_host_left(tmp_path: Path, dead_pid: int) -> None:
    place = group_folder(tmp_path)
    host, _, parent = place.name.rpartition("-")
    assert int(parent) == os.getppid()
    folders = {
        "of a dead parent": tmp_path / "metrics" / f"{host}-{dead_pid}",
        "of a process of this number": tmp_path / "metrics" / f"{host}-{os.getpid()}",
        "of one that lives": place,
        "of another host": tmp_path / "metrics" / f"other-host-{dead_pid}",
        "of nobody": tmp_path / "metrics" / "notes",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    clear_group(tmp_path)
    left = {name for name, folder in folders.items() if folder.exists()}
    assert left == {"of one that lives", "of another host", "of nobody"}


def test_the_text_is_what_prometheus_reads() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    metrics.store_seconds.observe("admit", 0.0021)
    metrics.store_seconds.observe("admit", 900.0)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    buckets = {
        s.labels["le"]: s.value
        for s in families["gateway_store_seconds"].samples
        if s.name.endswith("_bucket")
    }
    assert (buckets["0.001"], buckets["0.0025"], buckets["600.0"], buckets["+Inf"]) == (0, 1, 1, 2)
    assert not [name for name in families if name.endswith("_created")]
