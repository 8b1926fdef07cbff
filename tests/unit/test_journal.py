"""The write-ahead journal: what a crash leaves behind, and what is read from it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import orjson
import pytest

from gateway import journal as module
from gateway.admission import Hold, Settlement
from gateway.journal import Journal, JournalUnavailable, Opened, orphaned_files, read_journal
from gateway.stores.embedded import orphan_settlement

HOLDS = (Hold("run:abc", 5), Hold("day:def:1", 9))
ORPHAN = orjson.dumps({"t": "attempt", "run": "run_1"})


def settlement(attempt_id: str, cost: int = 7) -> Settlement:
    return Settlement(
        attempt_id=attempt_id, run_id="run_1", cost=cost, tokens=3, provisional=False, succeeded=True,
        completes=True, tool_calls=0, links=("a", "b"), head="h", retry_key="r", index_ttl_ms=1,
        event=b'{"t":"attempt"}', holds=HOLDS, adopt=False,
    )  # fmt: skip


def conservative(opened: Opened) -> Settlement:
    assert (opened.ordinal, opened.holds, opened.orphan) == (2, HOLDS, {"t": "attempt", "run": "run_1"})
    return orphan_settlement(opened.attempt_id, "run_1", opened.reserved)


def crashed(tmp_path: Path) -> Path:
    """A journal whose process is gone: its descriptor is closed without a word."""
    journal = Journal(tmp_path, "w1")
    journal.start()
    journal.opened("att_1", 2, 100, HOLDS, ORPHAN)
    journal.opened("att_2", 2, 200, HOLDS, ORPHAN)
    journal.settled(settlement("att_1"))
    module._release(journal._fd, journal._map)
    (path,) = tmp_path.glob("w1*.journal")
    return path


def test_what_was_settled_is_read_as_it_was_and_what_was_not_ends_at_its_reservation(tmp_path: Path) -> None:
    first, second = sorted(read_journal(crashed(tmp_path), conservative), key=lambda s: s.attempt_id)
    assert first == settlement("att_1")
    assert (second.attempt_id, second.cost, second.provisional) == ("att_2", 200, True)


def test_a_line_torn_by_the_crash_is_passed_over(tmp_path: Path) -> None:
    path = crashed(tmp_path)
    whole = path.read_bytes().rstrip(b"\0")
    assert len(whole) > 500
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        for found in read_journal(path, conservative):
            assert found.attempt_id in ("att_1", "att_2")
            assert found.cost in (7, 100, 200)
        path.write_bytes(whole[:cut] + b"\0" * 300)
        assert len(read_journal(path, conservative)) <= 2


def test_a_journal_in_use_is_nobodys_orphan(tmp_path: Path) -> None:
    alive = Journal(tmp_path, "alive")
    alive.start()
    assert orphaned_files(tmp_path) == []
    crashed(tmp_path)
    ((path, fd),) = orphaned_files(tmp_path)
    assert path.name.startswith("w1")
    assert orphaned_files(tmp_path) == [], "whoever replays it holds it"
    os.close(fd)
    alive.close()
    assert not list(tmp_path.glob("alive*"))


def test_a_rotated_journal_keeps_what_is_still_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 4000)
    journal = Journal(tmp_path, "w1")
    journal.start()
    journal.opened("att_2", 2, 200, HOLDS, ORPHAN)
    for i in range(50):
        journal.opened(f"x{i}", 2, 1, HOLDS, ORPHAN)
        journal.settled(settlement(f"x{i}"))
        journal.confirmed(f"x{i}")
    (path,) = tmp_path.glob("*.journal")
    assert path.stat().st_size == 4000
    module._release(journal._fd, journal._map)
    assert [s.attempt_id for s in read_journal(path, conservative) if s.provisional] == ["att_2"]


def test_a_record_larger_than_a_file_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    journal = Journal(tmp_path, "w1")
    journal.start()
    journal.opened("att_2", 2, 200, HOLDS, orjson.dumps({"t": "attempt", "run": "r" * 5000}))
    journal.opened("att_3", 2, 300, HOLDS, orjson.dumps({"t": "attempt", "run": "r" * 9000}))
    module._release(journal._fd, journal._map)
    (path,) = tmp_path.glob("*.journal")
    found = read_journal(path, lambda o: orphan_settlement(o.attempt_id, "run_1", o.reserved))
    assert sorted((s.attempt_id, s.cost) for s in found) == [("att_2", 200), ("att_3", 300)]


def test_a_full_disk_is_told_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    journal = Journal(tmp_path, "w1")
    journal.start()
    journal.opened("att_1", 2, 100, HOLDS, ORPHAN)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(JournalUnavailable, match="No space left"):
        journal.opened("att_2", 2, 200, HOLDS, orjson.dumps({"t": "attempt", "run": "r" * 5000}))
    module._release(journal._fd, journal._map)
    (path,) = tmp_path.glob("*.journal")
    assert [s.attempt_id for s in read_journal(path, conservative)] == ["att_1"]


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(JournalUnavailable):
        Journal(blocked / "journal", "w").start()
