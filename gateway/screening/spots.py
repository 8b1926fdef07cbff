"""Where the texts of an answer stand: in whole replies, and in the events of a stream.

Everything that a model or a tool of the provider's wrote counts: what is said, refused and thought, arguments
of calls, quotations, results of hosted tools, and whatever else is no label, id or encrypted content. A field
that nobody knows is a text. What a response repeats of its request (instructions, tools, metadata) is the
client's own and is none.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.domain import Json, Surface
from gateway.shaping.base import index_of, objects, text_at
from gateway.values import frozen

Kind = Literal["text", "reasoning", "arguments"]
Form = Literal["text", "json", "object", "tokens"]
"""What stands at a spot: a text as it reads; a text that is JSON; the JSON value itself, of which the spot's
text is the writing; or tokens, of which it is the joining, and which are dropped rather than edited."""
Path = tuple[str | int, ...]
Key = tuple[str | int, ...]


@frozen
class Spot:
    """One text, or one piece or copy of it, and where it stands."""

    key: Key
    """Which text of the answer it belongs to. Pieces of one key in their order are the text."""
    path: Path
    """Where it stands in the JSON."""
    text: str
    kind: Kind = "text"
    tool: str = ""
    """The name of the called tool, for arguments."""
    copy: bool = False
    """In an event: the whole of its text, not the next piece."""
    sealed: bool = False
    """A change would break it, as a signature over it does: to be read, never edited."""
    form: Form = "text"
    logprobs: Path | None = None
    """Where its tokens are told again."""


def reply_spots(surface: Surface, reply: Json) -> list[Spot]:
    """The texts of a plain reply. Adjacent ones with one key are one text for whoever reads the answer."""
    return _READERS[surface]().reply(reply)


def event_spots(surface: Surface) -> EventSpots:
    """The reader of one stream. Raises `KeyError` for surfaces that have no such streams."""
    return _READERS[surface]()


def replaced(value: Json, places: Mapping[Path, Any]) -> Json:
    """The value with others at some places; what was given stays as it is."""
    root = dict(value)
    fresh: dict[Path, Any] = {}
    for path, new in places.items():
        here: Any = root
        for depth, step in enumerate(path[:-1], 1):
            at = path[:depth]
            if at not in fresh:
                inner = here[step]
                here[step] = fresh[at] = dict(inner) if type(inner) is dict else list(inner)
            here = fresh[at]
        here[path[-1]] = new
    return root


class EventSpots(ABC):
    """One stream's events, in order: `read` each, then ask what it has `ended`.

    Tolerant of anything. The second entry of a key is its place: the choice, the block or the output item.
    """

    def __init__(self) -> None:
        self.over = False
        """The event asked for last is the answer's terminal event, or an error."""
        self._open: dict[str | int, dict[Key, None]] = {}
        """By place: the texts that may go on."""

    @abstractmethod
    def reply(self, reply: Json) -> list[Spot]:
        """The texts of a plain reply; of a reader that has read nothing else."""

    @abstractmethod
    def read(self, event: Json) -> list[Spot]:
        """The texts in an event. `type` is the event's name where the surface has events with names."""

    @abstractmethod
    def ended(self, event: Json) -> Collection[Key]:
        """The texts that do not go on after the event, which was read before."""

    def _opened(self, spots: Iterable[Spot]) -> None:
        for spot in spots:
            if not spot.copy:
                self._open.setdefault(spot.key[1], {})[spot.key] = None

    def _close(self, place: str | int) -> Collection[Key]:
        return self._open.pop(place, ())

    def _close_all(self) -> Collection[Key]:
        closed = [key for keys in self._open.values() for key in keys]
        self._open.clear()
        return closed


# -- any JSON -----------------------------------------------------------------------------------------

_LABELS = frozenset((
    "approval_request_id", "call_id", "caller_id", "channel", "container_id", "created_by", "event_id",
    "execution", "expires_at", "file_id", "finish_reason", "fingerprint", "format", "id", "item_id",
    "media_type", "mime_type", "model", "name", "namespace", "native_finish_reason", "object", "phase",
    "provider", "response_id", "role", "server_label", "server_name", "service_tier", "status",
    "stop_reason", "stop_sequence", "system_fingerprint", "tool_call_id", "tool_use_id", "type",
))  # fmt: skip
_OPAQUE = frozenset((
    "b64_json", "content_filter_results", "encrypted_content", "encrypted_index", "encrypted_stdout",
    "logprobs", "moderation", "obfuscation", "partial_image_b64", "prompt_filter_results",
    "prompt_token_ids", "signature", "thoughtSignature", "thought_signature", "token_ids", "usage",
))  # fmt: skip
"""Encrypted, or told by the provider about the answer; token by token what is read elsewhere."""
_FREE = frozenset(("arguments", "env", "input", "parameters"))
"""Below these no name says what a value is: a model or a developer made it up."""
_URLS = ("url", "image_url", "file_url", "file_data")
_PACKED = ("base64", "reasoning.encrypted", "redacted_thinking")
"""Types whose `data` is no text."""


def leaves(value: Any, at: Path = (), skip: Collection[str] = ()) -> Iterator[tuple[Path, str]]:
    """The texts below a value, in order, however deep; the fields `skip` of the value itself left out."""
    waiting = [(at, value, False)]
    while waiting:
        path, here, free = waiting.pop()
        if type(here) is str:
            if here:
                yield path, here
        elif type(here) is dict:
            waiting += [
                ((*path, name), inner, free or name in _FREE)
                for name, inner in reversed(here.items())
                if type(inner) in (str, dict, list)
                and (free or not _is_label(here, name, inner))
                and not (path == at and name in skip)
            ]
        elif type(here) is list:
            waiting += [((*path, i), here[i], free) for i in range(len(here) - 1, -1, -1)]


def _is_label(around: Json, name: str, value: Any) -> bool:
    if name in _OPAQUE:
        return True
    if type(value) is not str:
        return False
    if name in _LABELS:
        return True
    if name == "data":
        return around.get("type") in _PACKED
    if name == "result":
        return around.get("type") == "image_generation_call"
    return name in _URLS and value.startswith("data:") and ";base64," in value[:128]


def _others(
    value: Any, at: Path, key: Key, skip: Collection[str] = (), kind: Kind = "text"
) -> Iterator[Spot]:
    """Texts that come whole, each by itself."""
    for path, text in leaves(value, at, skip):
        yield Spot((*key, *path[len(at) :]), path, text, kind, copy=True)


def _written(value: Any) -> str | None:
    """A value as JSON text; None for one that is too deep to be written."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (RecursionError, ValueError):
        return None


def _input(value: Any, at: Path, key: Key, tool: str, *, form: Form = "json") -> Iterator[Spot]:
    """A call's arguments that are all there: text of the given form, or the value itself."""
    if type(value) is str:
        if value:
            yield Spot(key, at, value, "arguments", tool, form=form)
    elif value:
        written = _written(value)
        if written is not None:
            yield Spot(key, at, written, "arguments", tool, copy=True, form="object")
        else:
            for spot in _others({"input": value}, at[:-1], key, kind="arguments"):
                yield Spot(spot.key, (*at, *spot.path[len(at) :]), spot.text, "arguments", tool, copy=True)


def _joined(tokens: Any) -> str:
    """Log probabilities to the text that their tokens make."""
    if type(tokens) is dict:
        told = tokens.get("tokens")
        if type(told) is list:
            return "".join(token for token in told if type(token) is str)
        return "".join(_joined(part) for part in tokens.values() if type(part) is list)
    return "".join(text_at(entry, "token") for entry in objects(tokens))


def _tokens(value: Any, at: Path, key: Key, texts: str, *, copy: bool = False) -> Iterator[Spot]:
    """Log probabilities that do not simply repeat the texts beside them."""
    joined = _joined(value)
    if joined and joined != texts:
        yield Spot(key, at, joined, copy=copy, form="tokens")


# -- chat completions and completions -----------------------------------------------------------------

_REASONING = ("reasoning", "reasoning_content", "thinking")
_CHOICE = frozenset(("delta", "message", "text", "logprobs"))
_CHOICE_LABELS = _CHOICE | {"index", "finish_reason"}
_SIGNED = "anthropic"
"""How the formats of thoughts begin that go back under a signature."""
_SILENT_CHARS, _SILENT_EVENTS = 64, 3
"""So much of a choice's other texts, and a text of it that did not go on has ended: thoughts have no ending
of their own, and the answer behind them must not wait. Pieces that alternate faster are waited for."""


class _Choices(EventSpots):
    """Chat completions and legacy completions."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[tuple[int, int], tuple[str, str]] = {}
        """By choice and number: a call's id and name."""
        self._silence: dict[Key, list[int]] = {}
        """Characters and events of its choice since a text went on, for texts that did not with the last."""
        self._silent: list[Key] = []

    def reply(self, reply: Json) -> list[Spot]:
        return list(self._chunk(reply))

    def read(self, event: Json) -> list[Spot]:
        spots = list(self._chunk(event))
        if len(spots) == 1 and not spots[0].copy and not self._silence:
            # Nearly every event: the only text there is goes on.
            key = spots[0].key
            known = self._open.get(key[1])
            if known is not None and key in known and len(known) == 1:
                return spots
        self._opened(spots)
        self._listen(spots)
        return spots

    def _chunk(self, chunk: Json) -> Iterator[Spot]:
        for name, value in chunk.items():
            if name == "choices" and type(value) is list:
                for i, choice in enumerate(value):
                    if type(choice) is dict:
                        yield from self._choice(choice, ("choices", i))
                    else:
                        yield from _others(choice, ("choices", i), ("event", "", "choices", i))
            elif type(value) in (str, dict, list) and not _is_label(chunk, name, value):
                yield from _others(value, (name,), ("event", "", name))

    def _choice(self, choice: Json, at: Path) -> Iterator[Spot]:
        place = index_of(choice)
        logprobs = choice.get("logprobs")
        tokens = (*at, "logprobs") if logprobs else None
        said = ""
        for name in ("delta", "message"):
            message = choice.get(name)
            if type(message) is dict:
                # Some servers tell the whole so far beside each piece.
                copy = name == "message" and "delta" in choice
                for spot in self._message(message, (*at, name), place, tokens):
                    if copy and not spot.copy:
                        spot = Spot(
                            spot.key, spot.path, spot.text, spot.kind, spot.tool, True, spot.sealed, spot.form
                        )
                    elif spot.logprobs is not None:
                        said += spot.text
                    yield spot
            elif message is not None:
                yield from _others(message, (*at, name), ("choice", place, name))
        text = choice.get("text")
        if type(text) is str:
            if text:
                said += text
                yield Spot(("text", place), (*at, "text"), text, logprobs=tokens)
        elif text is not None:
            yield from _others(text, (*at, "text"), ("choice", place, "text"))
        if tokens is not None:
            yield from _tokens(logprobs, tokens, ("logprobs", place), said)
        if not choice.keys() <= _CHOICE_LABELS or type(choice.get("index")) is str:
            yield from _others(choice, at, ("choice", place), _CHOICE)

    def _message(self, message: Json, at: Path, place: int, tokens: Path | None) -> Iterator[Spot]:
        """A message, or what a delta adds to it."""
        for name, value in message.items():
            if value is None or name == "role":
                continue
            path = (*at, name)
            if name == "content" or name == "refusal":
                if type(value) is str:
                    if value:
                        key = "text" if name == "content" else name
                        yield Spot((key, place), path, value, logprobs=tokens)
                else:
                    yield from self._parts(value, path, place, tokens)
            elif name in _REASONING:
                yield from self._thoughts(value, path, ("reasoning", place, name))
            elif name == "reasoning_details":
                for i, entry in enumerate(value if type(value) is list else [value]):
                    here = (*path, i) if type(value) is list else path
                    yield from self._detail(entry, here, place, i)
            elif name == "tool_calls":
                for i, call in enumerate(value if type(value) is list else [value]):
                    here = (*path, i) if type(value) is list else path
                    yield from self._call(call, here, place)
            elif name == "function_call":
                yield from self._legacy_call(value, path, place)
            elif name == "audio" and type(value) is dict:
                yield from self._audio(value, path, place)
            elif not _is_label(message, name, value):
                yield from self._unknown(value, path, ("delta", place, name))

    def _parts(self, content: Any, at: Path, place: int, tokens: Path | None) -> Iterator[Spot]:
        """Content in parts: one text for whoever reads it."""
        for i, part in enumerate(content if type(content) is list else ()):
            path = (*at, i)
            if type(part) is str and part:
                yield Spot(("text", place), path, part, logprobs=tokens)
            elif type(part) is dict:
                if text := text_at(part, "text"):
                    yield Spot(("text", place), (*path, "text"), text, logprobs=tokens)
                if thoughts := part.get("thinking"):
                    key = ("reasoning", place, "thinking")
                    yield from self._thoughts(thoughts, (*path, "thinking"), key)
                skip = ("text", "thinking") if type(part.get("text")) is str else ("thinking",)
                yield from _others(part, path, ("part", place, i), skip)
            else:
                yield from _others(part, path, ("part", place, i))
        if type(content) is dict:
            yield from _others(content, at, ("part", place))

    def _thoughts(self, value: Any, at: Path, key: Key, *, sealed: bool = False) -> Iterator[Spot]:
        if type(value) is str:
            if value:
                yield Spot(key, at, value, "reasoning", sealed=sealed)
        else:
            for path, text in leaves(value, at):
                yield Spot(key, path, text, "reasoning", sealed=sealed)

    def _detail(self, entry: Any, at: Path, place: int, position: int) -> Iterator[Spot]:
        if type(entry) is not dict:
            yield from self._thoughts(entry, at, ("reasoning", place, "details", position))
            return
        sealed = bool(entry.get("signature")) or text_at(entry, "format").startswith(_SIGNED)
        index = entry.get("index")
        for path, text in leaves(entry, at):
            key = ("reasoning", place, "details", index if type(index) is int else position, *path[len(at) :])
            yield Spot(key, path, text, "reasoning", sealed=sealed)

    def _call(self, call: Any, at: Path, place: int) -> Iterator[Spot]:
        if type(call) is not dict:
            yield from _others(call, at, ("call", place))
            return
        kind = "custom" if type(call.get("custom")) is dict else "function"
        inner = call.get(kind)
        inner = inner if type(inner) is dict else {}
        number = self._number(call, inner, place)
        tool = self._calls[place, number][1]
        name = "input" if kind == "custom" else "arguments"
        form: Form = "text" if kind == "custom" else "json"
        key = ("arguments", place, number)
        yield from _input(inner.get(name), (*at, kind, name), key, tool, form=form)
        yield from _others(inner, (*at, kind), ("call", place, number, kind), (name,), "arguments")
        yield from _others(call, at, ("call", place, number), (kind,) if inner else ())

    def _number(self, call: Json, inner: Json, place: int) -> int:
        """Which call of its choice a delta belongs to, as the surface's stream tells them apart."""
        call_id, name, index = text_at(call, "id"), text_at(inner, "name"), call.get("index")
        if type(index) is int:
            number = index
        else:
            # Without anything that tells it apart, it is more of the last.
            last = max((number for at, number in self._calls if at == place), default=-1)
            number = last + 1 if call_id or name or last < 0 else last
        told = self._calls.get((place, number))
        if told is not None and call_id and told[0] and call_id != told[0]:
            # Some servers send every whole call under index 0; a new id is a new call.
            number = max(known for at, known in self._calls if at == place) + 1
            told = None
        self._calls[place, number] = (told[0] or call_id, told[1] or name) if told else (call_id, name)
        return number

    def _legacy_call(self, call: Any, at: Path, place: int) -> Iterator[Spot]:
        if type(call) is not dict:
            yield from _others(call, at, ("call", place))
            return
        known = self._calls.get((place, -1), ("", ""))[1]
        tool = known or text_at(call, "name")
        self._calls[place, -1] = ("", tool)
        yield from _input(call.get("arguments"), (*at, "arguments"), ("arguments", place, -1), tool)
        yield from _others(call, at, ("call", place, -1), ("arguments",), "arguments")

    def _audio(self, audio: Json, at: Path, place: int) -> Iterator[Spot]:
        if transcript := text_at(audio, "transcript"):
            yield Spot(("transcript", place), (*at, "transcript"), transcript)
        yield from _others(audio, at, ("audio", place), ("transcript", "data") if transcript else ("data",))

    def _unknown(self, value: Any, at: Path, key: Key) -> Iterator[Spot]:
        """Texts grow with each delta; entries of lists do where they have an index."""
        for path, text in leaves(value, at):
            here: list[str | int] = []
            inner, alone = value, False
            for step in path[len(at) :]:
                inner = inner[step]
                index = inner.get("index") if type(step) is int and type(inner) is dict else step
                alone = alone or (type(step) is int and (type(index) is not int or type(inner) is not dict))
                here.append(index if type(index) is int else step)
            yield Spot((*key, *here), path, text, copy=alone)

    def _listen(self, spots: list[Spot]) -> None:
        """Counts for how long each open text has not gone on."""
        said: dict[str | int, int] = {}
        grown = set()
        for spot in spots:
            if not spot.copy:
                said[spot.key[1]] = said.get(spot.key[1], 0) + len(spot.text)
                grown.add(spot.key)
        for place, chars in said.items():
            for key in [*self._open.get(place, ())]:
                if key in grown:
                    self._silence.pop(key, None)
                elif key[0] != "arguments":
                    silence = self._silence.setdefault(key, [0, 0])
                    silence[0] += chars
                    silence[1] += 1
                    if silence[0] >= _SILENT_CHARS and silence[1] >= _SILENT_EVENTS:
                        self._silent.append(key)
                        del self._silence[key], self._open[place][key]

    def ended(self, event: Json) -> Collection[Key]:
        if event.get("error"):
            self.over = True
            return self._close_all()
        self.over = False
        ended: list[Key] = []
        choices = event.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict and choice.get("finish_reason") is not None:
                closed = self._close(index_of(choice))
                for key in closed:
                    self._silence.pop(key, None)
                ended += closed
        if self._silent:
            ended += self._silent
            self._silent = []
        return ended


# -- messages -----------------------------------------------------------------------------------------

_CALLING = ("tool_use", "server_tool_use", "mcp_tool_use")
_PIECES: dict[str, tuple[str, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("input", "partial_json"),
    "compaction_delta": ("compaction", "content"),
}
"""By a delta's type: what it is a piece of, and where it stands."""


@dataclass(slots=True)
class _Block:
    number: int
    kind: str = ""
    tool: str = ""
    sealed: bool = False
    closed: bool = False


class _Messages(EventSpots):
    """Blocks of text that follow each other directly are one text: citations cut it anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, _Block] = {}
        """By index: the block that its deltas belong to."""
        self._begun = 0
        """Blocks that began."""
        self._run = -1
        """The number of the first of the text blocks that follow each other; -1 where there is none."""
        self._left: Collection[Key] = ()

    def reply(self, reply: Json) -> list[Spot]:
        content = reply.get("content")
        spots = list(
            _others(reply, (), ("message", ""), ("content",) if type(content) in (str, list) else ())
        )
        if type(content) is str and content:
            spots.append(Spot(("text", -1), ("content",), content))
        for i, block in enumerate(content if type(content) is list else ()):
            spots += self._began(block, ("content", i), i, whole=True)
        return spots

    def read(self, event: Json) -> list[Spot]:
        kind, read = event.get("type"), ""
        spots: list[Spot] = []
        if kind == "content_block_delta":
            delta = event.get("delta")
            if type(delta) is dict:
                read = "delta"
                spots += self._delta(delta, index_of(event))
        elif kind == "content_block_start":
            block = event.get("content_block")
            if type(block) is dict:
                read = "content_block"
                spots += self._began(block, (read,), index_of(event))
        if not read or len(event) > 2 + ("index" in event):
            spots += _others(event, (), ("event", ""), (read,))
        self._opened(spots)
        return spots

    def _began(self, block: Any, at: Path, index: int, *, whole: bool = False) -> Iterator[Spot]:
        if type(block) is not dict:
            yield from _others(block, at, ("block", index))
            return
        kind = text_at(block, "type")
        known = self._blocks.get(index)
        if known is None or known.closed or known.kind != kind:
            # In a stream the signature comes when the thoughts have left; its field is there from the start.
            sealed = bool(block.get("signature")) if whole else "signature" in block
            known = self._blocks[index] = _Block(self._begun, kind, text_at(block, "name"), sealed)
            self._begun += 1
        if kind == "text":
            if self._run < 0:
                self._run = known.number
            if text := text_at(block, "text"):
                yield Spot(("text", self._run), (*at, "text"), text)
            yield from _others(block, at, ("block", known.number), ("text",))
            return
        if self._run >= 0:
            self._left = self._close(self._run)
            self._run = -1
        if kind in _CALLING:
            key = ("input", known.number)
            yield from _input(block.get("input"), (*at, "input"), key, known.tool)
            yield from _others(block, at, ("block", known.number), ("input",))
        elif kind == "thinking" or kind == "compaction":
            name = "thinking" if kind == "thinking" else "content"
            if text := text_at(block, name):
                key = (kind, known.number)
                yield Spot(key, (*at, name), text, "reasoning", sealed=known.sealed)
            skip = (name,) if type(block.get(name)) is str else ()
            yield from _others(block, at, ("block", known.number), skip)
        else:
            yield from _others(block, at, ("block", known.number))

    def _delta(self, delta: Json, index: int) -> Iterator[Spot]:
        kind = delta.get("type")
        block = self._blocks.get(index)
        if block is None:
            # Its start did not come.
            block = self._blocks[index] = _Block(self._begun)
            self._begun += 1
        known = _PIECES.get(kind) if type(kind) is str else None
        skip: tuple[str, ...] = ()
        if known is not None:
            name, field = known
            skip = (field,)
            text = delta.get(field)
            if type(text) is not str:
                skip = ()
            elif text:
                at = ("delta", field)
                if name == "text":
                    if self._run < 0:
                        self._run = block.number
                    yield Spot(("text", self._run), at, text)
                elif name == "input":
                    yield Spot((name, block.number), at, text, "arguments", block.tool, form="json")
                else:
                    yield Spot((name, block.number), at, text, "reasoning", sealed=block.sealed)
        elif kind == "citations_delta":
            yield from _others(delta, ("delta",), ("citation", block.number))
            return
        if len(delta) > 2 or not skip:
            for path, text in leaves(delta, ("delta",), skip):
                yield Spot(("delta", block.number, *path[1:]), path, text)

    def ended(self, event: Json) -> Collection[Key]:
        kind = event.get("type")
        self.over = False
        if kind == "content_block_delta":
            return ()
        if kind == "content_block_start":
            left, self._left = self._left, ()
            return left
        if kind == "content_block_stop":
            block = self._blocks.get(index_of(event))
            if block is None:
                return ()
            block.closed = True
            # A text may go on in the next block.
            return self._close(block.number) if block.number != self._run else ()
        delta = event.get("delta")
        stopped = kind == "message_delta" and type(delta) is dict and delta.get("stop_reason") is not None
        self.over = kind in ("message_stop", "error")
        if stopped or self.over:
            self._run = -1
            return self._close_all()
        return ()


# -- responses ----------------------------------------------------------------------------------------


@frozen
class _Stem:
    """What the events `response.X.delta` and `response.X.done` tell."""

    name: str
    field: str
    """Where the `.done` event, and the item, has the whole of it."""
    index: str = ""
    kind: Kind = "text"
    form: Form = "text"


_STEMS = {
    "output_text": _Stem("text", "text", "content_index"),
    "refusal": _Stem("refusal", "refusal", "content_index"),
    "audio.transcript": _Stem("transcript", "transcript"),
    "reasoning_text": _Stem("reasoning", "text", "content_index", "reasoning"),
    "reasoning_summary_text": _Stem("summary", "text", "summary_index", "reasoning"),
    "function_call_arguments": _Stem("arguments", "arguments", "", "arguments", "json"),
    "mcp_call_arguments": _Stem("arguments", "arguments", "", "arguments", "json"),
    "custom_tool_call_input": _Stem("arguments", "input", "", "arguments"),
    "code_interpreter_call_code": _Stem("arguments", "code", "", "arguments"),
    "shell_call_command": _Stem("command", "command", "command_index", "arguments"),
    "apply_patch_call_operation_diff": _Stem("diff", "diff", "", "arguments"),
}
_PART_STEMS = {
    "output_text": "output_text",
    "refusal": "refusal",
    "reasoning_text": "reasoning_text",
    "summary_text": "reasoning_summary_text",
}
"""By the type of a part: the stem of the events that tell its text."""
_ITEM_STEMS = {
    "function_call": "function_call_arguments",
    "mcp_call": "mcp_call_arguments",
    "mcp_approval_request": "mcp_call_arguments",
    "tool_search_call": "mcp_call_arguments",
    "custom_tool_call": "custom_tool_call_input",
    "code_interpreter_call": "code_interpreter_call_code",
    "program": "code_interpreter_call_code",
}
"""By the type of an item: the stem of the events that tell what the model wrote."""
_ASKED = ("action", "actions", "operation")
"""What other calls ask for."""
_ENDINGS = frozenset(f"response.{how}" for how in ("completed", "incomplete", "failed", "cancelled", "done"))
_SNAPSHOTS = frozenset(("response.created", "response.queued", "response.in_progress"))
_ECHOED = frozenset((
    "background", "context_management", "conversation", "include", "input", "instructions", "metadata",
    "previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_options", "reasoning",
    "safety_identifier", "stream_options", "text", "tool_choice", "tool_usage", "tools", "truncation",
    "user",
))  # fmt: skip
"""What a response repeats of its request."""
_SAID = ("reasoning", "text")
"""Of these, what is repeated is a configuration; a text would be the answer's."""


class _Responses(EventSpots):
    """Each text comes in up to five copies, all under one key."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, int] = {}
        """By an item's id: its place in the output."""
        self._tools: dict[str | int, str] = {}
        self._begun: set[Key] = set()
        """Texts that have pieces."""

    def reply(self, reply: Json) -> list[Spot]:
        return list(self._response(reply, (), copy=False))

    def read(self, event: Json) -> list[Spot]:
        kind = text_at(event, "type")
        spots: list[Spot]
        if kind.endswith(".delta"):
            spots = list(self._delta(kind[9:-6], event))
        elif kind in _ENDINGS or kind in _SNAPSHOTS:
            spots = list(self._told(event, "response", kind in _ENDINGS))
        elif kind.startswith("response.output_item."):
            spots = list(self._told(event, "item", kind.endswith(".done")))
        elif "_part." in kind:
            spots = list(self._told(event, "part", kind.endswith(".done")))
        elif kind.endswith((".done", ".added")):
            spots = list(self._done(kind[9:].rpartition(".")[0], event, kind.endswith(".done")))
        else:
            spots = list(_others(event, (), ("event", "", kind)))
        for spot in spots:
            if not spot.copy:
                self._begun.add(spot.key)
                self._open.setdefault(spot.key[1], {})[spot.key] = None
        return spots

    def _place(self, event: Json) -> str | int:
        place = event.get("output_index")
        if type(place) is int:
            return place
        item_id = text_at(event, "item_id")
        return self._places.get(item_id, item_id)

    def _key(self, stem: _Stem, event: Json) -> Key:
        place = self._place(event)
        return (stem.name, place, index_of(event, stem.index)) if stem.index else (stem.name, place)

    def _delta(self, name: str, event: Json) -> Iterator[Spot]:
        stem, delta = _STEMS.get(name), event.get("delta")
        if stem is not None and type(delta) is str:
            if delta:
                key = self._key(stem, event)
                tool = self._tools.get(key[1], "") if stem.kind == "arguments" else ""
                tokens = ("logprobs",) if event.get("logprobs") else None
                yield Spot(key, ("delta",), delta, stem.kind, tool, form=stem.form, logprobs=tokens)
                if tokens:
                    yield from _tokens(event["logprobs"], tokens, ("logprobs", *key[1:]), delta)
        elif delta is not None and name != "audio":
            index = [event[i] for i in ("content_index", "command_index") if type(event.get(i)) is int]
            for path, text in leaves(delta, ("delta",)):
                yield Spot((name, self._place(event), *index, *path[1:]), path, text)
        for field, value in event.items():
            if type(value) in (str, dict, list) and field != "delta" and not _is_label(event, field, value):
                yield from _others(value, (field,), ("event", "", name, field))

    def _done(self, name: str, event: Json, final: bool) -> Iterator[Spot]:
        """The whole of a text, or what it begins with."""
        stem = _STEMS.get(name)
        field = ""
        if stem is not None and (text := text_at(event, stem.field)):
            field = stem.field
            key = self._key(stem, event)
            tool = self._tools.get(key[1], "") or text_at(event, "name")
            tool = tool if stem.kind == "arguments" else ""
            yield from self._whole(event, (), key, stem, text, tool, final)
        if name == "output_text.annotation":
            at = (index_of(event, "content_index"), "annotations", index_of(event, "annotation_index"))
            key = ("part", self._place(event), "content", *at)
            yield from _others(event.get("annotation"), ("annotation",), key)
            field = "annotation"
        yield from _others(event, (), ("event", self._place(event), name), (field,) if field else ())

    def _whole(
        self, around: Json, at: Path, key: Key, stem: _Stem, text: str, tool: str, final: bool
    ) -> Iterator[Spot]:
        """A text that is all there; one of which no piece has come may still go on."""
        copy = final or key in self._begun
        tokens = (*at, "logprobs") if around.get("logprobs") else None
        yield Spot(key, (*at, stem.field), text, stem.kind, tool, copy, False, stem.form, tokens)
        if tokens:
            told = ("logprobs", *key[1:])
            yield from _tokens(around["logprobs"], tokens, ("whole", *told), text, copy=True)

    def _told(self, event: Json, name: str, final: bool) -> Iterator[Spot]:
        value = event.get(name)
        if type(value) is not dict:
            yield from _others(event, (), ("event", ""))
            return
        if name == "response":
            yield from self._response(value, (name,), final=final)
        elif name == "item":
            place = self._place(event)
            if item_id := text_at(value, "id"):
                if type(event.get("output_index")) is int:
                    self._places[item_id] = event["output_index"]
                elif place == "":
                    place = self._places.get(item_id, item_id)
            yield from self._item(value, (name,), place, final=final)
        else:
            of_summary = "summary_index" in event
            index = index_of(event, "summary_index" if of_summary else "content_index")
            field = "summary" if of_summary else "content"
            yield from self._part(value, (name,), (self._place(event), field, index), final=final)
        if len(event) > 2:
            yield from _others(event, (), ("event", ""), (name,))

    def _response(self, response: Json, at: Path, *, final: bool = True, copy: bool = True) -> Iterator[Spot]:
        output = response.get("output")
        for i, item in enumerate(output if type(output) is list else ()):
            path = (*at, "output", i)
            if type(item) is dict:
                place = self._places.get(text_at(item, "id"), i)
                yield from self._item(item, path, place, final=final and copy)
            else:
                yield from _others(item, path, ("item", i))
        skip = {name for name in _ECHOED if name not in _SAID or type(response.get(name)) is dict}
        if type(output) is list:
            skip.add("output")
        yield from _others(response, at, ("response", ""), skip)

    def _item(self, item: Json, at: Path, place: str | int, *, final: bool) -> Iterator[Spot]:
        kind = text_at(item, "type")
        if kind == "message" or kind == "reasoning":
            for field in ("content", "summary"):
                parts = item.get(field)
                for i, part in enumerate(parts if type(parts) is list else ()):
                    if type(part) is dict:
                        yield from self._part(part, (*at, field, i), (place, field, i), final=final)
                    else:
                        yield from _others(part, (*at, field, i), ("part", place, field, i))
            skip = [field for field in ("content", "summary") if type(item.get(field)) is list]
            more: Kind = "reasoning" if kind == "reasoning" else "text"
            yield from _others(item, at, ("item", place), skip, more)
            return
        tool = text_at(item, "name") or kind.removesuffix("_call")
        self._tools[place] = tool
        stem = _STEMS[_ITEM_STEMS[kind]] if kind in _ITEM_STEMS else None
        if stem is not None:
            value = item.get(stem.field)
            key: Key = (stem.name, place)
            if type(value) is str:
                if value:
                    yield from self._whole(item, at, key, stem, value, tool, final)
            else:
                yield from _input(value, (*at, stem.field), key, tool)
        for path, text in leaves(item, at, (stem.field,) if stem is not None else ()):
            yield self._asked(kind, tool, text, path, path[len(at) :], place, final)

    def _asked(
        self, kind: str, tool: str, text: str, path: Path, inner: Path, place: str | int, final: bool
    ) -> Spot:
        """A text of a tool's item: what it is called with, or what came of it."""
        key: Key = ("item", place, *inner)
        if kind == "shell_call" and inner[:2] == ("action", "commands") and len(inner) == 3:
            key = ("command", place, inner[2])
        elif kind == "apply_patch_call" and inner == ("operation", "diff"):
            key = ("diff", place)
        elif inner[0] not in _ASKED:
            return Spot(key, path, text, copy=True)
        copy = final or key[0] == "item" or key in self._begun
        return Spot(key, path, text, "arguments", tool, copy)

    def _part(
        self, part: Json, at: Path, place: tuple[str | int, str, int], *, final: bool
    ) -> Iterator[Spot]:
        name = _PART_STEMS.get(text_at(part, "type"))
        skip: tuple[str, ...] = ()
        kind: Kind = "reasoning" if place[1] == "summary" else "text"
        if name is not None:
            stem = _STEMS[name]
            kind = stem.kind
            if text := text_at(part, stem.field):
                yield from self._whole(part, at, (stem.name, place[0], place[2]), stem, text, "", final)
            skip = (stem.field,) if type(part.get(stem.field)) is str else ()
        yield from _others(part, at, ("part", *place), skip, kind)

    def ended(self, event: Json) -> Collection[Key]:
        kind = text_at(event, "type")
        self.over = False
        if kind.endswith(".delta"):
            return ()
        if kind in _ENDINGS or kind in ("error", "response.error") or (not kind and event.get("error")):
            self.over = True
            return self._close_all()
        if kind == "response.output_item.done":
            place = self._place(event)
            item = event.get("item")
            if place == "" and type(item) is dict:
                place = self._places.get(text_at(item, "id"), text_at(item, "id"))
            return self._close(place)
        if kind.endswith(".done"):
            name = kind[9:-5]
            part = event.get("part")
            if type(part) is dict:
                name = _PART_STEMS.get(text_at(part, "type"), "")
            stem = _STEMS.get(name)
            if stem is not None:
                key = self._key(stem, event)
                return self._closed(key[1], (key, ("logprobs", *key[1:])))
            place = self._place(event)
            return self._closed(place, [key for key in self._open.get(place, ()) if key[0] == name])
        return ()

    def _closed(self, place: str | int, of: Collection[Key]) -> Collection[Key]:
        keys = self._open.get(place, {})
        ended = [known for known in of if known in keys]
        for known in ended:
            del keys[known]
        return ended


_READERS: dict[Surface, type[EventSpots]] = {
    Surface.CHAT: _Choices,
    Surface.COMPLETIONS: _Choices,
    Surface.MESSAGES: _Messages,
    Surface.RESPONSES: _Responses,
}
