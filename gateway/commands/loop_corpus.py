"""Labelled traces of agents, and how well the loop rules tell loops from work on them.

A corpus is a folder of YAML and JSONL files. Each trace says what an agent did, whether that is a loop, which
rules may find it and by which turn one of them must have. A trace is played the way the gateway sees it,
request by request, and in both forms in which agents send it: with the whole history in every request
(`history`), and with nothing but what is new, the provider keeping the rest (`record`).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml

from gateway.domain import Answer, Item, Role, Text, ToolCall
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.loops import Detection, LoopRules, detect
from gateway.rules.trace import EMPTY, answered, dump, load, merged
from gateway.values import frozen

MIN_PRECISION = 0.98
MIN_RECALL = 0.95
Form = Literal["history", "record"]
FORMS: tuple[Form, ...] = ("history", "record")


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the file and the trace."""


@frozen
class Turn:
    """One answer of the model with what came back."""

    say: str
    calls: tuple[ToolCall, ...]
    results: tuple[tuple[str, bool], ...]
    """Text of each call's result, and whether the client called it an error."""
    user: str
    """What the user said afterwards; empty for nothing."""


@frozen
class Labelled:
    """One trace with its label."""

    id: str
    family: str
    held_out: bool
    loop: bool
    rules: frozenset[str]
    """The rules that may find it."""
    since: int
    """The turn with which the loop begins: found before that is a false alarm."""
    by: int
    """The turn by which it must have been found."""
    user: str
    turns: tuple[Turn, ...]
    settings: LoopRules


@frozen
class Outcome:
    """What the rules said of one trace: the first turn with a detection, or None."""

    trace: Labelled
    at: int | None
    found: tuple[Detection, ...]

    @property
    def false_alarm(self) -> bool:
        """Something was found where there is nothing, or not yet."""
        return self.at is not None and (not self.trace.loop or self.at < self.trace.since)

    @property
    def hit(self) -> bool:
        """The loop was found in time, by a rule that may find it."""
        trace = self.trace
        return (
            trace.loop
            and self.at is not None
            and trace.since <= self.at <= trace.by
            and any(d.rule in trace.rules for d in self.found)
        )


@frozen
class Score:
    """Counts over some traces."""

    traces: int = 0
    loops: int = 0
    hits: int = 0
    false_alarms: int = 0

    @property
    def precision(self) -> float:
        """Share of what was found that is there; 1.0 when nothing was found."""
        found = self.hits + self.false_alarms
        return self.hits / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of the loops that were found in time; 1.0 when there are none."""
        return self.hits / self.loops if self.loops else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def reaches_the_aim(self) -> bool:
        """Precision and recall are as high as they should be."""
        return self.precision >= MIN_PRECISION and self.recall >= MIN_RECALL


# --- reading


def load_corpus(paths: Iterable[Path]) -> list[Labelled]:
    """Every trace below the paths, in the order of file names. Raises `CorpusError`."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".jsonl"))
        elif path.is_file():
            files.append(path)
        else:
            raise CorpusError(f"{path}: no such file or folder.")
    traces = [trace for file in files for trace in _read_file(file)]
    if not traces:
        raise CorpusError(f"{', '.join(map(str, paths))}: no traces there.")
    seen: set[str] = set()
    for trace in traces:
        if trace.id in seen:
            raise CorpusError(f"{trace.id}: two traces have this id.")
        seen.add(trace.id)
    return traces


def _read_file(file: Path) -> Iterator[Labelled]:
    raw = file.read_bytes()
    try:
        if file.suffix == ".jsonl":
            records = [orjson.loads(line) for line in raw.splitlines() if line.strip()]
        else:
            records = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (orjson.JSONDecodeError, yaml.YAMLError) as error:
        raise CorpusError(f"{file}: {error}") from error
    for i, record in enumerate(records or ()):
        try:
            yield read_trace(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            name = record.get("id", i) if isinstance(record, dict) else i
            raise CorpusError(f"{file}: {name}: {error!r}") from error


def read_trace(record: dict[str, Any]) -> Labelled:
    """A trace as it stands in a file. Raises `KeyError`, `TypeError` or `ValueError` where it is wrong."""
    turns: list[Turn] = []
    for written in record["turns"]:
        times = written.get("times", 1)
        for i in range(1, times + 1):
            text = orjson.dumps({k: v for k, v in written.items() if k != "times"})
            turns.append(_read_turn(orjson.loads(text.replace(b"{i}", str(i).encode())), len(turns)))
    loop = record["loop"]
    if not isinstance(loop, bool):
        raise ValueError("loop: expected true or false")
    settings = LoopRules(
        ignore_tools=frozenset(record.get("ignore_tools", ())),
        polling_tools=frozenset(record.get("polling_tools", ())),
    )
    return Labelled(
        id=record["id"],
        family=record["family"],
        held_out=record.get("held_out", False),
        loop=loop,
        rules=frozenset(record["rules"] if loop else ()),
        since=record.get("since", 2),
        by=record["by"] if loop else len(turns),
        user=record.get("user", "Please see to it."),
        turns=tuple(turns),
        settings=settings,
    )


def _read_turn(written: dict[str, Any], n: int) -> Turn:
    calls = []
    results = []
    for j, (name, arguments, result, *flag) in enumerate(written.get("calls", ())):
        calls.append(ToolCall(f"call_{n}_{j}", name, _text(arguments)))
        results.append((_text(result), flag == ["error"]))
    return Turn(written.get("say", ""), tuple(calls), tuple(results), written.get("user", ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# --- playing


def play(trace: Labelled, form: Form = "history", prints: Fingerprints | None = None) -> Outcome:
    """The first detection in a trace, told to the rules request by request."""
    prints = prints or Fingerprints()
    recorded = EMPTY
    history = [_item(Role.SYSTEM, "You are a helpful agent."), _item(Role.USER, trace.user)]
    fresh = history
    size = 0
    for n in range(len(trace.turns) + 1):
        items = history if form == "history" else fresh
        size += sum(len(t.text) for item in fresh for t in item.texts)
        now = merged(load(dump(recorded)), items, n + 1, size, prints)
        found = detect(now, trace.settings)
        if found:
            return Outcome(trace, n, tuple(found))
        if n == len(trace.turns):
            break
        turn = trace.turns[n]
        answer = Answer(texts=(turn.say,) if turn.say else (), calls=_calls(trace, turn))
        recorded = answered(now, answer, prints)
        fresh = list(_came_back(trace, turn))
        history = [*history, _spoken(answer), *fresh]
    return Outcome(trace, None, ())


def _calls(trace: Labelled, turn: Turn) -> tuple[ToolCall, ...]:
    """The calls with ids as servers give them: unique, counted from zero in each turn, or none."""
    kind = sum(trace.id.encode()) % 3
    if kind == 0:
        return turn.calls
    return tuple(
        ToolCall(f"call_{j}" if kind == 1 else "", call.name, call.arguments)
        for j, call in enumerate(turn.calls)
    )


def _spoken(answer: Answer) -> Item:
    return Item(Role.ASSISTANT, tuple(Text(text, ()) for text in answer.texts), calls=answer.calls)


def _came_back(trace: Labelled, turn: Turn) -> Iterator[Item]:
    for call, (result, failed) in zip(_calls(trace, turn), turn.results, strict=True):
        yield Item(Role.TOOL, (Text(result, ()),), call_id=call.id or None, failed=failed)
    if turn.user:
        yield _item(Role.USER, turn.user)


def _item(role: Role, text: str) -> Item:
    return Item(role, (Text(text, ()),))


# --- judging


def score(outcomes: Iterable[Outcome]) -> Score:
    """Counts over some outcomes."""
    traces = loops = hits = alarms = 0
    for outcome in outcomes:
        traces += 1
        loops += outcome.trace.loop
        hits += outcome.hit
        alarms += outcome.false_alarm
    return Score(traces, loops, hits, alarms)


def evaluate(paths: Sequence[Path], as_json: bool = False) -> int:
    """Print how well the rules do on a corpus; the exit status is 1 below the aim, on held-out families or
    on all of them, in either form. Raises `CorpusError`."""
    traces = load_corpus(paths)
    prints = Fingerprints()
    played = {form: [play(trace, form, prints) for trace in traces] for form in FORMS}
    parts = {
        (form, part): score(o for o in outcomes if part == "all" or o.trace.held_out == (part == "held out"))
        for form, outcomes in played.items()
        for part in ("tuned", "held out", "all")
    }
    good = all(s.reaches_the_aim() for (_, part), s in parts.items() if part != "tuned")
    out = _as_json(played, parts, good) if as_json else _as_table(played, parts, good)
    sys.stdout.write(out)
    return 0 if good else 1


Parts = dict[tuple[Form, str], Score]
Played = dict[Form, list[Outcome]]


def _by_family(outcomes: Iterable[Outcome]) -> dict[tuple[bool, str], list[Outcome]]:
    families: dict[tuple[bool, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        families[outcome.trace.held_out, outcome.trace.family].append(outcome)
    return dict(sorted(families.items()))


def _misses(played: Played) -> Iterator[tuple[Form, Outcome]]:
    for form, outcomes in played.items():
        for outcome in outcomes:
            if outcome.false_alarm or (outcome.trace.loop and not outcome.hit):
                yield form, outcome


def _as_table(played: Played, parts: Parts, good: bool) -> str:
    lines = [f"{'family':<34}{'traces':>7}{'loops':>7}{'found':>7}{'false alarms':>14}"]
    for (held_out, family), outcomes in _by_family(played["history"]).items():
        s = score(outcomes)
        name = f"{family} (held out)" if held_out else family
        lines.append(f"{name:<34}{s.traces:>7}{s.loops:>7}{s.hits:>7}{s.false_alarms:>14}")
    lines += [
        "",
        f"{'form':<9}{'families':<10}{'traces':>7}{'loops':>7}{'precision':>11}{'recall':>8}{'F1':>7}",
    ]
    for (form, part), s in parts.items():
        lines.append(
            f"{form:<9}{part:<10}{s.traces:>7}{s.loops:>7}{s.precision:>11.3f}{s.recall:>8.3f}{s.f1:>7.3f}"
        )
    missed = list(_misses(played))
    lines += ["", "misses:" if missed else "misses: none"]
    lines += [f"  {form:<9}{outcome.trace.id}: {_miss(outcome)}" for form, outcome in missed]
    aim = f"precision {MIN_PRECISION}, recall {MIN_RECALL}"
    lines += ["", f"{'reached' if good else 'BELOW'} the aim: {aim}", ""]
    return "\n".join(lines)


def _miss(outcome: Outcome) -> str:
    trace = outcome.trace
    if outcome.at is None:
        return f"not found by turn {trace.by}"
    rules = ", ".join(d.rule for d in outcome.found)
    wanted = f"a loop of turns {trace.since} to {trace.by}" if trace.loop else "no loop"
    return f"{rules} at turn {outcome.at}; it is {wanted}"


def _as_json(played: Played, parts: Parts, good: bool) -> str:
    def figures(s: Score) -> dict[str, float]:
        return {
            "traces": s.traces,
            "loops": s.loops,
            "found": s.hits,
            "false_alarms": s.false_alarms,
            "precision": round(s.precision, 4),
            "recall": round(s.recall, 4),
            "f1": round(s.f1, 4),
        }

    shown = {
        "reached": good,
        "totals": [{"form": form, "families": part, **figures(s)} for (form, part), s in parts.items()],
        "families": [
            {"form": form, "family": family, "held_out": held_out, **figures(score(outcomes))}
            for form, every in played.items()
            for (held_out, family), outcomes in _by_family(every).items()
        ],
        "misses": [
            {"form": form, "id": outcome.trace.id, "why": _miss(outcome)} for form, outcome in _misses(played)
        ],
    }
    return orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() + "\n"
