"""When a run is going in circles: seven rules over its trace.

A rule counts how often something came again that brought nothing, up to the present step, and a ladder says
what a count leads to. All of them are aware of progress: a call that fails or says the same again counts,
one whose result changes is work; and where anything new came in between, counting starts anew. The exception
is the same failure again and again: what was done in between was of no use to it.

Evidence names tools and counts, never what was asked or answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from operator import attrgetter

from gateway.rules.fingerprint import SHORT, is_near, same_bag
from gateway.rules.tool_names import acts_on_a_page, is_idle, may_poll, reads, thinks, waits, writes
from gateway.rules.trace import Fact, Said, Trace
from gateway.values import frozen

Rungs = tuple[tuple[int, str], ...]
"""Threshold and action, thresholds ascending; empty switches a rule off."""

NEW_PERCENT = 10
"""From this novelty on a result is progress."""
WEAK_PERCENT = 30
"""Below this novelty a result is weak evidence: it counts where something else repeats as well."""
WHATEVER_WAS_DONE = 2
"""How many more equal failures than equal calls it takes where other things were done in between."""
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
        """It was nothing but pauses, thoughts and bookkeeping: neither progress nor the lack of it."""


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
    """Whether a call brought something; another thought, note or pause did not."""
    return fact.novelty >= NEW_PERCENT and not _is_idle(fact)


def _is_idle(fact: Fact) -> bool:
    return fact.status != "error" and (fact.pauses or is_idle(fact.name))


def detect(trace: Trace, rules: LoopRules) -> list[Detection]:
    """The loops that a run is in at the trace's step; empty when it is not in one, or no more.

    At most one detection for each rule, in the order of the rules.
    """
    if trace.repeats:
        rules = _after(rules, trace.repeats)
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
            _same_call(now, turns, rules) or _same_failure(now, facts, rules),
            _near_duplicate(now, turns, rules) or _same_failure_of_others(now, facts, rules),
            _cycle(turns, rules),
            _no_progress(turns, rules) or _same_thought(turns, rules),
        ]
    if every and every[-1].step == trace.step:
        found.append(_errors(turns if facts is every else _Turns(every), rules))
    if trace.said and trace.said[-1].step == trace.step:
        found.append(_repeated_text(trace.said, turns, rules))
    if called:
        found.append(_context_growth(trace, turns, rules))
    return [detection for detection in found if detection is not None]


# --- patience with tools that poll


def is_patient(fact: Fact, rules: LoopRules) -> bool:
    """Whether a call is a poll or a pause, of which many are in order; never while it fails."""
    if fact.status == "error":
        return False
    if fact.name in rules.polling_tools:
        return True
    if fact.pauses or waits(fact.name):
        return True
    return fact.status == "pending" and may_poll(fact.name)


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


def _later(rungs: Rungs, by: int) -> Rungs:
    return tuple((n + by, action) for n, action in rungs)


@lru_cache(maxsize=256)
def _after(rules: LoopRules, repeats: int) -> LoopRules:
    """The rules for a task in which something is to be done so many times."""
    return replace(
        rules,
        same_call=_later(rules.same_call, repeats),
        near_duplicate=_later(rules.near_duplicate, repeats),
        cycle=_later(rules.cycle, repeats),
        no_progress=_later(rules.no_progress, repeats),
        consecutive_tool_errors=_later(rules.consecutive_tool_errors, repeats),
        repeated_text=_later(rules.repeated_text, repeats),
        context_growth=_later(rules.context_growth, repeats),
    )


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


def _same_failure(now: Sequence[Fact], facts: Sequence[Fact], rules: LoopRules) -> Detection | None:
    """The same call failed in the same way again, whatever was done in between: that was of no use."""
    for fact in now:
        if not fact.failing or reads(fact.name) or is_patient(fact, rules):
            continue
        count = _equal_results(fact, (f for f in reversed(facts) if f.coarse == fact.coarse))
        action = _rung(_later(rules.same_call, WHATEVER_WAS_DONE), count)
        if action is not None:
            line = f"{_shown([fact.name])} failed {count} times in the same way, whatever was done in between"
            return Detection("same_call", count, action, (fact.name,), line)
    return None


def _same_failure_of_others(now: Sequence[Fact], facts: Sequence[Fact], rules: LoopRules) -> Detection | None:
    """The same for calls of one tool that differ, as those for the build of each commit do. Their result has
    to be long enough to tell that it is the same failure, and others have to have been called in between."""
    for fact in now:
        if not fact.failing or fact.size <= SHORT or reads(fact.name) or is_patient(fact, rules):
            continue
        alike = [f for f in reversed(facts) if f.name == fact.name]
        count = _equal_results(fact, alike, 2)
        action = _rung(rules.near_duplicate, count)
        if action is not None:
            line = f"{_shown([fact.name])} failed {count} times in the same way, whatever was done in between"
            return Detection("near_duplicate", count, action, (fact.name,), line)
    return None


def _equal_results(now: Fact, facts: Iterable[Fact], apart: int = 1) -> int:
    """In how many steps in a row, from the newest back and so far apart, a call had this result."""
    count, last = 0, now.step + apart
    for fact in facts:
        if fact.result != now.result:
            break
        if fact.step <= last - apart:
            count += 1
            last = fact.step
    return count


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


Sign = tuple[bytes, bytes]
Signature = frozenset[Sign]
Signer = Callable[[Fact], Sign]


def _by_call(fact: Fact) -> Sign:
    return fact.coarse, b"error" if fact.status == "error" else fact.result or b"gone"


def _by_failure(fact: Fact) -> Sign:
    """A failing call goes by what it says, whatever it was tried with."""
    return (
        fact.name.encode("utf-8", "replace") if fact.status == "error" else fact.coarse
    ), fact.result or b"gone"


def _by_change(fact: Fact) -> Sign:
    """What is looked at may be a little different each time: what counts is what is done about it."""
    return fact.coarse, fact.result or b"gone" if writes(fact.name) else b""


def _cycle(turns: _Turns, rules: LoopRules) -> Detection | None:
    if not rules.cycle:
        return None
    return (
        _cycle_by(_by_call, turns, rules)
        or _cycle_by(_by_failure, turns, rules)
        or _cycle_by(_by_change, turns, rules)
    )


def _cycle_by(sign: Signer, turns: _Turns, rules: LoopRules) -> Detection | None:
    busy = _Busy(turns, sign)
    newest = busy.signature(0)
    if newest is None or (sign is not _by_failure and any(turns.calls_like(c) < 2 for c, _ in newest)):
        return None
    for length in (2, 3, 4):
        count = 1 + busy.repeated(length) // length
        block = busy.signatures[:length]
        if count < 2 or _has_smaller_period(block):
            continue
        if any(result == b"gone" for signature in block for _, result in signature):
            continue
        facts = [fact for turn in reversed(busy.turns[:length]) for fact in turn.facts]
        if sign is _by_change and not _undoes(facts):
            continue
        patient = all(is_patient(fact, rules) for fact in facts)
        rungs = _later(rules.cycle, 1) if sign is _by_failure else rules.cycle
        action = _rung(_patient_rungs(rungs) if patient else rungs, count)
        if action is not None:
            names = _names(facts)
            line = (
                f"the same {length} steps ({_shown(names)}) were repeated {count} times with the same results"
            )
            return Detection("cycle", count, action, names, line)
    return None


def _undoes(facts: Sequence[Fact]) -> bool:
    """Whether a round sets one thing to and fro: the same tool that changes something, in two ways."""
    ways: dict[str, set[bytes]] = {}
    for fact in facts:
        if writes(fact.name) and not acts_on_a_page(fact.name):
            ways.setdefault(fact.name, set()).add(fact.coarse)
    return any(len(coarse) > 1 for coarse in ways.values())


class _Busy:
    """The turns that are more than pauses and thoughts, newest first, with their signatures; made as they
    are asked for."""

    def __init__(self, turns: _Turns, sign: Signer) -> None:
        self.turns: list[_Turn] = []
        self.signatures: list[Signature] = []
        self._sign = sign
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
            self.signatures.append(frozenset(self._sign(fact) for fact in turn.facts if not _is_idle(fact)))
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


def _same_thought(turns: _Turns, rules: LoopRules) -> Detection | None:
    """Thoughts in a row with hardly a new word."""
    stale: list[_Turn] = []
    for turn in turns:
        if not turn.idle or not all(thinks(f.name) and f.novelty < WEAK_PERCENT for f in turn.facts):
            break
        stale.append(turn)
    action = _rung(rules.near_duplicate, len(stale))
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
    """The same text counts where it got the same reply, or stood beside calls that brought nothing new; and
    in a row, without any call in between, whatever the reply."""
    by_step: dict[int, _Turn] = {}
    last = said[-1]
    same = [text for text in said if _says_the_same(text, last)]
    count = len(same)
    if _rung(rules.repeated_text, count) is not None:
        by_step = {turn.step: turn for turn in turns}
        count = sum(_weights(same, last, by_step)) // _WHOLE
    action = _rung(rules.repeated_text, count)
    for rungs, found in _without_calls(said, rules) if action is None and last.reply else ():
        if (action := _rung(rungs, found)) is not None:
            count = found
            break
    if action is None:
        return None
    beside = by_step.get(last.step)
    names = _names(beside.facts) if beside else ()
    return Detection("repeated_text", count, action, names, f"the assistant said the same {count} times")


_WHOLE = 6
"""Weight of a text that counts in full."""


def _says_the_same(text: Said, last: Said) -> bool:
    if text.text == last.text:
        return True
    return bool(text.near) and bool(last.near) and is_near(text.near, last.near, _TEXT_DISTANCE)


def _weights(same: Sequence[Said], last: Said, turns: dict[int, _Turn]) -> Iterator[int]:
    first = True
    for text in same:
        if last.reply or text.reply:
            if text.reply == last.reply:
                # What is told after a call that succeeded is most likely true each time.
                yield _WHOLE // 3 if text.acted and not first else _WHOLE
                first = False
            continue
        turn = turns.get(text.step)
        if turn is None:
            continue
        if not turn.news:
            yield _WHOLE
        elif text.near and all(f.novelty < WEAK_PERCENT for f in turn.news):
            yield _WHOLE // 2


def _without_calls(said: Sequence[Said], rules: LoopRules) -> Iterator[tuple[Rungs, int]]:
    """Counts of texts in a row with nothing but replies between them, each with its rungs.

    Who asks, is told the same number or address, and asks again, or hands the same code over again, is stuck
    sooner than who says something else again. Two agents can thank each other without end, and announce what
    they never do.
    """
    rungs = rules.repeated_text
    last = said[-1]
    count = thanks = 0
    told: list[int] = []
    row: list[Said] = []
    for text in reversed(said):
        if not text.reply or text.acted:
            break
        row.append(text)
    for text in row:
        if text.text != last.text:
            break
        count += 1
        told.append(text.told)
    for text in row:
        if not text.courtesy:
            break
        thanks += 1
    yield _later(rungs, 1), count if last.code else sum(bool(facts & last.told) for facts in told)
    if last.near:
        yield tuple((2 * n, action) for n, action in rungs), count
    yield _later(rungs, 1), thanks
    yield rungs, _rewordings(row)


def _rewordings(row: Sequence[Said]) -> int:
    """How many sentences in a row, given newest first, got the same reply, share most words with the last,
    and but for the first bring no word that was not said before: an enumeration has one for each thing."""
    last = row[0].bag if row else 0
    if not last:
        return 0
    alike: list[int] = []
    for text in row:
        if text.reply != row[0].reply or 2 * (text.bag & last).bit_count() < (text.bag | last).bit_count():
            break
        alike.append(text.bag)
    known = alike.pop()
    count, stale = 1, False
    for bag in reversed(alike):
        stale = not bag & ~known
        count += stale
        known |= bag
    return count if stale else 0


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
