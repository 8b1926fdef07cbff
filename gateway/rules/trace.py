"""What a run has done so far: its tool calls with their results, and what the model said, as digests.

Agents send their history with every request, so most of a trace is read from the request itself. Where the
provider keeps the history, or the agent cuts it, the trace that the store keeps from step to step fills in
(`dump`, `load`). `merged` joins the two; `answered` notes what the model asked for. What a trace means is
for others to say (`rules.loops`).

A trace belongs to one task: it begins at the *boundary*, the last user message that follows an answer
without tool calls, or that nothing precedes. User texts beside or after tool results are no boundary.
Counts of calls go on over the whole run.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from hashlib import blake2b
from operator import attrgetter
from sys import intern
from zlib import compress, crc32, decompressobj
from zlib import error as ZlibError  # noqa: N812

from gateway.domain import Answer, Item, Role, ToolCall
from gateway.rules.fingerprint import (
    MAX_NAME,
    NEAR_BYTES,
    SKETCH_BITS,
    CallPrint,
    Fingerprints,
    ResultPrint,
    TextPrint,
    digest,
    shares_words,
)
from gateway.rules.lineage import MIN_ID_CHARS
from gateway.rules.tool_names import acts_on_a_page, thinks, writes
from gateway.values import frozen

MAX_FACTS = 64
MAX_BYTES = 8192
"""Of a dumped trace."""
_MAX_READ = 128
"""Facts that are read from a request, and from one answer; of earlier ones only the number is counted."""
_MAX_SAID = 32
_MAX_SIZES = 32
_MAX_PENDING = 32
_MAX_NAMES = 8192
"""Characters of all names together whose calls are counted each by itself."""
_STATUS = ("", "ok", "error", "pending")
_CODES = {status: code for code, status in enumerate(_STATUS)}
_COARSE = attrgetter("coarse")


@frozen
class Fact:
    """One tool call with its result, as digests: small enough to keep in the store."""

    name: str
    """At most `MAX_NAME` characters of it."""
    call: bytes
    """Name and canonical arguments; 8 bytes, as the next and the result."""
    coarse: bytes
    """The same with volatile values seen through."""
    near: bytes
    """For near-duplicates; `NEAR_BYTES`, compared by `fingerprint.is_near`."""
    result: bytes
    """Result with volatile values seen through; empty when it is not known any more."""
    status: str
    """`ok`, `error`, `pending`, or empty when it is not known any more."""
    step: int
    """Ordinal of the step whose request first showed it; below 1 for what was before the run was known."""
    novelty: int
    """0 to 100: how much of this was not known before in the task. By its parts for a long result; a short
    one ("ok") is news unless the same was asked for in other words, and nothing found (or an error) if
    something else was asked for."""
    size: int
    """Bytes of the result."""
    shape: int = 0
    """Of the arguments, see `CallPrint.shape`; 16 bits."""
    failing: bool = False
    """The result tells of a failure, be it of the call or of what it ran."""
    pauses: bool = False
    """A shell's `sleep`."""


@frozen
class Said:
    """One text of the assistant, and what it was answered with."""

    text: bytes
    near: bytes
    """Empty for a few words."""
    reply: bytes
    """What the user said to it; empty for a text beside tool calls."""
    step: int
    """Ordinal of the step whose request first showed it."""
    bag: int = 0
    """Words of a sentence, see `TextPrint.bag`."""
    code: bool = False
    """It is mostly code."""
    acted: bool = False
    """It came after a call that succeeded, so it tells of work."""
    courtesy: bool = False
    """It and the reply are nothing but thanks and good wishes."""
    told: int = 0
    """What the reply told, see `TextPrint.facts`."""


@frozen
class Asked:
    """A tool call of the last answer, whose result is not there yet."""

    id: bytes
    name: str
    call: bytes
    coarse: bytes
    near: bytes
    news: int
    """0 to 100: how much of what it asks for was not asked before."""
    shape: int = 0
    pauses: bool = False


@frozen
class Seen:
    """The parts of results and arguments that came by lately: two generations of a bitmap."""

    new: int = 0
    old: int = 0

    def share_new(self, mask: int) -> int:
        """Percentage of a mask's bits that were not seen, corrected for how full the bitmap is."""
        bits = mask.bit_count()
        if not bits:
            return 0
        seen = self.new | self.old
        unseen = (mask & ~seen).bit_count() / bits
        free = 1 - seen.bit_count() / SKETCH_BITS
        return min(100, round(100 * unseen / max(free, 0.1)))

    def add(self, mask: int) -> Seen:
        """With these bits; the older generation is forgotten when the newer is three tenths full."""
        new = self.new | mask
        if new.bit_count() * 10 > SKETCH_BITS * 3:
            return Seen(0, new)
        return Seen(new, self.old)


Counts = Mapping[str, tuple[int, int]]
"""By tool: calls, and how many of them failed. Those of tools beyond `_MAX_NAMES` are under the empty name,
so that the sum is that of all calls."""


@frozen
class Trace:
    """What is known of a run's task at one step; see the module. When full it takes some 30 KB of memory, and
    less than 200 KB if names have been made up to fill it."""

    step: int = 0
    task: bytes = b""
    """Digest of the message at the boundary; empty when it was never seen."""
    facts: tuple[Fact, ...] = ()
    """At most `MAX_FACTS`, oldest first."""
    said: tuple[Said, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    """Step and bytes of text that the model read at it, of the last steps, oldest first."""
    counts: Counts = field(default_factory=dict)
    """Of the whole run, also of facts that have dropped out."""
    seen: Seen = Seen()
    asked: tuple[Asked, ...] = ()
    repeats: int = 0
    """How many times the user asked for something to be done, at most `MAX_REPEATS`; 0 without such an
    order."""


EMPTY = Trace()


# --- reading a request


class _Turn:
    """One answer of the model and what came back to it."""

    __slots__ = ("calls", "replies", "results", "said", "unanswered")

    def __init__(self) -> None:
        self.said: list[Item] = []
        self.calls: list[ToolCall] = []
        self.results: dict[int, Item] = {}
        """By position of the call."""
        self.replies: list[Item] = []
        self.unanswered = 0
        """No call before this position is without a result."""

    @property
    def answered(self) -> bool:
        return bool(self.results or self.replies)

    def positions(self) -> tuple[list[int], list[int]]:
        """Of the calls that have results: those of which only the number is counted, those that are read."""
        every = sorted(self.results)
        return every[:-_MAX_READ], every[-_MAX_READ:]


@frozen
class _Story:
    """The turns of a conversation, and where its task begins."""

    turns: list[_Turn]
    start: int
    """Index of the task's first turn."""
    boundary: tuple[Item, ...]
    """The user's words at the boundary; empty when it is not in the request."""
    loose: list[Item]
    """Results of calls that are not in the request, after the last answer in it."""


class _Reader:
    """One pass over a conversation."""

    def __init__(self) -> None:
        self.turns: list[_Turn] = []
        self.start = 0
        self.boundary: list[Item] = []
        self.loose: list[Item] = []
        self._speaking = False
        self._open: dict[str, list[tuple[_Turn, int]]] = {}
        self._asked: set[str] = set()
        self._early: dict[str, Item] = {}
        self._free = True
        """A user message here would begin a task: the last answer had no calls, or nothing came before."""

    def read(self, items: Iterable[Item]) -> _Story:
        for item in items:
            if item.aside or item.role is Role.SYSTEM:
                continue
            if item.role is Role.ASSISTANT:
                self._assistant(item)
            elif item.role is Role.TOOL:
                self._result(item)
            else:
                self._user(item)
        if self.turns and not self.turns[-1].answered and not self.turns[-1].calls:
            # The beginning of the next answer, put into the model's mouth.
            self.turns.pop()
        return _Story(self.turns, min(self.start, len(self.turns)), tuple(self.boundary), self.loose)

    def _assistant(self, item: Item) -> None:
        if not self._speaking:
            self.turns.append(_Turn())
            self.loose = []
        self._speaking = True
        turn = self.turns[-1]
        if item.texts:
            turn.said.append(item)
        for call in item.calls:
            turn.calls.append(call)
            at = len(turn.calls) - 1
            if call.id:
                self._asked.add(call.id)
                if (early := self._early.pop(call.id, None)) is not None:
                    turn.results[at] = early
                else:
                    self._open.setdefault(call.id, []).append((turn, at))
        self._free = not turn.calls

    def _result(self, item: Item) -> None:
        self._speaking = False
        self._free = False
        if item.call_id:
            waiting = self._open.get(item.call_id, [])
            while waiting:
                # The newest: servers that count their ids from zero use them again in every turn.
                turn, at = waiting.pop()
                if at not in turn.results:
                    turn.results[at] = item
                    return
            if item.call_id not in self._asked and not self._unanswered():
                self._early[item.call_id] = item
                self.loose.append(item)
                return
        turn_at = self._unanswered()
        if turn_at is None:
            if not self.turns or not self.turns[-1].calls:
                self.loose.append(item)
            return
        turn, at = turn_at
        turn.results[at] = item

    def _unanswered(self) -> tuple[_Turn, int] | None:
        """The first call of the last turn that has no result."""
        if not self.turns:
            return None
        turn = self.turns[-1]
        while turn.unanswered in turn.results:
            turn.unanswered += 1
        return (turn, turn.unanswered) if turn.unanswered < len(turn.calls) else None

    def _user(self, item: Item) -> None:
        if self._free and (self._speaking or not (self.turns or self.boundary)):
            # The first user item behind an answer, or the conversation's beginning.
            self.start = len(self.turns)
            self.boundary = []
        self._speaking = False
        if self._free:
            self.boundary.append(item)
        if self.turns:
            self.turns[-1].replies.append(item)


# --- from turns to facts


_ANOTHER_PAGE = 1
"""News of a call that differs in the page alone: an acknowledgement of it is new, finding nothing is not."""
_NEW_WORDS = 55
"""Percentage of words of a call that have to be new for it to ask for something else."""


class _Memory:
    """What a task knows, fact by fact."""

    def __init__(self, seen: Seen = Seen(), facts: Sequence[Fact] = ()) -> None:
        self.seen = seen
        self.calls: set[bytes] = set(map(_COARSE, facts))
        self._pairs: set[bytes] = set()
        """Calls with their results, but for those of `_facts`."""
        self._given: dict[tuple[str, bytes], list[bytes]] = {}
        """By tool and result: the calls that got it, as they are compared with others; but for `_facts`."""
        self._shapes: dict[str, int] = {}
        """By tool: that of the last call."""
        self._facts = facts

    def _remember(self) -> None:
        """Read the facts. Only where a call or a result came before is it asked what they are."""
        for fact in self._facts:
            self._pairs.add(fact.coarse + fact.result)
            self._given.setdefault((fact.name, fact.result), []).append(fact.near)
            self._shapes[fact.name] = fact.shape
        self._facts = ()

    def news(self, call: CallPrint) -> tuple[int, int]:
        """How much of what a call asks for is new, and its shape. It is all new if it names something new, if
        one of its values is of new words alone, if most of its words are new, or if it differs from the
        last call of this tool in the same place as that one from those before."""
        if call.coarse in self.calls:
            return 0, 0
        if thinks(call.name):
            return self.seen.share_new(call.names | call.words), 0
        shape = call.shape(self.seen.new | self.seen.old)
        if self._is_new(call):
            return 100, shape
        self._remember()
        if shape and self._shapes.get(call.name) == shape:
            return 100, shape
        return _ANOTHER_PAGE if call.paged else 0, shape

    def _is_new(self, call: CallPrint) -> bool:
        if call.names and self.seen.share_new(call.names):
            return True
        if not call.words:
            return not self.calls
        if any(self.seen.share_new(leaf) > 90 for leaf in call.leaves):
            return True
        return self.seen.share_new(call.words) >= _NEW_WORDS

    def heard(self, call: CallPrint, shape: int) -> None:
        self.seen = self.seen.add(call.names | call.words)
        if shape:
            self._remember()
            self._shapes[call.name] = shape

    def learn(self, call: CallPrint | Asked, news: int, result: ResultPrint) -> int:
        """Novelty of one result, which is known from now on. `news` is that of its call."""
        novelty = self._novelty(call, news, result)
        self.calls.add(call.coarse)
        if result.digest:
            self._pairs.add(call.coarse + result.digest)
            self._given.setdefault((call.name, result.digest), []).append(call.near)
            self.seen = self.seen.add(result.units)
        return novelty

    def _novelty(self, call: CallPrint | Asked, news: int, result: ResultPrint) -> int:
        if not result.digest:
            return 100
        if thinks(call.name):
            return news
        known = call.coarse in self.calls
        if known:
            self._remember()
            if call.coarse + result.digest in self._pairs:
                return 0
        if result.kind in ("short", "rows"):
            if known or news > _ANOTHER_PAGE:
                return 100
            if news:
                return 0 if result.kind == "rows" and self._was_given(call, result) else 100
            return 0 if self._is_paraphrase(call, result) else 100
        parts = self.seen.share_new(result.units)
        if result.kind == "empty" and not known:
            return max(news, parts) if result.status == "error" else news
        if acts_on_a_page(call.name) and result.status != "error" and not self._was_given(call, result):
            # A page that looks like none before: a field is filled in, a row is gone.
            return 100
        return parts

    def _was_given(self, call: CallPrint | Asked, result: ResultPrint) -> list[bytes]:
        self._remember()
        return self._given.get((call.name, result.digest), [])

    def _is_paraphrase(self, call: CallPrint | Asked, result: ResultPrint) -> bool:
        """Whether a call like this one got this result. What writes did something else with other words."""
        if writes(call.name):
            return False
        return any(shares_words(call.near, near) for near in self._was_given(call, result)[-_MAX_ALIKE:])


_MAX_ALIKE = 16


def _fact(call: CallPrint | Asked, result: ResultPrint, step: int, novelty: int, shape: int) -> Fact:
    return Fact(
        call.name,
        call.call,
        call.coarse,
        call.near,
        result.digest,
        result.status,
        step,
        novelty,
        result.size,
        shape,
        result.failing,
        call.pauses,
    )


def _read_turn(
    turn: _Turn, step: int, memory: _Memory, prints: Fingerprints, asked: Sequence[Asked] = ()
) -> Iterator[Fact]:
    """The facts of one turn. `asked` are calls whose news was told when the model made them."""
    told = {a.call: (a.news, a.shape) for a in asked}
    for at in turn.positions()[1]:
        call = prints.call(turn.calls[at])
        result = prints.result(turn.results[at])
        asks = told.get(call.call)
        if asks is None:
            asks = memory.news(call)
            memory.heard(call, asks[1])
        news, shape = asks
        yield _fact(call, result, step, memory.learn(call, news, result), shape)


def _read_turns(
    story: _Story, step: int, memory: _Memory, prints: Fingerprints
) -> tuple[list[Fact], dict[str, tuple[int, int]]]:
    """The facts of a task and the number of calls; of calls long ago only the number."""
    last = len(story.turns) - 1
    turns = story.turns[story.start :]
    first, results = len(turns), 0
    while first and results < _MAX_READ:
        first -= 1
        results += len(turns[first].results)
    counts: dict[str, tuple[int, int]] = {}
    for turn in turns[:first]:
        _count_results(counts, turn, turn.results)
    for turn in turns[first:]:
        _count_results(counts, turn, turn.positions()[0])
    facts: list[Fact] = []
    for i, turn in enumerate(turns[first:], story.start + first):
        facts.extend(_read_turn(turn, step - (last - i), memory, prints))
    for fact in facts:
        _count(counts, fact.name, fact.status == "error")
    return facts, _bounded(counts, facts[-MAX_FACTS:])


def _count(counts: dict[str, tuple[int, int]], name: str, failed: bool, by: int = 1) -> None:
    calls, errors = counts.get(name, (0, 0))
    counts[name] = (max(0, calls + by), max(0, errors + by * failed))


def _count_results(counts: dict[str, tuple[int, int]], turn: _Turn, positions: Iterable[int]) -> None:
    for at in positions:
        _count(counts, turn.calls[at].name[:MAX_NAME], turn.results[at].failed)


def _bounded(counts: dict[str, tuple[int, int]], facts: Iterable[Fact]) -> dict[str, tuple[int, int]]:
    """Counts whose names are not too long together: models make names up."""
    if sum(map(len, counts)) <= _MAX_NAMES:
        return counts
    used = {fact.name for fact in facts}
    while spare := [name for name in counts if name and name not in used]:
        _fold(counts, spare)
        if sum(map(len, counts)) <= _MAX_NAMES:
            break
    return counts


def _fold(counts: dict[str, tuple[int, int]], spare: Sequence[str]) -> None:
    """Count half of these tools, the least used ones, under the empty name from now on."""
    for name in sorted(spare, key=lambda n: counts[n])[: max(8, len(spare) // 2)]:
        calls, errors = counts.pop(name)
        others = counts.get("", (0, 0))
        counts[""] = (others[0] + calls, others[1] + errors)


def said(items: Sequence[Item], step: int, prints: Fingerprints | None = None) -> list[Said]:
    """What the assistant said since the boundary, and before it as far back as the run goes: for agents
    without tools every result is a user message, and would be a boundary."""
    return _said(_Reader().read(items), step, prints or Fingerprints())


def _said(story: _Story, step: int, prints: Fingerprints) -> list[Said]:
    last = len(story.turns) - 1
    first = max(0, min(story.start, len(story.turns) - (step - 1)), len(story.turns) - _MAX_SAID)
    found = []
    for i, turn in enumerate(story.turns[first:], first):
        spoken = _joined(turn.said, prints)
        if spoken is None or not turn.answered:
            continue
        heard = None if turn.calls else _joined(turn.replies, prints)
        before = story.turns[i - 1].results.values() if i and not turn.calls else ()
        acted = any(prints.result(item).status != "error" for item in before)
        found.append(_replied(_text_said(spoken, step - (last - i), acted), heard))
    return found


def _text_said(spoken: TextPrint, step: int, acted: bool) -> Said:
    return Said(spoken.digest, spoken.near, b"", step, spoken.bag, spoken.code, acted, spoken.courtesy)


def _replied(text: Said, heard: TextPrint | None) -> Said:
    if heard is None:
        return text
    courtesy = text.courtesy and heard.courtesy
    return replace(text, reply=heard.digest, courtesy=courtesy, told=heard.facts)


def _joined(items: Sequence[Item], prints: Fingerprints) -> TextPrint | None:
    if len(items) == 1:
        return prints.text(items[0])
    return prints.said("\n".join(t.text for item in items for t in item.texts))


def _task(boundary: Sequence[Item]) -> bytes:
    """Digest of the user's words at the boundary; empty without any."""
    spoken = [item for item in boundary if item.role is Role.USER and not item.aside]
    if not spoken:
        return b""
    h = blake2b(digest_size=8)
    for item in spoken:
        for text in item.texts:
            h.update(text.text.encode("utf-8", "replace"))
        for media in item.media:
            h.update(media.digest.encode("utf-8", "replace"))
    return h.digest()


# --- what the user ordered

MAX_REPEATS = 50
_NUMBERS = {
    "twice": 2, "zwei": 2, "deux": 2, "dos": 2, "three": 3, "thrice": 3, "drei": 3, "trois": 3, "tres": 3,
    "four": 4, "vier": 4, "quatre": 4, "cuatro": 4, "five": 5, "fünf": 5, "cinq": 5, "cinco": 5, "several": 5,
    "six": 6, "sechs": 6, "seis": 6, "seven": 7, "sieben": 7, "sept": 7, "siete": 7, "eight": 8, "acht": 8,
    "huit": 8, "ocho": 8, "nine": 9, "neun": 9, "neuf": 9, "nueve": 9, "ten": 10, "zehn": 10, "dix": 10,
    "diez": 10, "dozen": 12, "fifteen": 15, "twenty": 20, "zwanzig": 20, "vingt": 20, "veinte": 20,
    "fifty": 50, "hundred": 100,
}  # fmt: skip
_ORDER = re.compile(
    r"""(?mx)(?:^|[.!?:;,]\s+|\b(?:please|to|and|then|you|us|bitte)\s+)
    (?:re-?run|run|repeat|execute|perform|do|try|retry|call|test|measure|check|time|roll|flip|throw|toss|spin|draw
    |blink|press|click|ping|poll|sample|benchmark|ask|play|take|make|start|launch|use|führe|starte|wiederhole
    |teste|mache|würfle|lancez?|répétez?|ejecuta|repite|bitte)\b
    (?:[^.?!\n]|[.?!](?=\S)){0,80}?\b(?:(?P<n>[0-9]{1,4}|[a-zü]{3,8}?)
    (?:[- ](?:more|consecutive|separate|independent|full))?[- ]?
    (?:times|runs|repetitions|iterations|rounds|trials|repeats|rolls|throws|flips|mal|fois|veces)\b
    (?![ ]out\b)
    |(?P<word>twice|thrice)\b)"""
)
"""An order, as opposed to a report ("it prints everything twice")."""
_ORDER_WORDS = (
    "times", "runs", "repetitions", "iterations", "rounds", "trials", "repeats", "rolls", "throws", "flips",
    "mal", "fois", "veces", "twice", "thrice",
)  # fmt: skip
"""One of them is in every order; looking for them costs a tenth of looking for orders."""
_ORDER_CHARS = 2000
"""Of the beginning and the end of what the user said."""


def _repeats(boundary: Sequence[Item]) -> int:
    """How many times the user wants something done, as "run it ten times" says."""
    ordered = 0
    for item in boundary:
        for text in item.texts:
            said = text.text
            if len(said) > 2 * _ORDER_CHARS:
                said = said[:_ORDER_CHARS] + "\n" + said[-_ORDER_CHARS:]
            said = said.lower()
            if not any(word in said for word in _ORDER_WORDS):
                continue
            for found in _ORDER.finditer(said):
                word = found["n"] or found["word"]
                ordered = max(ordered, int(word) if word.isdecimal() else _NUMBERS.get(word, 0))
    return min(ordered, MAX_REPEATS)


# --- joining with what was recorded


def merged(
    recorded: Trace,
    items: Sequence[Item],
    step: int,
    text_bytes: int = 0,
    prints: Fingerprints | None = None,
) -> Trace:
    """The trace at a step, out of its request and what was recorded at earlier steps of the run.

    The request's own history counts where it shows at least as much as the record, or another
    conversation than the recorded one. Else the record is kept and what is new is added: the results of the
    last answer. What was recorded at `step` or later is left out, so that a step that is tried again does
    not count twice.
    """
    prints = prints or Fingerprints()
    sizes = (*(s for s in recorded.sizes if s[0] < step), (step, text_bytes))[-_MAX_SIZES:]
    story = _continued(recorded, items, step, prints)
    if story is not None:
        return _appended(recorded, story, recorded.task, items, step, sizes, prints)
    story = _Reader().read(items[_first_needed(items) :])
    task = _task(story.boundary)
    memory = _Memory()
    own, own_counts = _read_turns(story, step, memory, prints)
    if not _tells_all(own, task, recorded, story, step):
        return _appended(recorded, story, task or recorded.task, items, step, sizes, prints)
    tail = [f for f in own if f.step >= step]
    counts = _counts(recorded, story, tail, step) if recorded.counts else own_counts
    spoken = _spoken(recorded, story, items, step, prints, whole=True)
    repeats = _repeats(story.boundary) if story.boundary else recorded.repeats
    return Trace(step, task, tuple(own[-MAX_FACTS:]), spoken, sizes, counts, memory.seen, repeats=repeats)


def _appended(
    recorded: Trace,
    story: _Story,
    task: bytes,
    items: Sequence[Item],
    step: int,
    sizes: tuple[tuple[int, int], ...],
    prints: Fingerprints,
) -> Trace:
    """The record of earlier steps with what is new in this request."""
    earlier = recorded.facts
    if recorded.step >= step:
        earlier = tuple(f for f in earlier if f.step < step)
    memory = _Memory(recorded.seen, earlier)
    tail = _tail(story, recorded, step, memory, prints)
    return Trace(
        step,
        task,
        (*earlier, *tail)[-MAX_FACTS:],
        _spoken(recorded, story, items, step, prints, whole=False),
        sizes,
        _counts(recorded, story, tail, step),
        memory.seen,
        recorded.asked,
        _repeats(story.boundary) if story.boundary else recorded.repeats,
    )


def _continued(recorded: Trace, items: Sequence[Item], step: int, prints: Fingerprints) -> _Story | None:
    """The last two turns of a conversation that goes on where the record ends; None when it does not.

    Most requests do, and need not be read from the beginning.
    """
    before = [f.call for f in recorded.facts if f.step == step - 1]
    if recorded.step != step - 1 or not before:
        return None
    begin, end = _boundary(items)
    if not recorded.task or _task(items[begin:end]) != recorded.task:
        return None
    story = _Reader().read(items[max(end, _last_turns(items)) :])
    if len(story.turns) != 2 or story.boundary:
        return None
    previous = story.turns[0]
    if len(previous.results) != len(before):
        return None
    calls = [prints.call(previous.calls[at]).call for at in sorted(previous.results)]
    if calls != before or _continues(story.turns[1], recorded) is False:
        return None
    return story


def _first_needed(items: Sequence[Item]) -> int:
    """Index from which a conversation has to be read. Where nobody has called a tool lately it is not the
    beginning: there each answer ends a task, and of earlier ones only the last texts are looked at."""
    turns = 0
    within = False
    for i in range(len(items) - 1, -1, -1):
        item = items[i]
        if item.aside or item.role is Role.SYSTEM:
            continue
        if item.calls or item.role is Role.TOOL:
            return 0
        if item.role is Role.USER:
            within = False
        elif not within:
            within = True
            turns += 1
            # One more than is kept, because the last one may be the beginning of an answer.
            if turns > _MAX_SAID + 1:
                return 0 if _has_calls(items, i) else i + 1
    return 0


def _boundary(items: Sequence[Item]) -> tuple[int, int]:
    """Where the user's message at the boundary begins and ends; two zeros when it is not there."""
    # Long runs have one user item far back, so all that is done for another is to look at its role.
    user, assistant, system = Role.USER, Role.ASSISTANT, Role.SYSTEM
    begin = end = 0
    i = len(items)
    for item in reversed(items):
        i -= 1
        role = item.role
        if role is user:
            if not item.aside:
                begin = i
                end = end or i + 1
        elif end and role is not system and not item.aside:
            if role is assistant and not _has_calls(items, i):
                return begin, end
            end = 0
    return (begin, end) if end else (0, 0)


def _has_calls(items: Sequence[Item], i: int) -> bool:
    """Whether the answer that ends with item i asks for tools."""
    while i >= 0 and (items[i].aside or items[i].role in (Role.ASSISTANT, Role.SYSTEM)):
        if items[i].calls:
            return True
        i -= 1
    return False


def _last_turns(items: Sequence[Item]) -> int:
    """Index at which the last two answers of the model begin."""
    turns = 0
    begin = len(items)
    within = False
    for i in range(len(items) - 1, -1, -1):
        item = items[i]
        if item.aside or item.role is Role.SYSTEM:
            continue
        if item.role is Role.ASSISTANT:
            if not within:
                turns += 1
            within = True
            if turns > 2:
                break
            begin = i
        else:
            within = False
    return begin


def _tells_all(
    own: Sequence[Fact],
    task: bytes,
    recorded: Trace,
    story: _Story,
    step: int,
) -> bool:
    """Whether the request's own history is to be taken rather than the record's."""
    earlier = [f for f in recorded.facts if f.step < step]
    if not story.turns:
        return not (earlier or recorded.asked or recorded.said) or (bool(task) and not story.loose)
    if not earlier or (task and recorded.task and task != recorded.task):
        return True
    before = [f for f in own if f.step < step]
    if len(before) >= len(earlier):
        return True
    continues = _continues(story.turns[-1], recorded)
    if continues is not None:
        return not continues
    shown, known = [f.coarse for f in before], [f.coarse for f in earlier]
    if not shown:
        # Either the first step of another agent with the same task, or all that is left of a long history.
        return bool(task) and bool(own) and own[0].coarse == known[0]
    # A history that was cut shows the end of what is recorded, another agent with this task its beginning.
    return known[-len(shown) :] != shown and (known[: len(shown)] == shown or shown[0] not in known)


def _continues(turn: _Turn, recorded: Trace) -> bool | None:
    """Whether the calls of a turn are those of the last recorded answer, by their ids; None when these do not
    tell, being absent or short ones that servers use again."""
    ids = [call.id for call in turn.calls if len(call.id) >= MIN_ID_CHARS]
    if not ids or not recorded.asked:
        return None
    asked = {a.id for a in recorded.asked}
    return any(_id_digest(call_id) in asked for call_id in ids)


def _tail(story: _Story, recorded: Trace, step: int, memory: _Memory, prints: Fingerprints) -> list[Fact]:
    """Facts that this request shows first: those of its last turn, or of the calls that were recorded."""
    if story.turns:
        facts = list(_read_turn(story.turns[-1], step, memory, prints, recorded.asked))
    else:
        facts = list(_read_loose(story.loose, recorded.asked, step, memory, prints))
    # At a second try the record already knows the results, which does not make them old.
    known = {(f.call, f.result): f.novelty for f in recorded.facts if f.step == step}
    return [replace(f, novelty=known.get((f.call, f.result), f.novelty)) for f in facts] if known else facts


def _read_loose(
    results: Sequence[Item], asked: Sequence[Asked], step: int, memory: _Memory, prints: Fingerprints
) -> Iterator[Fact]:
    waiting = list(asked)
    for item in results:
        if not waiting:
            return
        call_id = _id_digest(item.call_id)
        call = next((a for a in waiting if a.id == call_id), waiting[0])
        waiting.remove(call)
        result = prints.result(item)
        yield _fact(call, result, step, memory.learn(call, call.news, result), call.shape)


def _spoken(
    recorded: Trace, story: _Story, items: Sequence[Item], step: int, prints: Fingerprints, *, whole: bool
) -> tuple[Said, ...]:
    """What the assistant said: by the request's `whole` history, or by the record and what is new."""
    own = _said(story, step, prints) if story.turns else []
    if own and whole:
        return tuple(own)
    before, last = recorded.said, None
    if before and (before[-1].step >= step or before[-1].step > recorded.step):
        before, last = before[:-1], before[-1]
    if story.turns:
        return (*before, *(s for s in own if s.step == step))[-_MAX_SAID:]
    if last is None:
        return before
    replies = [item for item in items if item.role is Role.USER and not item.aside]
    heard = None if story.loose else _joined(replies, prints)
    return (*before, _replied(replace(last, step=step), heard))


def _counts(recorded: Trace, story: _Story, tail: Sequence[Fact], step: int) -> dict[str, tuple[int, int]]:
    """What was counted before this step, with the results of the last answer."""
    counts = dict(recorded.counts)
    if recorded.step >= step:
        for fact in recorded.facts:
            if fact.step >= step:
                _count(counts, fact.name, fact.status == "error", -1)
    for turn in story.turns[-1:]:
        _count_results(counts, turn, turn.positions()[0])
    for fact in tail:
        _count(counts, fact.name, fact.status == "error")
    return _bounded(counts, (*recorded.facts, *tail)[-MAX_FACTS:])


def answered(trace: Trace, answer: Answer, prints: Fingerprints | None = None) -> Trace:
    """The trace with what the model answered at its step, for the next request of an agent whose history
    the provider keeps: that one shows results without calls."""
    prints = prints or Fingerprints()
    memory = _Memory(trace.seen, trace.facts)
    asked = []
    for call in answer.calls[:_MAX_PENDING]:
        printed = prints.call(call)
        news, shape = memory.news(printed)
        memory.heard(printed, shape)
        asked.append(
            Asked(
                _id_digest(call.id),
                printed.name,
                printed.call,
                printed.coarse,
                printed.near,
                news,
                shape,
                printed.pauses,
            )
        )
    spoken = trace.said
    if answer.texts and (text := prints.said(answer.texts[0])) is not None:
        now = [fact for fact in trace.facts[-_MAX_PENDING:] if fact.step == trace.step]
        acted = not answer.calls and any(fact.status != "error" for fact in now)
        spoken = (*spoken, _text_said(text, trace.step + 1, acted))[-_MAX_SAID:]
    return replace(trace, asked=tuple(asked), said=spoken, seen=memory.seen)


def _id_digest(call_id: str | None) -> bytes:
    return digest((call_id or "").encode("utf-8", "replace"))


# --- as bytes, for the store

_VERSION = 2
_COUNT = struct.Struct("<HII")
_FACT = struct.Struct(f"<H8s8s{NEAR_BYTES}s8sBiBIH")
_SAID = struct.Struct("<8s8s8sBiQI")
_SIZE = struct.Struct("<iI")
_ASKED = struct.Struct(f"<8sH8s8s{NEAR_BYTES}sBH")
_LENGTHS = struct.Struct("<HHBBBBHB")
_MAX_U32 = 0xFFFF_FFFF
_MAX_I32 = 0x7FFF_FFFF
_SKETCH = SKETCH_BITS // 8
_MAX_NAME_BYTES = 255
_SPARSE = 1500
"""Bits up to which compressing a sketch is worth its time."""


def dump(trace: Trace) -> bytes:
    """At most `MAX_BYTES`, with a version and a checksum. What does not fit is left out, oldest first."""
    facts, said_, asked = trace.facts[-MAX_FACTS:], trace.said[-_MAX_SAID:], trace.asked[:_MAX_PENDING]
    counts = dict(trace.counts)
    while True:
        packed = _pack(replace(trace, facts=facts, said=said_, asked=asked, counts=counts))
        if len(packed) <= MAX_BYTES:
            return packed
        # Only names can make it this large: real agents have a few tools with short names.
        used = {f.name for f in facts} | {a.name for a in asked}
        spare = [name for name in counts if name and name not in used]
        _fold(counts, spare)
        if not spare:
            facts, said_, asked = facts[len(facts) // 2 + 1 :], said_[len(said_) // 2 + 1 :], asked[:4]
            counts = {name: counts[name] for name in {f.name for f in facts} if name in counts}
            if not facts:
                return _pack(replace(trace, facts=(), said=(), asked=(), counts={}))


def _pack(trace: Trace) -> bytes:
    names: dict[str, int] = {}

    def index(name: str) -> int:
        return names.setdefault(name, len(names))

    counted = b"".join([_COUNT.pack(index(n), _u32(c), _u32(e)) for n, (c, e) in trace.counts.items()])
    rows = b"".join(
        [
            _FACT.pack(
                index(f.name),
                f.call,
                f.coarse,
                f.near,
                f.result,
                _CODES[f.status] | bool(f.result) << 4 | f.failing << 5 | f.pauses << 6,
                f.step,
                f.novelty,
                f.size,
                f.shape,
            )
            for f in trace.facts
        ]
    )
    asked = b"".join(
        _ASKED.pack(a.id, index(a.name), a.call, a.coarse, a.near, a.news | a.pauses << 7, a.shape)
        for a in trace.asked
    )
    texts = b"".join(
        _SAID.pack(s.text, s.near, s.reply, _flags(s), s.step, s.bag, s.told) for s in trace.said
    )
    sizes = b"".join(_SIZE.pack(_i32(step), _u32(size)) for step, size in trace.sizes[-_MAX_SIZES:])
    encoded = [name.encode("utf-8", "replace")[:_MAX_NAME_BYTES] for name in names]
    table = b"".join([bytes((len(name),)) + name for name in encoded])
    sketch = trace.seen.new.to_bytes(_SKETCH, "little") + trace.seen.old.to_bytes(_SKETCH, "little")
    if trace.seen.new.bit_count() + trace.seen.old.bit_count() < _SPARSE:
        sketch = compress(sketch, 1)
    lengths = _LENGTHS.pack(
        len(names), len(trace.counts), len(trace.facts), len(trace.asked), len(trace.said),
        len(trace.sizes[-_MAX_SIZES:]), len(sketch), trace.repeats,
    )  # fmt: skip
    body = b"".join((trace.task.ljust(8, b"\0"), lengths, table, counted, rows, asked, texts, sizes, sketch))
    return struct.pack("<BIi", _VERSION, crc32(body), _i32(trace.step)) + body


def _flags(s: Said) -> int:
    flags = (s.near, s.reply, s.code, s.acted, s.courtesy)
    return sum(bool(flag) << bit for bit, flag in enumerate(flags))


def _i32(value: int) -> int:
    return max(-_MAX_I32, min(value, _MAX_I32))


def _u32(value: int) -> int:
    return max(0, min(value, _MAX_U32))


def load(dumped: bytes) -> Trace:
    """The trace that was dumped; an empty one for anything else, such as another version's."""
    try:
        version, checksum, step = struct.unpack_from("<BIi", dumped)
        if version != _VERSION or crc32(dumped[9:]) != checksum:
            return EMPTY
        return _unpack(dumped, step)
    except (struct.error, IndexError, ValueError, ZlibError):
        return EMPTY


def _unpack(dumped: bytes, step: int) -> Trace:
    task = dumped[9:17]
    n_names, n_counts, n_facts, n_asked, n_said, n_sizes, n_sketch, repeats = _LENGTHS.unpack_from(dumped, 17)
    at = 17 + _LENGTHS.size
    names = []
    for _ in range(n_names):
        length = dumped[at]
        names.append(intern(dumped[at + 1 : at + 1 + length].decode("utf-8", "replace")))
        at += 1 + length
    counts = {}
    for _ in range(n_counts):
        i, calls, errors = _COUNT.unpack_from(dumped, at)
        counts[names[i]] = (calls, errors)
        at += _COUNT.size
    end = at + n_facts * _FACT.size
    facts = tuple(
        [
            Fact(
                names[i],
                call,
                coarse,
                near,
                result if code & 16 else b"",
                _STATUS[code & 15],
                n,
                novelty,
                size,
                shape,
                bool(code & 32),
                bool(code & 64),
            )
            for i, call, coarse, near, result, code, n, novelty, size, shape in _FACT.iter_unpack(
                dumped[at:end]
            )
        ]
    )
    at = end
    asked = []
    for _ in range(n_asked):
        call_id, i, call, coarse, near, news, shape = _ASKED.unpack_from(dumped, at)
        asked.append(Asked(call_id, names[i], call, coarse, near, news & 127, shape, news > 127))
        at += _ASKED.size
    end = at + n_said * _SAID.size
    texts = tuple(
        [
            Said(
                text,
                near if flags & 1 else b"",
                reply if flags & 2 else b"",
                at_step,
                bag,
                bool(flags & 4),
                bool(flags & 8),
                bool(flags & 16),
                told,
            )
            for text, near, reply, flags, at_step, bag, told in _SAID.iter_unpack(dumped[at:end])
        ]
    )
    at = end + n_sizes * _SIZE.size
    sizes = tuple(_SIZE.iter_unpack(dumped[end:at]))
    bits = dumped[at : at + n_sketch]
    if n_sketch != 2 * _SKETCH:
        bits = decompressobj().decompress(bits, 2 * _SKETCH)
    seen = Seen(int.from_bytes(bits[:_SKETCH], "little"), int.from_bytes(bits[_SKETCH:], "little"))
    return Trace(
        step,
        task if task.strip(b"\0") else b"",
        facts,
        texts,
        sizes,
        counts,
        seen,
        tuple(asked),
        repeats,
    )
