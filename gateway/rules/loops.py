"""When a run is going in circles: seven rules over its trace.

A rule counts how often something came again that brought nothing, up to the present step, and a ladder says
what a count leads to. All of them are aware of progress: a call that fails or says the same again counts,
one whose result changes is work; and where anything new came in between, counting starts anew.

Evidence names tools and counts, never what was asked or answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter

from gateway.rules.fingerprint import is_near, same_bag, words_of
from gateway.rules.trace import Fact, Said, Trace
from gateway.values import frozen

Rungs = tuple[tuple[int, str], ...]
"""Threshold and action, thresholds ascending; empty switches a rule off."""

NEW_PERCENT = 10
"""From this novelty on a result is progress."""
PATIENCE = 10
"""How many polls count as one call."""
_MOST_PATIENT = 50
"""A trace holds 64 calls, so polls are not waited for longer than that."""
_CALL_DISTANCE = 6
_TEXT_DISTANCE = 4
_MAX_SHOWN = 4
_STEP = attrgetter("step")


@frozen
class LoopRules:
    """The rungs of each rule, and the tools that are treated differently."""

    same_call: Rungs = ((3, "stop"),)
    near_duplicate: Rungs = ((5, "stop"),)
    cycle: Rungs = ((3, "stop"),)
    no_progress: Rungs = ((3, "stop"),)
    consecutive_tool_errors: Rungs = ((5, "stop"),)
    repeated_text: Rungs = ((3, "stop"),)
    context_growth: Rungs = ((6, "stop"),)
    ignore_tools: frozenset[str] = frozenset()
    """Left out of every rule but `consecutive_tool_errors`: a tool that may be called again and again may
    still be broken."""
    polling_tools: frozenset[str] = frozenset()


@frozen
class Detection:
    """One rule that found a loop, with the highest rung its count has reached."""

    rule: str
    count: int
    action: str
    tools: tuple[str, ...]
    evidence: str
    """One line for people."""


class _Turn:
    """The facts of one step."""

    __slots__ = ("facts", "idle", "news", "step")

    def __init__(self, step: int, facts: Sequence[Fact]) -> None:
        self.step = step
        self.facts = facts
        self.news = [fact for fact in facts if _is_new(fact)]
        """Those that brought something."""
        self.idle = all(_is_idle(fact) for fact in facts)
        """It was nothing but pauses and thoughts, which are neither progress nor the lack of it."""


class _Turns:
    """Facts by step, newest first, for one rule at a time.

    Most steps are work, as the newest turn or two tell: so turns are made as they are asked for, and kept
    for the next rule.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._made: list[_Turn] = []
        self._older = groupby(reversed(facts), _STEP)
        self._calls = [fact.coarse for fact in facts]

    def __iter__(self) -> Iterator[_Turn]:
        yield from self._made
        for step, group in self._older:
            turn = _Turn(step, tuple(group)[::-1])
            self._made.append(turn)
            yield turn

    def calls_like(self, coarse: bytes) -> int:
        """How many calls equal this one, parallel ones included, whatever came of them."""
        return self._calls.count(coarse)


def _is_new(fact: Fact) -> bool:
    """Whether a call brought something; another thought, or a longer pause, did not."""
    return fact.novelty >= NEW_PERCENT and not _is_idle(fact)


def _is_idle(fact: Fact) -> bool:
    return fact.status != "error" and _pauses(fact.name)


def detect(trace: Trace, rules: LoopRules) -> list[Detection]:
    """The loops that a run is in at the trace's step; empty when it is not in one, or no more.

    At most one detection for each rule, in the order of the rules.
    """
    every = trace.facts
    facts = every
    if rules.ignore_tools:
        facts = tuple(fact for fact in every if fact.name not in rules.ignore_tools)
    turns = _Turns(facts)
    called = bool(facts) and facts[-1].step == trace.step
    found: list[Detection | None] = []
    if called:
        now = next(iter(turns)).facts
        found += [
            _same_call(now, turns, rules),
            _near_duplicate(now, turns, rules),
            _cycle(turns, rules),
            _no_progress(turns, rules),
        ]
    if every and every[-1].step == trace.step:
        found.append(_errors(turns if facts is every else _Turns(every), rules))
    if trace.said and trace.said[-1].step == trace.step:
        found.append(_repeated_text(trace.said, turns, rules))
    if called:
        found.append(_context_growth(trace, turns, rules))
    return [detection for detection in found if detection is not None]


# --- patience with tools that poll

_POLLS = words_of(
    """poll polling status progress check watch monitor ready readiness health await describe inspect job jobs
    logs tail queue state get list wait fetch result results"""
)
"""Words in names of tools that poll. Alone they say nothing: the result has to say that it is pending."""
_SHELLS = words_of("bash shell sh terminal exec execute command powershell ssh kubectl")
_WAITS = words_of("sleep wait delay pause")
_IDLE = _WAITS | words_of("think thinking thought reflect sequentialthinking")
_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@lru_cache(maxsize=4096)
def _name_words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _NAME_WORD.findall(name[:128]))


@lru_cache(maxsize=4096)
def _pauses(name: str) -> bool:
    return not _IDLE.isdisjoint(_name_words(name))


def is_patient(fact: Fact, rules: LoopRules) -> bool:
    """Whether a call is a poll or a pause, of which many are in order; never while it fails."""
    if fact.status == "error":
        return False
    if fact.name in rules.polling_tools:
        return True
    words = _name_words(fact.name)
    if words & _WAITS:
        return True
    return fact.status == "pending" and bool(words & (_POLLS | _SHELLS))


def _weighed(impatient: int, patient: int) -> int:
    """A count in which `PATIENCE` polls are one call."""
    return impatient + patient // PATIENCE


def _rung(rungs: Rungs, count: int) -> str | None:
    """The action of the highest rung that a count reaches."""
    reached = None
    for threshold, action in rungs:
        if count >= threshold:
            reached = action
    return reached


def _patient_rungs(rungs: Rungs) -> Rungs:
    return tuple((min(PATIENCE * n, max(n, _MOST_PATIENT)), action) for n, action in rungs)


# --- what people read

_CONTROL = re.compile(r"[^\w.:/-]")


def _names(facts: Sequence[Fact]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f.name for f in facts))


def _shown(names: Sequence[str]) -> str:
    """Tool names for a line of text; models make names up, so they are cut and cleaned."""
    shown = [_CONTROL.sub("?", name[:64]) for name in names[:_MAX_SHOWN]]
    if len(names) > _MAX_SHOWN:
        shown.append(f"{len(names) - _MAX_SHOWN} more")
    return ", ".join(shown)


def _again(a: Fact, b: Fact) -> bool:
    """Two calls came to the same: both failed, or got the same result."""
    if a.status == "error":
        return b.status == "error"
    return bool(a.result) and a.result == b.result


# --- the rules


def _same_call(now: Sequence[Fact], turns: _Turns, rules: LoopRules) -> Detection | None:
    best: Detection | None = None
    for fact in {f.coarse: f for f in now}.values():
        if _rung(rules.same_call, turns.calls_like(fact.coarse)) is None:
            continue
        count = _count_back(turns, _equal_to(fact))
        rungs = _patient_rungs(rules.same_call) if is_patient(fact, rules) else rules.same_call
        action = _rung(rungs, count)
        if action is not None and (best is None or count > best.count):
            came = "failed each time" if fact.status == "error" else "got the same result"
            line = f"{_shown([fact.name])} was called {count} times with the same arguments and {came}"
            best = Detection("same_call", count, action, (fact.name,), line)
    return best


def _equal_to(now: Fact) -> Callable[[Fact], bool]:
    return lambda fact: fact.coarse == now.coarse and _again(now, fact)


def _near_duplicate(now: Sequence[Fact], turns: _Turns, rules: LoopRules) -> Detection | None:
    best: Detection | None = None
    for fact in {f.near: f for f in now}.values():
        forms: set[bytes] = set()

        def alike(f: Fact, now: Fact = fact, forms: set[bytes] = forms) -> bool:
            if f.name != now.name or not _again(now, f) or not _alike(now, f):
                return False
            forms.add(f.coarse)
            return True

        count = _count_back(turns, alike)
        if len(forms) < 2:
            continue
        rungs = _patient_rungs(rules.near_duplicate) if is_patient(fact, rules) else rules.near_duplicate
        action = _rung(rungs, count)
        if action is not None and (best is None or count > best.count):
            came = "failed each time" if fact.status == "error" else "got the same result"
            line = f"{_shown([fact.name])} was called {count} times with nearly the same arguments and {came}"
            best = Detection("near_duplicate", count, action, (fact.name,), line)
    return best


def _alike(now: Fact, then: Fact) -> bool:
    """Nearly the same arguments. Where each call has news of its own ("ok"), they must be the same words."""
    if now.coarse == then.coarse:
        return True
    if now.status != "error" and now.novelty >= NEW_PERCENT:
        return same_bag(now.near, then.near)
    return is_near(now.near, then.near, _CALL_DISTANCE)


def _count_back(turns: _Turns, matches: Callable[[Fact], bool]) -> int:
    """How many turns, from the last one back, have a matching call with nothing new beside or between.

    Parallel calls of one turn count once. A turn in which something else succeeded and was new ends the
    count: the agent got somewhere there, though a matching call in it was the first of those that follow.
    """
    count = 0
    for turn in turns:
        hit = any(matches(fact) for fact in turn.facts)
        if any(f.status != "error" and not matches(f) for f in turn.news):
            return count + hit if count else 0
        count += hit
    return count


Signature = frozenset[tuple[bytes, bytes]]


def _signature(turn: _Turn) -> Signature:
    return frozenset(
        (f.coarse, b"error" if f.status == "error" else f.result or b"gone")
        for f in turn.facts
        if not _is_idle(f)
    )


def _cycle(turns: _Turns, rules: LoopRules) -> Detection | None:
    busy = _Busy(turns)
    newest = busy.signature(0)
    if not rules.cycle or newest is None or any(turns.calls_like(coarse) < 2 for coarse, _ in newest):
        return None
    for length in (2, 3, 4):
        count = 1 + busy.repeated(length) // length
        block = busy.signatures[:length]
        if count < 2 or _has_smaller_period(block):
            continue
        if any(result == b"gone" for signature in block for _, result in signature):
            continue
        facts = [fact for turn in reversed(busy.turns[:length]) for fact in turn.facts]
        patient = all(is_patient(fact, rules) for fact in facts)
        action = _rung(_patient_rungs(rules.cycle) if patient else rules.cycle, count)
        if action is not None:
            names = _names(facts)
            line = (
                f"the same {length} steps ({_shown(names)}) were repeated {count} times with the same results"
            )
            return Detection("cycle", count, action, names, line)
    return None


class _Busy:
    """The turns that are more than pauses and thoughts, newest first, with their signatures; made as they
    are asked for."""

    def __init__(self, turns: _Turns) -> None:
        self.turns: list[_Turn] = []
        self.signatures: list[Signature] = []
        self._older = (turn for turn in turns if not turn.idle)

    def repeated(self, length: int) -> int:
        """How many turns in a row, from the newest back, equal the one `length` turns before them."""
        at = 0
        while (earlier := self.signature(at + length)) is not None and earlier == self.signatures[at]:
            at += 1
        return at

    def signature(self, at: int) -> Signature | None:
        """Of the turn so many before the newest; None before the first."""
        while at >= len(self.signatures):
            turn = next(self._older, None)
            if turn is None:
                return None
            self.turns.append(turn)
            self.signatures.append(_signature(turn))
        return self.signatures[at]


def _has_smaller_period(block: Sequence[Signature]) -> bool:
    if len(set(block)) == 1:
        return True
    return len(block) == 4 and block[:2] == block[2:]


def _stale_turns(turns: _Turns) -> Iterator[_Turn]:
    """The last turns that brought nothing new, newest first; pauses and thoughts are passed over."""
    for turn in turns:
        if turn.idle:
            continue
        if turn.news:
            return
        yield turn


def _no_progress(turns: _Turns, rules: LoopRules) -> Detection | None:
    stale = list(_stale_turns(turns))
    patient = sum(all(is_patient(f, rules) for f in turn.facts) for turn in stale)
    action = _rung(rules.no_progress, _weighed(len(stale) - patient, patient))
    if action is None:
        return None
    names = _names([fact for turn in stale for fact in turn.facts])
    line = f"{len(stale)} steps in a row brought nothing new ({_shown(names)})"
    return Detection("no_progress", len(stale), action, names, line)


def _errors(turns: _Turns, rules: LoopRules) -> Detection | None:
    failed: list[_Turn] = []
    for turn in turns:
        if any(fact.status != "error" for fact in turn.facts):
            break
        failed.append(turn)
    action = _rung(rules.consecutive_tool_errors, len(failed))
    if action is None:
        return None
    names = _names([fact for turn in failed for fact in turn.facts])
    line = f"every tool call of {len(failed)} steps in a row failed ({_shown(names)})"
    return Detection("consecutive_tool_errors", len(failed), action, names, line)


def _repeated_text(said: Sequence[Said], turns: _Turns, rules: LoopRules) -> Detection | None:
    """The same text counts where it got the same reply, or stood beside calls that brought nothing new."""
    last = said[-1]
    same = [text for text in said if _says_the_same(text, last)]
    if _rung(rules.repeated_text, len(same)) is None:
        return None
    by_step = {turn.step: turn for turn in turns}
    count = sum(_got_nowhere(text, last, by_step) for text in same)
    action = _rung(rules.repeated_text, count)
    if action is None:
        return None
    beside = by_step.get(last.step)
    names = _names(beside.facts) if beside else ()
    return Detection("repeated_text", count, action, names, f"the assistant said the same {count} times")


def _says_the_same(text: Said, last: Said) -> bool:
    if text.text == last.text:
        return True
    return bool(text.near) and bool(last.near) and is_near(text.near, last.near, _TEXT_DISTANCE)


def _got_nowhere(text: Said, last: Said, turns: dict[int, _Turn]) -> bool:
    if last.reply or text.reply:
        return text.reply == last.reply
    turn = turns.get(text.step)
    return turn is not None and not turn.news


def _context_growth(trace: Trace, turns: _Turns, rules: LoopRules) -> Detection | None:
    sizes = dict(trace.sizes)
    grown: list[_Turn] = []
    for turn in _stale_turns(turns):
        before, after = sizes.get(turn.step - 1), sizes.get(turn.step)
        if before is None or after is None or after <= before:
            break
        grown.append(turn)
    patient = sum(all(is_patient(f, rules) for f in turn.facts) for turn in grown)
    action = _rung(rules.context_growth, _weighed(len(grown) - patient, patient))
    if action is None:
        return None
    names = _names([fact for turn in grown for fact in turn.facts])
    line = f"{len(grown)} steps in a row only made the context longer ({_shown(names)})"
    return Detection("context_growth", len(grown), action, names, line)
