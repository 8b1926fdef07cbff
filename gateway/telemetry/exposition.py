"""`/metrics`, right for all workers of a host whichever of them is asked.

Alone, a worker shows its own figures. Workers of one `gateway serve` each keep a file of theirs in a folder
that they share, and whoever is asked adds the files up. Only figures that are in a file are shown, and the
file of a worker that has died stays, so no counter ever goes back. What a killed worker counted in its last
`SAVE_S` is missing here; the ledger has it.

Files instead of prometheus_client's own shared memory, because counting then costs what it costs alone:
docs/decisions/0010-metrics-of-several-workers.md has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from gateway.domain import Json
from gateway.telemetry.metrics import MERGED, Metrics

log = logging.getLogger("gateway.metrics")

SAVE_S = 2.0
"""How old the figures of the workers that were not asked may be."""
_ENDED = "ended.json"
"""What workers that have died had counted, added up."""


def group_folder(data_dir: Path) -> Path:
    """Where the workers of one parent process keep their files. To be asked in a worker, while it starts."""
    return data_dir / "metrics" / f"{socket.gethostname()}-{os.getppid()}"


def clear_group(data_dir: Path) -> None:
    """Forget what workers of this host's earlier parents left. The parent calls it before it starts any."""
    host = socket.gethostname()
    for old in (data_dir / "metrics").glob("*"):
        name, _, pid = old.name.rpartition("-")
        if name == host and pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
            shutil.rmtree(old, ignore_errors=True)


@dataclass(slots=True)
class Exposition:
    """What one worker shows. `folder` is None when it serves alone; `refresh` brings gauges up to date."""

    metrics: Metrics
    worker: str
    folder: Path | None
    refresh: Callable[[], None] = lambda: None
    _task: asyncio.Task[None] | None = None
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)

    def start(self) -> None:
        """Begin to keep the file, where there is one."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self.folder, fcntl.LOCK_EX):
            _fold_the_dead(self.folder)
        self._task = asyncio.create_task(self._run(), name="metrics")

    async def close(self) -> None:
        """Write the last figures down."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            with contextlib.suppress(OSError):
                await self._save()

    async def render(self) -> bytes:
        """The exposition text of all workers. The event loop goes on meanwhile."""
        if self.folder is None or self._task is None:
            families = await self._collect()
            return await asyncio.to_thread(_text, families)
        try:
            await self._save()
            return await asyncio.to_thread(_sum_of, self.folder)
        except OSError as error:
            log.error("the figures of the other workers cannot be read: %s", error)
            raise

    async def _run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(SAVE_S)
            try:
                await self._save()
            except OSError as error:
                if not failing:
                    log.warning("the figures for /metrics cannot be written: %s", error)
                failing = True
            else:
                failing = False

    async def _collect(self) -> list[Metric]:
        """Every figure, family by family, so that no step waits for all of them."""
        self.refresh()
        families: list[Metric] = []
        for family in self.metrics.registry.collect():
            families.append(family)
            await asyncio.sleep(0)
        return families

    async def _save(self) -> None:
        assert self.folder is not None
        async with self._saving:
            families = await self._collect()
            await asyncio.to_thread(_write, self.folder, self.worker, families)


# -- files -------------------------------------------------------------------------------------------


def _write(folder: Path, worker: str, families: Iterable[Metric]) -> None:
    saved = {
        "worker": worker,
        "pid": os.getpid(),
        "folded": [],
        "families": [
            [f.name, f.type, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]]
            for f in families
        ],
    }
    _replace(folder / f"{worker}.json", saved)


def _replace(path: Path, saved: Json) -> None:
    """Write a file whole or not at all."""
    beside = path.with_suffix(".new")
    try:
        beside.write_bytes(orjson.dumps(saved))
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, how)
        yield


def _read(folder: Path) -> list[Json]:
    """Every worker's figures once, those added up in `_ENDED` by that alone."""
    found: list[Json] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(orjson.loads(path.read_bytes()))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            log.warning("%s is left out of /metrics: %s", path.name, error)
    folded = {worker for saved in found for worker in saved["folded"]}
    return [saved for saved in found if saved["worker"] not in folded]


def _fold_the_dead(folder: Path) -> None:
    """Put the files of workers that have died into one, which names them until they are gone."""
    dead = [saved for saved in _read(folder) if saved["worker"] == _ENDED or not _alive(saved["pid"])]
    gone = [saved["worker"] for saved in dead if saved["worker"] != _ENDED]
    if gone:
        families = [
            [f.name, f.type, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]]
            for f in _merged(dead, counters_only=True)
        ]
        _replace(folder / _ENDED, {"worker": _ENDED, "pid": 0, "folded": gone, "families": families})
        for worker in gone:
            (folder / f"{worker}.json").unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# -- adding up ---------------------------------------------------------------------------------------


def _sum_of(folder: Path) -> bytes:
    with _locked(folder, fcntl.LOCK_SH):
        saved = _read(folder)
    return _text(_merged(saved))


def _merged(saved: Iterable[Json], *, counters_only: bool = False) -> list[Metric]:
    """One family for each of the workers'. Counters of the dead count; their gauges do not."""
    families: dict[str, tuple[str, str]] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for each in saved:
        alive = each["pid"] and _alive(each["pid"])
        for name, kind, about, samples in each["families"]:
            families.setdefault(name, (kind, about))
            if kind == "gauge" and (counters_only or not alive):
                continue
            rows = values.setdefault(name, {})
            for sample, labels, value in samples:
                rows.setdefault((sample, tuple(labels.items())), []).append(value)
    found = []
    for name, (kind, about) in families.items():
        family = Metric(name, about, kind)
        together: Any = MERGED.get(name, max) if kind == "gauge" else sum
        family.samples = [
            Sample(sample, dict(labels), together(given))
            for (sample, labels), given in values.get(name, {}).items()
        ]
        found.append(family)
    return found


class _Given:
    """Stands where `generate_latest` expects a registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _text(families: list[Metric]) -> bytes:
    given: Any = _Given(families)
    registry: CollectorRegistry = given
    return generate_latest(registry)
