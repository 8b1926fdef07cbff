"""What holds for every test."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.security.sinks import Watch
from tests.support.gateway import SECRETS
from tests.support.order import Pieces, longest_first

if TYPE_CHECKING:
    from xdist.remote import Producer  # type: ignore[import-untyped]

# How long an example takes says more about the machine than about the code; bounds are tests of their own.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

ROOT = Path(__file__).parents[1]
GC_THRESHOLDS = (10_000, 20, 20)
MEMORY = Path("/dev/shm")
ROOM = 6 * 1024**3

# Most tests make databases of their own and wait for the disk; where there is room they are made in memory.
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(MEMORY).free > ROOM
):
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under `--dist loadgroup`: what takes longest begins first, what belongs together stays together."""
    if config.getoption("loadgroup", False):
        items[:] = [items[at] for at in longest_first([item.nodeid for item in items])]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Pieces | None:
    """The other half of that."""
    return Pieces(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_sessionstart(session: pytest.Session) -> None:
    """On a fresh clone all workers would compile every file of tests at the same time; beginning with a share of
    its own, each finds most of the rest done."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    files = [file for given in session.config.args for file in sorted(Path(given).rglob("test_*.py"))]
    for file in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        # What is wrong with a file, the collection tells.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(file.absolute().relative_to(ROOT).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """The tests themselves stay to the end, so no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


_watch = Watch(SECRETS)
logging.getLogger().addHandler(_watch)


@pytest.fixture(autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    """Whatever a test is about: no key and no token stands in what it logs."""
    yield
    _watch.ensure_silent()
