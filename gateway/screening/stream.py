"""Answers on their way to the client: whole replies and event streams, read, and changed where they must be.

What is looked for, and what becomes of it, are the `Rules`. Here is what is needed that nothing leaves too
early and every copy of a text says the same:

    event ──spots──► pieces ──a `Window` for each text──► findings ──rules──► edits
    event ──waits until its texts are released──► as it came, or with its part of the edits

Events leave in order. One that no edit touches leaves byte for byte as it came. Arguments of a call leave
when the call is complete, so that nobody acts on half of one and edits can be fitted into the JSON.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from gateway.domain import Json, Surface
from gateway.screening.actions import covered
from gateway.screening.base import Finding
from gateway.screening.spots import Key, Kind, Path, Spot, event_spots, replaced, reply_spots
from gateway.screening.window import Window
from gateway.shaping.base import MAX_HELD_BYTES, whole_events
from gateway.surfaces.sse import EventTooLargeError, data_of
from gateway.values import frozen

VAULT = "vault"
"""The detector of stand-ins to be restored. What is redacted is not restored."""


class Rules(Protocol):
    """What is looked for in an answer and what becomes of it."""

    whole: bool
    """Nothing may leave before the text it belongs to is complete."""
    longest: int
    """See `Window`."""

    def scan(self, text: str, kind: Kind, tool: str) -> Sequence[Finding]:
        """Findings with offsets into `text`, stand-ins to be restored among them. Arguments in JSON are
        scanned as they read, their escapes resolved."""

    def found(self, findings: Sequence[Finding], kind: Kind, tool: str) -> None:
        """Told of each finding once, before anything of it or after it leaves; raises to block the answer."""

    def replacement(self, finding: Finding, value: str, kind: Kind, tool: str, *, json: bool) -> str | None:
        """What stands instead of `value`; None leaves it. With `json`, as JSON strings have it inside."""

    def hold(self, text: str) -> int:
        """See `window.Hold`."""


def screened(surface: Surface, reply: Json, rules: Rules) -> Json | None:
    """A plain reply after the rules, or None where nothing changes. Raises what `Rules.found` raises."""
    texts: dict[Key, list[Spot]] = {}
    for spot in reply_spots(surface, reply):
        texts.setdefault(spot.key, []).append(spot)
    changes: dict[Path, Any] = {}
    for spots in texts.values():
        edits = _Alone(spots, rules).edits
        at = 0
        for spot in spots if edits else ():
            _change(reply, spot, _edited(spot.text, at, edits), changes)
            at += len(spot.text)
    return replaced(reply, changes) if changes else None


def edited_text(text: str, kind: Kind, tool: str, rules: Rules, *, json: bool) -> str:
    """A text of an answer as the client gets it, for whoever has it from elsewhere: `Rules.found` is not
    told again. `json` is for arguments that are JSON text."""
    spot = Spot((), (), text, kind, tool, form="json" if json else "text")
    edited = _edited(text, 0, _Alone([spot], rules, tell=False).edits)
    return text if edited is None else edited


class StreamScreen:
    """One answer's event stream."""

    def __init__(self, surface: Surface, rules: Rules) -> None:
        self.edited = False
        """Anything was changed so far."""
        self._rules = rules
        self._spots = event_spots(surface)
        self._texts: dict[Key, _Text] = {}
        self._alone: dict[Key, _Alone] = {}
        """Copies that are not what came in pieces, the last of each text."""
        self._held: deque[_Event] = deque()
        self._size = 0
        self._dropped = False

    def feed(self, events: bytes) -> bytes:
        """Whole events in, events out. Raises what `Rules.found` raises, and `EventTooLargeError` when too
        much would have to be held; nothing leaves after that."""
        if self._dropped:
            return b""
        try:
            return b"".join([self._event(event) for event in whole_events(events)])
        except BaseException:
            self.drop()
            raise

    def end(self) -> bytes:
        """Everything that is left; the stream is over. Raises as `feed` does."""
        if self._dropped:
            return b""
        try:
            self._finish(self._texts)
            return self._released(everything=True)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Forget what is held. Nothing leaves any more."""
        self._dropped = True
        self._held.clear()
        self._texts.clear()
        self._alone.clear()

    def _event(self, raw: bytes) -> bytes:
        data = _data_of(raw)
        message: Json | None = None
        views: list[_View] = []
        over = False
        if data is not None:
            value = _parsed(data)
            if type(value) is dict:
                message = value
                told = _named(value, raw)
                if spots := self._spots.read(told):
                    views = [self._view(spot) for spot in spots]
                if ended := self._spots.ended(told):
                    self._finish(ended)
                over = self._spots.over
            elif data.startswith(b"[DONE]"):
                over = True
            elif text := data.decode("utf-8", "replace"):
                # No client can make anything of it, but all would receive it.
                views = [self._view(Spot(("data", ""), (), text, copy=True, sealed=True))]
        if over:
            self._finish(self._texts)
        if not self._held:
            if not views:
                return raw
            if not self._rules.whole and all([view.text.settled >= view.end for view in views]):
                return self._leaving(_Event(raw, message, views))
        self._keep(_Event(raw, message, views))
        return self._released(everything=over)

    def _keep(self, event: _Event) -> None:
        self._size += len(event.raw)
        if self._size > MAX_HELD_BYTES:
            raise EventTooLargeError
        self._held.append(event)

    def _released(self, *, everything: bool) -> bytes:
        """The held events whose texts are released."""
        if self._rules.whole and not everything:
            return b""
        out: list[bytes] = []
        held = self._held
        while held and (everything or all([view.text.settled >= view.end for view in held[0].views])):
            event = held.popleft()
            self._size -= len(event.raw)
            out.append(self._leaving(event))
        return b"".join(out)

    def _leaving(self, event: _Event) -> bytes:
        changes: dict[Path, Any] = {}
        for view in event.views:
            text = view.text
            if view.end > text.left:
                text.left = view.end
            if text.edits and event.message is not None:
                new = _edited(view.spot.text, view.start, text.edits)
                _change(event.message, view.spot, new, changes)
        if not changes or event.message is None:
            return event.raw
        self.edited = True
        return _rewritten(event.raw, replaced(event.message, changes))

    def _view(self, spot: Spot) -> _View:
        known = self._texts.get(spot.key)
        if not spot.copy:
            if known is None:
                known = self._texts[spot.key] = _Text(spot, self._rules)
            start = known.size
            known.feed(spot)
            return _View(spot, known, start, known.size)
        if known is not None and known.same(spot.text):
            return _View(spot, known, 0, known.size)
        alone = self._alone.get(spot.key)
        if alone is None or alone.told != spot.text:
            alone = self._alone[spot.key] = _Alone([spot], self._rules)
        return _View(spot, alone, 0, len(spot.text))

    def _finish(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if (text := self._texts.get(key)) is not None:
                text.end()


# -- texts --------------------------------------------------------------------------------------------


@frozen
class Edit:
    """What stands from `start` to `end` becomes `text`."""

    start: int
    end: int
    text: str


class _Reading:
    """The rules as they are for one text."""

    __slots__ = ("_rules", "_sealed", "json", "kind", "tool")

    def __init__(self, spot: Spot, rules: Rules) -> None:
        self._rules = rules
        self._sealed = spot.sealed
        self.kind = spot.kind
        self.tool = spot.tool
        self.json = spot.form in ("json", "object")

    def scan(self, text: str) -> Sequence[Finding]:
        return self._rules.scan(text, self.kind, self.tool)

    def tell(self, findings: Sequence[Finding]) -> None:
        self._rules.found(findings, self.kind, self.tool)

    def edits(self, findings: Sequence[Finding], text: Callable[[int, int], str]) -> list[Edit]:
        """What becomes of findings, in order; `text` gives what stands between two offsets."""
        if self._sealed:
            return []
        answers: dict[Finding, str | None] = {}

        def answer(found: Finding) -> str | None:
            if found not in answers:
                value = text(found.start, found.end)
                answers[found] = self._rules.replacement(found, value, self.kind, self.tool, json=self.json)
            return answers[found]

        changed = [found for found in findings if found.start < found.end and answer(found) is not None]
        removed = _merged([found for found in changed if found.detector != VAULT], text)
        starts = [found.start for found in removed]
        edits: list[Edit] = []
        for found in removed:
            told = answer(found)
            edits.append(Edit(found.start, found.end, f"[{found.type}]" if told is None else told))
        for found in changed:
            at = bisect_left(starts, found.end) - 1
            if found.detector == VAULT and (at < 0 or removed[at].end <= found.start):
                edits.append(Edit(found.start, found.end, answers[found] or ""))
        return sorted(edits, key=lambda edit: edit.start)


def _merged(findings: list[Finding], text: Callable[[int, int], str]) -> list[Finding]:
    """Those that overlap as one."""
    if len(findings) < 2:
        return findings
    base = min(found.start for found in findings)
    part = text(base, max(found.end for found in findings))
    return [_moved(found, base) for found in covered(part, [_moved(found, -base) for found in findings])]


def _moved(found: Finding, by: int) -> Finding:
    return replace(found, start=found.start + by, end=found.end + by)


class _Screened:
    """A text and what becomes of it. Offsets are those of the text as it came."""

    __slots__ = ("edits", "left", "settled")

    def __init__(self) -> None:
        self.edits: list[Edit] = []
        """In order; they never overlap."""
        self.settled = 0
        """How much of it may leave: up to there, all edits are known."""
        self.left = 0
        """How much of it has left."""

    def _add(self, edits: Iterable[Edit], known: list[Edit]) -> None:
        """What has left cannot be changed; the replacement then stands where the rest begins."""
        for edit in edits:
            start = max(edit.start, self.left, known[-1].end if known else 0)
            if start < edit.end:
                known.append(Edit(start, edit.end, edit.text))


class _Alone(_Screened):
    """A text, or adjacent texts, that came at once."""

    __slots__ = ("told",)

    def __init__(self, spots: Sequence[Spot], rules: Rules, *, tell: bool = True) -> None:
        super().__init__()
        self.told = spots[0].text if len(spots) == 1 else "".join([spot.text for spot in spots])
        self.settled = len(self.told)
        reading = _Reading(spots[0], rules)
        escapes = Escapes() if reading.json else None
        plain = _readable(self.told) if escapes is None else escapes.feed(self.told) + escapes.end()
        findings = reading.scan(plain)
        if not findings:
            return
        if tell:
            reading.tell(findings)
        edits = reading.edits(findings, lambda start, end: plain[start:end])
        if escapes is None:
            self._add(edits, self.edits)
        else:
            places: list[Edit] = []
            self._add(escapes.placed(edits), places)
            self.edits = fitted(self.told, places)


class _Text(_Screened):
    """A text that comes in pieces."""

    __slots__ = (
        "_escapes",
        "_length",
        "_places",
        "_plain",
        "_raw",
        "_reading",
        "_starts",
        "_window",
        "size",
    )

    def __init__(self, spot: Spot, rules: Rules) -> None:
        super().__init__()
        self.size = 0
        self._raw: list[str] = []
        self._plain: list[str] = []
        """As it is scanned."""
        self._starts: list[int] = []
        """Where the pieces of that begin."""
        self._length = 0
        self._escapes = Escapes() if spot.form == "json" else None
        self._places: list[Edit] = []
        """Edits before they are fitted into the JSON."""
        self._reading = _Reading(spot, rules)
        self._window = Window(self._reading.scan, rules.longest, hold=rules.hold)

    def feed(self, spot: Spot) -> None:
        text = spot.text
        if spot.tool:
            self._reading.tool = spot.tool
        self.size += len(text)
        self._raw.append(text)
        self._scan(_readable(text) if self._escapes is None else self._escapes.feed(text))
        if self._reading.kind != "arguments":
            self.settled = self.size - self._window.held

    def _scan(self, text: str) -> None:
        if text:
            self._plain.append(text)
            self._starts.append(self._length)
            self._length += len(text)
            if findings := self._window.feed(text).findings:
                self._heed(findings)

    def _heed(self, findings: Sequence[Finding]) -> None:
        self._reading.tell(findings)
        edits = self._reading.edits(findings, self._between)
        if self._escapes is None:
            self._add(edits, self.edits)
        else:
            self._add(self._escapes.placed(edits), self._places)

    def _between(self, start: int, end: int) -> str:
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_left(self._starts, end)
        base = self._starts[first]
        return "".join(self._plain[first:last])[start - base : end - base]

    def end(self) -> None:
        """It does not go on. If it does all the same, what was there is context for the rest."""
        if self.settled == self.size:
            return
        if self._escapes is not None:
            self._scan(self._escapes.end())
        if self._window.held and (findings := self._window.flush().findings):
            self._heed(findings)
        if self._places:
            self.edits = fitted(self._told(), self._places)
        self.settled = self.size

    def same(self, text: str) -> bool:
        """Whether that is what the pieces came to."""
        return len(text) == self.size and text == self._told()

    def _told(self) -> str:
        if len(self._raw) > 1:
            self._raw = ["".join(self._raw)]
        return self._raw[0] if self._raw else ""


@frozen
class _View:
    """A part of a text that stands in an event."""

    spot: Spot
    text: _Screened
    start: int
    end: int


@frozen
class _Event:
    raw: bytes
    message: Json | None
    views: list[_View]


def _edited(text: str, at: int, edits: Sequence[Edit]) -> str | None:
    """The part of a text that begins at `at`, edited; None where no edit touches it. A replacement stands
    where its edit begins."""
    end = at + len(text)
    first = bisect_right(edits, at, key=lambda edit: edit.end)
    if first == len(edits) or edits[first].start >= end:
        return None
    parts: list[str] = []
    done = at
    for i in range(first, len(edits)):
        edit = edits[i]
        if edit.start >= end:
            break
        if edit.start >= at:
            parts += (text[done - at : edit.start - at], edit.text)
        done = min(edit.end, end)
    parts.append(text[done - at :])
    return "".join(parts)


def _change(message: Json, spot: Spot, new: str | None, changes: dict[Path, Any]) -> None:
    """Notes what becomes of the place of a spot whose text is now another."""
    if new is None or new == spot.text:
        return
    if spot.form == "tokens":
        _drop(message, spot.path, changes)
    else:
        changes[spot.path] = orjson.loads(new) if spot.form == "object" else new
    if spot.logprobs is not None:
        _drop(message, spot.logprobs, changes)


def _drop(message: Json, path: Path, changes: dict[Path, Any]) -> None:
    here: Any = message
    for step in path:
        here = here[step]
    changes[path] = [] if type(here) is list else None


# -- JSON in texts ------------------------------------------------------------------------------------

_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}"
    r"(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?\Z))?"
    r"|\\u[0-9a-fA-F]{4}|\\[^u]|(?P<begun>\\(?:u[0-9a-fA-F]{0,3})?\Z)",
    re.DOTALL,
)
_MEANT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNKNOWN = "\ufffd"


class Escapes:
    """JSON text in pieces as it reads: escapes resolved, quotes and brackets where they stand."""

    __slots__ = ("_came", "_meant", "_pending", "_read", "_told")

    def __init__(self) -> None:
        self._pending = ""
        """The beginning of an escape."""
        self._meant: list[int] = [0]
        """Where each escape ends in the text as it reads, and"""
        self._came: list[int] = [0]
        """as it came."""
        self._read = self._told = 0
        """How long both are."""

    def feed(self, piece: str) -> str:
        """What can be read now: all but the beginning of an escape."""
        if not self._pending and "\\" not in piece:
            self._read += len(piece)
            self._told += len(piece)
            return _readable(piece)
        return self._resolve(self._pending + piece, final=False)

    def end(self) -> str:
        """The rest, of a text that ends in an escape."""
        return self._resolve(self._pending, final=True)

    def _resolve(self, text: str, *, final: bool) -> str:
        parts: list[str] = []
        done = 0
        self._pending = ""
        for match in _ESCAPE.finditer(text):
            if match.lastgroup is not None and not final:
                self._pending = text[match.start() :]
                text = text[: match.start()]
                break
            if match.lastgroup == "begun":
                break
            meant = _resolved(match.group())
            parts += (text[done : match.start()], meant)
            self._read += match.start() - done + len(meant)
            self._told += match.end() - done
            self._meant.append(self._read)
            self._came.append(self._told)
            done = match.end()
        rest = text[done:]
        self._read += len(rest)
        self._told += len(rest)
        return _readable("".join((*parts, rest)))

    def placed(self, edits: Iterable[Edit]) -> list[Edit]:
        """Edits of the text as it reads as those of the text as it came."""
        return [Edit(self._place(e.start), self._place(e.end), _inside(e.text)) for e in edits]

    def _place(self, position: int) -> int:
        at = bisect_right(self._meant, position) - 1
        return self._came[at] + position - self._meant[at]


def _resolved(escape: str) -> str:
    if escape[1] != "u":
        return _MEANT.get(escape[1], escape[1])
    code = int(escape[2:6], 16)
    if len(escape) == 12:
        return chr(0x10000 + ((code & 0x3FF) << 10) + (int(escape[8:12], 16) & 0x3FF))
    return _UNKNOWN if 0xD800 <= code < 0xE000 else chr(code)


def _readable(text: str) -> str:
    """A text as detectors take it, just as long: halves of characters that came apart are unknown ones."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return _SURROGATE.sub(_UNKNOWN, text)
    return text


_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[^\s"\[\]{}:,]+', re.DOTALL)


def fitted(text: str, edits: Sequence[Edit]) -> list[Edit]:
    """Edits of JSON text that leave it JSON: inside of strings, of numbers and the like as a whole, never of
    what stands between. A number that would be none any more becomes a string."""
    out: list[Edit] = []
    placed: set[int] = set()
    first = 0
    for token in _TOKEN.finditer(text):
        start, end = token.span()
        while first < len(edits) and edits[first].end <= start:
            first += 1
        if first == len(edits):
            break
        quote = token.group(1)
        low, high = (start, end) if quote is None else (start + 1, end - len(quote))
        mine: list[Edit] = []
        for i in range(first, len(edits)):
            edit = edits[i]
            if edit.start >= end:
                break
            a, b = max(edit.start, low), min(edit.end, high)
            if a < b:
                mine.append(Edit(a, b, "" if i in placed else edit.text))
                placed.add(i)
        if mine and quote is None:
            new = _edited(token.group(), start, mine) or ""
            mine = [Edit(start, end, new if _is_scalar(new) else f'"{_inside(new)}"')]
        out += mine
    return out


def _is_scalar(text: str) -> bool:
    try:
        return not isinstance(orjson.loads(text), dict | list)
    except orjson.JSONDecodeError:
        return False


def _inside(text: str) -> str:
    """What can stand inside a JSON string: the text, escaped unless it is already."""
    try:
        orjson.loads(f'"{text}"'.encode("utf-8", "replace"))
    except orjson.JSONDecodeError:
        return json.dumps(text, ensure_ascii=False)[1:-1]
    return text


# -- events -------------------------------------------------------------------------------------------

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|\Z)")
_NAME = re.compile(rb"(?:\A|[\r\n])event:([^\r\n]*)")


def _data_of(event: bytes) -> bytes | None:
    start = event.find(b"\ndata: ")
    if start > 0 and event.startswith(b"event: ") and event.count(b"\n") == 3 and event.endswith(b"\n\n"):
        return event[start + 7 : -2] if b"\r" not in event else data_of(event)
    return data_of(event)


def _parsed(data: bytes) -> Any:
    """What the JSON says, that included which only some clients read; None for what is no JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _named(message: Json, event: bytes) -> Json:
    """The message with its event's name as its type, which some servers tell on one side alone."""
    if "type" in message or b"event:" not in event:
        return message
    name = _NAME.search(event)
    return message if name is None else {**message, "type": name.group(1).strip().decode("utf-8", "replace")}


def _rewritten(event: bytes, message: Json) -> bytes:
    """The event with another message: its other lines and its framing as they came."""
    try:
        data = orjson.dumps(message)
    except TypeError:
        # Deeper, or with halves of characters.
        try:
            data = json.dumps(message, separators=(",", ":")).encode()
        except RecursionError:
            raise EventTooLargeError from None
    out: list[bytes] = []
    told = False
    for line in _LINE.findall(event):
        if not line.startswith(b"data:"):
            out.append(line)
        elif not told:
            told = True
            start = b"data: " if line.startswith(b"data: ") else b"data:"
            out += (start, data, line[len(line.rstrip(b"\r\n")) :])
    return b"".join(out)
