"""The labelled corpus of traces, and the figures that the loop rules reach on it."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.commands import loop_corpus
from gateway.commands.loop_corpus import (
    CorpusError,
    Outcome,
    Score,
    evaluate,
    load_corpus,
    play,
    read_trace,
    score,
)
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.loops import Detection
from tests.corpora.loops import generate

CORPUS = Path(__file__).parents[2] / "corpora" / "loops"
TRACES = load_corpus([CORPUS])


def test_the_corpus_is_large_varied_and_balanced() -> None:
    labels = Counter(trace.loop for trace in TRACES)
    assert len(TRACES) >= 600
    assert 0.4 <= labels[True] / len(TRACES) <= 0.6
    assert sum(trace.family.startswith("hand-") for trace in TRACES) >= 60
    held_out = [trace for trace in TRACES if trace.held_out]
    assert len(held_out) >= 150
    assert 0.4 <= sum(trace.loop for trace in held_out) / len(held_out) <= 0.6
    assert not {t.family for t in held_out} & {t.family for t in TRACES if not t.held_out}


def test_the_corpus_is_text_of_reasonable_size() -> None:
    assert sum(path.stat().st_size for path in CORPUS.iterdir() if path.is_file()) < 3_000_000


def test_every_loop_says_which_rules_may_find_it_and_by_when() -> None:
    known = {"same_call", "near_duplicate", "cycle", "no_progress", "consecutive_tool_errors", "repeated_text", "context_growth"}  # fmt: skip
    for trace in TRACES:
        assert trace.rules <= known, trace.id
        assert bool(trace.rules) == trace.loop, trace.id
        assert 1 < trace.since <= trace.by <= len(trace.turns) or not trace.loop, trace.id


def test_the_generated_files_are_what_the_generator_writes() -> None:
    for name, families in (("tuned.jsonl", generate.TUNED), ("held_out.jsonl", generate.HELD_OUT)):
        made = list(generate.records(families, families is generate.HELD_OUT))
        assert [orjson.loads(line) for line in (CORPUS / name).read_bytes().splitlines()] == made


@pytest.mark.parametrize("form", loop_corpus.FORMS)
@pytest.mark.parametrize("held_out", [False, True])
def test_the_rules_reach_the_aim(form: loop_corpus.Form, held_out: bool) -> None:
    prints = Fingerprints()
    figures = score(play(trace, form, prints) for trace in TRACES if trace.held_out == held_out)
    assert figures.precision >= 0.98
    assert figures.recall >= 0.95


# -- reading and judging -----------------------------------------------------------------------------

LOOP: dict[str, Any] = {
    "id": "a", "family": "f", "loop": True, "rules": ["same_call"], "since": 2, "by": 3,
    "turns": [{"times": 4, "calls": [["get", {"n": 1}, "the same"]]}],
}  # fmt: skip
WORK: dict[str, Any] = {
    "id": "b", "family": "f", "loop": False, "turns": [{"times": 5, "calls": [["put", {"n": "{i}"}, "ok"]]}],
}  # fmt: skip


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    return path


def changed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(record), **changes}


def test_turns_are_repeated_and_counted() -> None:
    trace = read_trace(WORK)
    assert [turn.calls[0].arguments for turn in trace.turns] == [f'{{"n":"{i}"}}' for i in range(1, 6)]


def test_a_loop_is_found_at_its_turn_and_work_is_not() -> None:
    outcome = play(read_trace(LOOP))
    assert (outcome.at, outcome.hit, outcome.false_alarm) == (3, True, False)
    assert play(read_trace(WORK)).at is None


@pytest.mark.parametrize(
    ("at", "rule", "hit", "false_alarm"),
    [
        (None, "same_call", False, False),
        (1, "same_call", False, True),
        (2, "same_call", True, False),
        (3, "same_call", True, False),
        (4, "same_call", False, False),
        (3, "cycle", False, False),
    ],
)
def test_when_and_by_what_a_loop_must_be_found(
    at: int | None, rule: str, hit: bool, false_alarm: bool
) -> None:
    found = (Detection(rule, 3, "stop", (), ""),) if at is not None else ()
    outcome = Outcome(read_trace(LOOP), at, found)
    assert (outcome.hit, outcome.false_alarm) == (hit, false_alarm)


def test_precision_recall_and_f1() -> None:
    s = Score(traces=20, loops=10, hits=8, false_alarms=2)
    assert (s.precision, s.recall, round(s.f1, 3)) == (0.8, 0.8, 0.8)
    assert (Score().precision, Score().recall, Score().f1) == (1.0, 1.0, 1.0)
    assert Score(1, 1, 0, 1).f1 == 0.0


def test_the_table_shows_families_totals_and_misses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [
        changed(LOOP, id="c", held_out=True, family="g"),
        changed(WORK, id="d", held_out=True, family="g"),
    ]
    path = written(tmp_path, LOOP, WORK, *held)
    assert evaluate([path]) == 0
    out = capsys.readouterr().out
    assert "g (held out)" in out
    assert "misses: none" in out
    assert "reached the aim: precision 0.98, recall 0.95" in out

    mislabelled = changed(WORK, id="e", loop=True, rules=["cycle"], by=5)
    assert evaluate([written(tmp_path, LOOP, mislabelled, *held)]) == 1
    out = capsys.readouterr().out
    assert "e: not found by turn 5" in out
    assert "BELOW the aim" in out
    false_alarm = changed(LOOP, id="e", loop=False)
    assert evaluate([written(tmp_path, LOOP, false_alarm, *held)]) == 1
    assert "e: same_call at turn 3; it is no loop" in capsys.readouterr().out


def test_the_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([written(tmp_path, LOOP, WORK)], True) == 0
    shown = orjson.loads(capsys.readouterr().out)
    assert shown["reached"] is True
    assert shown["misses"] == []
    assert shown["totals"][0] == {
        "form": "history", "families": "tuned", "traces": 2, "loops": 1, "found": 1, "false_alarms": 0,
        "precision": 1.0, "recall": 1.0, "f1": 1.0,
    }  # fmt: skip
    assert {f["form"] for f in shown["families"]} == {"history", "record"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", r"corpus\.jsonl"),
        (b'{"id": "x"}', "x"),
        (b'{"id": "x", "family": "f", "loop": 1, "turns": []}', "true or false"),
        (b"[1]", "0"),
        (b"", "no traces"),
    ],
)
def test_a_corpus_that_cannot_be_read_says_where(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=named):
        load_corpus([path])


def test_missing_files_bad_yaml_and_ids_used_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        load_corpus([tmp_path / "none"])
    with pytest.raises(CorpusError, match="two traces"):
        load_corpus([written(tmp_path, LOOP, LOOP)])
    bad = tmp_path / "bad.yaml"
    bad.write_text("- id: [")
    with pytest.raises(CorpusError, match=r"bad\.yaml"):
        load_corpus([bad])
