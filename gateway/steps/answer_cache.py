"""Answers that are given a second time: to the same request, or to one that asks the same in other words.

    request ──key──► kept? ──► replayed: the whole reply of the client's surface, with ids of its own
            ──single──► one call upstream for all who ask the same at once ──put──► kept, if it is fit for it

**Nothing crosses tenants.** A key is an HMAC over who shares the answer (`scope`), the policy's version, the
model that serves, and the request. An answer is closed with AES-GCM under a key made from its own, so that
whoever can write to the store can neither read it, nor change it, nor put one answer in place of another.

**What is the same request.** The body as JSON with sorted keys, fields that nobody here knows included.
Left out is what does not change an answer: how it is delivered (`stream`, `stream_options`), labels
(`metadata`), who asks (`user`, `safety_identifier`; part of the key where the scope is `user`) and hints for
the provider's prompt cache (`prompt_cache_key`, `prompt_cache_retention`). `service_tier` stays in, since a
reply tells the one that was paid for. Ids of tool calls count by the order in which they appear and not by
their letters: no provider reads anything into them, and every replay has fresh ones.

**What has no key**: several choices; an answer in the background; whatever the provider keeps
(`previous_response_id`, `conversation`, ids of files, on responses everything without `store: false`, on chat
`store: true`); tools that the provider hosts; audio; pictures and files by address, behind which the content
may change; a temperature above the rule's. A request without a temperature counts as 1, the default of all
providers.

**What is kept**: a whole answer that ended by itself, on which no rule had anything to say, up to 256 KB.

Workers share answers through the store. The single flight and the index of wordings are each worker's own:
two workers may ask the same once each, and a lease in the store would cost every miss a round trip to spare
that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from gateway.domain import Json, Media, Millis, Role, Step, Surface, Verdict
from gateway.errors import StoreUnavailable
from gateway.metering.usage import SEARCH_MODEL
from gateway.policy.sections.reuse import AnswerReuse, SemanticCache
from gateway.protocols import Clock, Store
from gateway.rules.budgets import Scopes
from gateway.rules.lineage import MIN_ID_CHARS, Lineage
from gateway.screening.places import with_texts
from gateway.shaping import SHAPERS, Fold
from gateway.shaping.base import objects, text_at
from gateway.surfaces import CODECS
from gateway.surfaces.hosted import searches
from gateway.values import frozen

MAX_BYTES = 256 * 1024
"""The largest reply that is kept, as JSON."""
LOCAL_BYTES = 64 * 1024 * 1024
"""Replies that a worker has at hand."""
STORE_BYTES = 256 * 1024 * 1024
"""Replies that a worker has put into the store; beyond, it drops the oldest."""
STREAM_BYTES = 4 * 1024 * 1024
"""A stream that is longer than this tells more than can be kept."""
WAIT_S = 60.0
"""How long a request waits for another that asks the same, before it asks by itself."""
MOST_ID_CHARS = 64
"""A longer id of a tool call carries something: there are servers that put a signature into it."""
HEADERS = (b"anthropic-version", b"anthropic-beta", b"openai-beta")
"""Headers of a request that may change its answer."""

_FORMAT = b"1"
_NONCE = 12
_FIT = (Verdict.ALLOW, Verdict.REROUTE)
_LEFT_OUT: Mapping[Surface, frozenset[str]] = {
    Surface.CHAT: frozenset(
        (
            "stream", "stream_options", "metadata", "user", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "store",
        )
    ),
    Surface.RESPONSES: frozenset(
        (
            "stream", "stream_options", "metadata", "user", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "store", "background",
        )
    ),
    Surface.MESSAGES: frozenset(("stream", "metadata")),
    Surface.COMPLETIONS: frozenset(("stream", "stream_options", "user")),
}  # fmt: skip
"""By surface: fields that do not change an answer, or have but one value in a request that has a key."""
_ECHOED = ("metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""What a response repeats of its own request, and must not tell of another's."""
_CLIENT_TOOLS = ("bash_", "computer_", "memory_", "text_editor_")
"""How the types of Anthropic's tools begin that the client runs."""
_LATE_TOOLS = ("additional_tools", "tool_search_output")
_ID_FIELDS = frozenset(("id", "call_id", "tool_call_id", "tool_use_id"))


@frozen
class AnswerKey:
    """Under what an answer is kept."""

    name: str
    """In the store; an HMAC."""
    surface: Surface
    model: str
    """Who serves the request, as told to `AnswerCache.key`."""


@frozen
class Told:
    """An answer that a client has received, and how it came about."""

    reply: Json
    """The plain reply of the client's surface; for a stream see `Recorder`."""
    model: str
    """Who served it, in the same words as in the key: a fallback's answer is not kept."""
    verdict: Verdict
    edited: bool
    """Screening has changed a text of the request or of the answer, or the gateway added to the request."""
    again: bool
    """The model was asked more than once, or another one after it."""


# -- which request ------------------------------------------------------------------------------------


def is_reusable(step: Step, max_temperature: float) -> bool:
    """Whether an answer to this step can be given again at all."""
    body = step.body
    if step.surface not in _LEFT_OUT or step.choices != 1 or step.background or step.kept:
        return False
    stored = body.get("store")
    if stored is not False if step.surface is Surface.RESPONSES else stored not in (None, False):
        return False
    temperature = 1.0 if body.get("temperature") is None else body["temperature"]
    if type(temperature) not in (int, float) or not 0 <= temperature <= max_temperature:
        return False
    if not all(_is_content(media, step.surface) for item in step.items for media in item.media):
        return False
    modalities = body.get("modalities")
    if body.get("audio") is not None or (modalities is not None and modalities != ["text"]):
        return False
    return not _is_served_by_tools(step)


def _is_content(media: Media, surface: Surface) -> bool:
    """Whether a part stands in the request as it is: nothing that has to be fetched, nothing unknown."""
    if media.kind == "other":
        # Thoughts that the client sends back closed.
        return surface is Surface.RESPONSES and media.detail == "opaque"
    return media.kind != "audio" and media.size > 0


def _is_served_by_tools(step: Step) -> bool:
    """Whether the provider may use tools of its own."""
    body = step.body
    if searches(body) or SEARCH_MODEL.search(step.model) or body.get("mcp_servers"):
        return True
    if not all(_is_clients(tool, step.surface) for tool in objects(body.get("tools"))):
        return True
    if step.surface is Surface.RESPONSES:
        return any(item.get("type") in _LATE_TOOLS for item in objects(body.get("input")))
    return False


def _is_clients(tool: Json, surface: Surface) -> bool:
    """Whether the client runs a tool."""
    kind = tool.get("type")
    if surface is Surface.CHAT:
        return kind in ("function", "custom") and type(tool.get(kind)) is dict
    if surface is Surface.RESPONSES:
        return kind in ("function", "custom")
    if kind in (None, "custom"):
        return type(tool.get("input_schema")) is dict
    return type(kind) is str and kind.startswith(_CLIENT_TOOLS)


def _asked(step: Step) -> Json:
    """What of a body decides about its answer."""
    left_out = _LEFT_OUT[step.surface]
    asked = {name: value for name, value in step.body.items() if name not in left_out}
    ids = [i for item in step.items for i in (item.call_id, *[call.id for call in item.calls]) if i]
    numbers = {i: f"#{n}" for n, i in enumerate(dict.fromkeys(ids)) if len(i) <= MOST_ID_CHARS}
    if numbers:
        spoken = "input" if step.surface is Surface.RESPONSES else "messages"
        asked[spoken] = [_numbered(entry, numbers, 2) for entry in asked[spoken]]
    return asked


def _numbered(entry: Any, numbers: Mapping[str, str], depth: int) -> Any:
    """A message or an item, and the calls and results in it, with numbers for ids of calls."""
    if type(entry) is not dict:
        return entry
    told = {
        name: numbers.get(value, value) if name in _ID_FIELDS and type(value) is str else value
        for name, value in entry.items()
    }
    for name in ("tool_calls", "content") if depth > 1 else ():
        if type(inner := told.get(name)) is list:
            told[name] = [_numbered(part, numbers, depth - 1) for part in inner]
    return told


def _owner(scope: Literal["user", "key", "team", "global"], scopes: Scopes, body: Json) -> list[Any] | None:
    """Who shares an answer; None where the scope has nobody."""
    if scope == "global":
        return []
    if scope == "team":
        return None if scopes.team is None else [scopes.team]
    if scope == "key":
        return [scopes.principal, scopes.key]
    metadata = body.get("metadata")
    told = (
        body.get("user"),
        body.get("safety_identifier"),
        metadata.get("user_id") if type(metadata) is dict else None,
    )
    return [scopes.principal, scopes.key, scopes.user, *[who if type(who) is str else None for who in told]]


# -- the cache ----------------------------------------------------------------------------------------


class AnswerCache:
    """The answers that one worker knows of. Nothing here raises for a store that is away: what cannot be
    looked up is not there."""

    def __init__(
        self,
        store: Store,
        lineage: Lineage,
        clock: Clock,
        *,
        local_bytes: int = LOCAL_BYTES,
        store_bytes: int = STORE_BYTES,
        wait_s: float = WAIT_S,
    ) -> None:
        self._store = store
        self._lineage = lineage
        self._clock = clock
        self._wait_s = wait_s
        self._local = _Recent(local_bytes)
        self._stored = _Recent(store_bytes)
        """What this worker has put into the store, without the replies."""
        self._flights: dict[str, asyncio.Event] = {}
        """By name: set when those who wait need wait no longer."""

    def key(
        self,
        step: Step,
        scopes: Scopes,
        rule: AnswerReuse,
        *,
        policy: str,
        model: str,
        headers: Mapping[bytes, bytes] | None = None,
        withheld: Collection[str] = (),
    ) -> AnswerKey | None:
        """The key of the step's answer; None when it is not to be given again.

        `step` is what would be sent: screened, shortened. `policy` is the policy's version, `model` who
        serves the step (`provider/upstream model`), `headers` those of the request, `withheld` the tools that
        the model is not told of. The rule's `mode` and `match` are not looked at.
        """
        name = self.name_of("exact", step, scopes, rule, (policy, model), headers, withheld)
        return None if name is None else AnswerKey(name, step.surface, model)

    def name_of(
        self,
        kind: str,
        step: Step,
        scopes: Scopes,
        rule: AnswerReuse,
        about: Sequence[str],
        headers: Mapping[bytes, bytes] | None,
        withheld: Collection[str],
    ) -> str | None:
        """The name of one kind of record about a request; None when its answer is not to be given again."""
        if not is_reusable(step, rule.max_temperature):
            return None
        owner = _owner(rule.scope, scopes, step.body)
        if owner is None:
            return None
        given = [(headers or {}).get(name, b"").decode("latin-1") for name in HEADERS]
        # Written with every character escaped, so that no two lists read the same, whatever is in them.
        told = json.dumps([kind, rule.scope, owner, step.surface, *about, given, sorted(withheld)])
        asked = hashlib.sha256(orjson.dumps(_asked(step), option=orjson.OPT_SORT_KEYS)).hexdigest()
        return self._lineage.key(told, "answer", asked)

    async def get(self, key: AnswerKey) -> Json | None:
        """The reply that is kept, a copy of one's own."""
        reply = self._at_hand(key.name)
        return reply if reply is not None else await self._fetched(key.name)

    def _at_hand(self, name: str) -> Json | None:
        found = self._local.get(name, self._clock())
        reply: Json | None = None if found is None else orjson.loads(found)
        return reply

    async def _fetched(self, name: str) -> Json | None:
        try:
            closed = (await self._store.recall([name])).get(name)
        except StoreUnavailable:
            return None
        if closed is None or (opened := self._opened(name, closed)) is None:
            return None
        until, data = opened
        self._local.put(name, data, len(data), until, self._clock())
        return self._at_hand(name)

    async def put(self, key: AnswerKey, told: Told, ttl_s: float) -> bool:
        """Keep an answer, if it is fit to be given again; whoever waits for it may go on. Whether it is."""
        data = _fit(key, told)
        if data is None:
            self._release(key.name)
            return False
        now = self._clock()
        until = now + int(ttl_s * 1000)
        self._local.put(key.name, data, len(data), until, now)
        self._release(key.name)
        closed = self._closed(key.name, until, data)
        try:
            await self._store.remember({key.name: closed}, int(ttl_s * 1000))
            # Else a store in this process would grow with every question.
            if dropped := self._stored.put(key.name, b"", len(closed), until, now):
                await self._store.forget(dropped)
        except StoreUnavailable:
            pass  # The other workers will ask for themselves.
        return True

    async def forget(self) -> None:
        """Drop every answer that this worker has at hand or has put into the store.

        Raises `StoreUnavailable`.
        """
        names = self._stored.clear()
        self._local.clear()
        for start in range(0, len(names), 500):
            await self._store.forget(names[start : start + 500])

    # -- one call for all who ask the same ------------------------------------------------------------

    @asynccontextmanager
    async def single(self, key: AnswerKey) -> AsyncIterator[Json | None]:
        """What is known, for whoever asks; else None, which means: ask the provider, here inside, and `put`.

        Of all who come at once the first gets None, and the others wait until it has `put` or left. They get
        its answer; if it failed, was cancelled, or its answer is not fit to be given again, they get None all
        together. Nobody's cancellation reaches another, and nobody waits for more than one other or longer
        than `wait_s`.
        """
        if (reply := self._at_hand(key.name)) is not None:
            yield reply
            return
        flight = self._flights.get(key.name)
        if flight is None:
            flight = self._flights[key.name] = asyncio.Event()
            try:
                reply = await self._fetched(key.name)
                if reply is not None:
                    self._release(key.name)
                yield reply
            finally:
                if self._flights.get(key.name) is flight:
                    self._release(key.name)
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await flight.wait()
        except TimeoutError:
            yield None
            return
        yield self._at_hand(key.name)

    def _release(self, name: str) -> None:
        flight = self._flights.pop(name, None)
        if flight is not None:
            flight.set()

    # -- as the store has it --------------------------------------------------------------------------

    def _cipher(self, name: str) -> AESGCM:
        return AESGCM(bytes.fromhex(self._lineage.key(name, "answer-cipher", "")))

    def _closed(self, name: str, until: Millis, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return _FORMAT + nonce + self._cipher(name).encrypt(nonce, until.to_bytes(8, "big") + data, _FORMAT)

    def _opened(self, name: str, closed: bytes) -> tuple[Millis, bytes] | None:
        if not closed.startswith(_FORMAT):
            return None
        start = len(_FORMAT) + _NONCE
        try:
            data = self._cipher(name).decrypt(closed[len(_FORMAT) : start], closed[start:], _FORMAT)
        except (InvalidTag, ValueError):
            return None
        return int.from_bytes(data[:8], "big"), data[8:]


_ENTRY = 256
"""What an entry takes besides its value, in bytes."""


class _Recent:
    """Values of limited size together, each until its time; what was used longest ago goes first."""

    __slots__ = ("_entries", "_left")

    def __init__(self, size: int) -> None:
        self._entries: OrderedDict[str, tuple[bytes, int, Millis]] = OrderedDict()
        self._left = size

    def get(self, name: str, now: Millis) -> bytes | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry[2] <= now:
            self._drop(name)
            return None
        self._entries.move_to_end(name)
        return entry[0]

    def put(self, name: str, value: bytes, size: int, until: Millis, now: Millis) -> list[str]:
        """Names of what had to go before its time."""
        self._drop(name)
        self._entries[name] = (value, size + _ENTRY, until)
        self._left -= size + _ENTRY
        dropped: list[str] = []
        while self._entries:
            oldest = next(iter(self._entries))
            is_over = self._entries[oldest][2] <= now
            if self._left >= 0 and not is_over:
                break
            self._drop(oldest)
            if not is_over:
                dropped.append(oldest)
        return dropped

    def clear(self) -> list[str]:
        """Drop everything; the names of it."""
        names = list(self._entries)
        for name in names:
            self._drop(name)
        return names

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._left += entry[1]


# -- what is fit to be given again --------------------------------------------------------------------


def _fit(key: AnswerKey, told: Told) -> bytes | None:
    """The reply as it is kept; None when it must not be."""
    if told.verdict not in _FIT or told.edited or told.again or told.model != key.model:
        return None
    if not is_whole(key.surface, told.reply):
        return None
    reply = told.reply
    if key.surface is Surface.RESPONSES:
        reply = {name: value for name, value in reply.items() if name not in _ECHOED}
    try:
        data = orjson.dumps(reply)
    except orjson.JSONEncodeError:
        return None
    return data if len(data) <= MAX_BYTES else None


_ENDED: Mapping[Surface, tuple[str, ...]] = {
    Surface.CHAT: ("stop", "tool_calls", "function_call"),
    Surface.COMPLETIONS: ("stop",),
    Surface.MESSAGES: ("end_turn", "tool_use", "stop_sequence"),
    Surface.RESPONSES: ("completed",),
}
_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use")
_OUTPUT = ("message", "reasoning", "function_call", "custom_tool_call")


def is_whole(surface: Surface, reply: Json) -> bool:
    """Whether a reply is one answer that ended by itself: not cut short, refused or filtered, nothing of it
    the provider's own work, and with something in it."""
    if surface not in _ENDED or reply.get("error") is not None:
        return False
    answer = CODECS[surface].read_answer(reply)
    if answer.finish_reason not in _ENDED[surface] or answer.hosted or answer.background:
        return False
    if not answer.calls and not any(text.strip() for text in answer.texts):
        return False
    if surface is Surface.MESSAGES:
        return _is_whole_message(reply)
    return _is_whole_response(reply) if surface is Surface.RESPONSES else _is_one_choice(reply)


def _is_one_choice(reply: Json) -> bool:
    choices = reply.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return False
    message = choices[0].get("message")
    if type(message) is not dict:
        return True
    if message.get("refusal") or message.get("audio") is not None:
        return False
    calls = [call.get("function") for call in objects(message.get("tool_calls")) if "function" in call]
    calls += [message["function_call"]] if message.get("function_call") else []
    return all(type(call) is dict and _is_json(call.get("arguments")) for call in calls)


def _is_whole_message(reply: Json) -> bool:
    content = reply.get("content")
    return (
        type(content) is list
        and reply.get("container") is None
        and all(type(block) is dict and block.get("type") in _BLOCKS for block in content)
    )


def _is_whole_response(reply: Json) -> bool:
    output = reply.get("output")
    if type(output) is not list or reply.get("incomplete_details") is not None:
        return False
    for item in output:
        if type(item) is not dict or item.get("type") not in _OUTPUT:
            return False
        if item["type"] == "function_call" and not _is_json(item.get("arguments")):
            return False
        parts = objects(item.get("content")) if item["type"] == "message" else ()
        if any(part.get("type") == "refusal" for part in parts):
            return False
    return True


def _is_json(arguments: object) -> bool:
    """Whether arguments arrived whole; a call without any has an empty text."""
    if type(arguments) is not str:
        return False
    try:
        return not arguments.strip() or orjson.loads(arguments) is not None
    except orjson.JSONDecodeError:
        return False


class Recorder:
    """Makes a plain reply of the stream that a client receives."""

    __slots__ = ("_fold", "_size")

    def __init__(self, surface: Surface) -> None:
        self._fold: Fold | None = SHAPERS[surface].fold()
        self._size = 0

    def feed(self, events: bytes) -> None:
        """Whole events, as the client gets them."""
        self._size += len(events)
        if self._size > STREAM_BYTES:
            self._fold = None
        if self._fold is not None:
            self._fold.feed(events)

    def reply(self, usage: Mapping[str, Any] | None) -> Json | None:
        """What was told, as a plain reply; None when it was too much. `usage` is `AnswerStream.usage`, for
        a client that has not asked for it and so has not received it."""
        if self._fold is None:
            return None
        reply = self._fold.reply()
        told = usage.get("usage", usage) if usage is not None else None
        return {**reply, "usage": dict(told)} if isinstance(told, Mapping) and "usage" not in reply else reply


# -- given again --------------------------------------------------------------------------------------

_ALPHABETS = ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEF", "GHIJKLMNOPQRSTUVWXYZ")
_LIKE = {letter: alphabet for alphabet in _ALPHABETS for letter in alphabet}
"""By letter: what may stand in its place, so that hexadecimal stays hexadecimal."""
_LEAST_RANDOM = 12


def replayed(surface: Surface, reply: Json, request: Json, now_s: int) -> Json:
    """A kept reply as the answer to this request, to be told by `Said(reply=…)`.

    It has an id of its own, made now. So have its tool calls: by their ids a run is found again, and two that
    got the same answer must not become one. Ids of items on responses stay, since thoughts are encrypted
    for theirs. Usage stays as it was, for SDKs that count with it; nothing of it is billed here. `reply` is
    the caller's own, as `get` gives it, and may be changed.
    """
    if own := text_at(reply, "id"):
        reply["id"] = fresh_id(own)
    if surface in (Surface.CHAT, Surface.COMPLETIONS):
        reply["created"] = now_s
    if surface is Surface.RESPONSES:
        reply |= {name: request.get(name) for name in _ECHOED}
        reply["metadata"] = reply["metadata"] or {}
        reply |= {name: now_s for name in ("created_at", "completed_at") if name in reply}
    for call, name in _calls(surface, reply):
        if made := text_at(call, name):
            call[name] = fresh_id(made)
    return reply


def _calls(surface: Surface, reply: Json) -> Iterator[tuple[Json, str]]:
    """The tool calls of a reply, each with the name of its id."""
    if surface is Surface.CHAT:
        for choice in objects(reply.get("choices")):
            message = choice.get("message")
            for call in objects(message.get("tool_calls")) if type(message) is dict else ():
                yield call, "id"
    elif surface is Surface.MESSAGES:
        for block in objects(reply.get("content")):
            if block.get("type") == "tool_use":
                yield block, "id"
    elif surface is Surface.RESPONSES:
        for item in objects(reply.get("output")):
            yield item, "call_id"


def fresh_id(made: str) -> str:
    """Another id of the same form: prefix and length stay, since some providers check them. One that is too
    short to be the only one of its kind, or so long that it carries something, stays as it is."""
    start = max(made.find("_", 0, 12), made.find("-", 0, 12)) + 1
    letters = sum(1 for letter in made[start:] if letter in _LIKE)
    if not MIN_ID_CHARS <= len(made) <= MOST_ID_CHARS or letters < _LEAST_RANDOM:
        return made
    return made[:start] + "".join([secrets.choice(_LIKE.get(letter, letter)) for letter in made[start:]])


# -- other words --------------------------------------------------------------------------------------

Embed = Callable[[str], Awaitable[Sequence[float] | None]]
"""Makes the embedding of a text; None when it cannot be had. Raises nothing but `CancelledError`, and what
is to end the step."""

MAX_WORDING_CHARS = 4000
"""A longer text is a document; two of them may be near each other and ask for different things."""
MAX_DIMENSIONS = 8192
ROWS = 512
"""Wordings of one question that are compared."""
_SURFACES = frozenset((Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES))
_NEGATIONS = frozenset(
    (
        "no", "not", "never", "none", "without", "except", "unless", "cannot", "nor", "neither",
        "nicht", "kein", "keine", "ohne", "nie", "pas", "jamais", "sans", "sin", "nunca", "non", "senza",
    )
)  # fmt: skip
_EDGES = ".,;:!?\"'()[]{}<>"


@dataclass(slots=True)
class Wording:
    """What a user asks in the last message, and everything else that the request says."""

    text: str
    key: AnswerKey
    """Of the answer to just this request."""
    rest: str
    """The same for all requests that differ in the wording alone."""
    threshold: float
    ttl_s: float
    max_entries: int
    vector: NDArray[np.float32] | None = None


def anchors(text: str) -> list[str]:
    """The words that must be the same in two wordings, however near these are: embeddings hardly notice
    numbers, names with digits or signs in them, and negations."""
    found: list[str] = []
    for word in text.casefold().split():
        word = word.strip(_EDGES)
        if word in _NEGATIONS or word.endswith(("n't", "n’t")) or not (word.isalpha() or _is_joined(word)):
            found.append(word)
    return sorted(filter(None, found))


def _is_joined(word: str) -> bool:
    """Letters alone, but for a hyphen or an apostrophe between them."""
    return word.replace("-", "").replace("'", "").replace("’", "").isalpha()


class WordingCache:
    """Finds answers to what was asked before in other words. Texts alone: an answer that calls tools holds
    what the first asker named.

    Each owner has an index of its own for each rest of a request, and nothing is ever looked for in another:
    a threshold keeps no tenants apart.
    """

    def __init__(self, answers: AnswerCache, clock: Clock) -> None:
        self._answers = answers
        self._clock = clock
        self._indexes: OrderedDict[str, _Index] = OrderedDict()
        """By `Wording.rest`, the one used last at the end."""
        self._rows = 0

    def wording(
        self,
        step: Step,
        scopes: Scopes,
        rule: SemanticCache,
        *,
        policy: str,
        model: str,
        headers: Mapping[bytes, bytes] | None = None,
        withheld: Collection[str] = (),
    ) -> Wording | None:
        """What the step asks; None when it asks nothing in words, or its answer is not to be given again.
        Arguments as for `AnswerCache.key`."""
        last = step.items[-1] if step.items else None
        if step.surface not in _SURFACES or last is None or last.role is not Role.USER or not last.texts:
            return None
        asked = last.texts[-1]
        if last.aside or not asked.text.strip() or len(asked.text) > MAX_WORDING_CHARS:
            return None
        given = (headers, withheld)
        name = self._answers.name_of("semantic", step, scopes, rule, (policy, model), *given)
        other = replace(step, body=with_texts(step.body, {asked.pointer: ""}))
        about = (policy, model, rule.model, *anchors(asked.text))
        rest = self._answers.name_of("wordings", other, scopes, rule, about, *given)
        if name is None or rest is None:
            return None
        return Wording(
            asked.text,
            AnswerKey(name, step.surface, model),
            rest,
            rule.threshold,
            rule.ttl_s,
            rule.max_entries,
        )

    async def find(self, wording: Wording, embed: Embed) -> Json | None:
        """The answer to the nearest wording that is near enough."""
        if (reply := await self._answers.get(wording.key)) is not None:
            return reply
        index = self._indexes.get(wording.rest)
        if index is None:
            return None
        self._indexes.move_to_end(wording.rest)
        vector = await self._vector(wording, embed)
        if vector is None:
            return None
        nearest = index.nearest(vector, wording.threshold, self._clock())
        return None if nearest is None else await self._answers.get(nearest)

    async def put(self, wording: Wording, told: Told, embed: Embed) -> bool:
        """Keep an answer, if it is fit to be given again, and the wording that it answers."""
        if CODECS[wording.key.surface].read_answer(told.reply).calls:
            return False
        if not await self._answers.put(wording.key, told, wording.ttl_s):
            return False
        vector = await self._vector(wording, embed)
        if vector is None:
            return True
        index = self._indexes.get(wording.rest)
        if index is None or index.dimensions != len(vector):
            self._drop(wording.rest)
            index = self._indexes[wording.rest] = _Index(len(vector), min(ROWS, wording.max_entries))
        self._indexes.move_to_end(wording.rest)
        self._rows += index.add(vector, wording.key, self._clock() + int(wording.ttl_s * 1000))
        while self._rows > wording.max_entries and len(self._indexes) > 1:
            self._drop(next(iter(self._indexes)))
        return True

    def _drop(self, rest: str) -> None:
        index = self._indexes.pop(rest, None)
        if index is not None:
            self._rows -= len(index)

    @staticmethod
    async def _vector(wording: Wording, embed: Embed) -> NDArray[np.float32] | None:
        if wording.vector is None:
            given = await embed(wording.text)
            wording.vector = None if given is None else _unit(given)
        return wording.vector


class _Index:
    """Wordings of one question as unit vectors; the newest take the place of the oldest."""

    __slots__ = ("_keys", "_most", "_next", "_until", "_vectors", "dimensions")

    def __init__(self, dimensions: int, most: int) -> None:
        self.dimensions = dimensions
        self._most = most
        self._next = 0
        self._vectors = np.zeros((min(most, 8), dimensions), np.float32)
        self._keys: list[AnswerKey] = []
        self._until: list[Millis] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, vector: NDArray[np.float32], key: AnswerKey, until: Millis) -> int:
        """How many rows there are more."""
        if key in self._keys:
            at = self._keys.index(key)
        elif len(self._keys) < self._most:
            at = len(self._keys)
            if at == len(self._vectors):
                more = np.zeros((min(at, self._most - at), self.dimensions), np.float32)
                self._vectors = np.concatenate((self._vectors, more))
            self._keys.append(key)
            self._until.append(until)
            self._vectors[at] = vector
            return 1
        else:
            at, self._next = self._next, (self._next + 1) % self._most
        self._vectors[at], self._keys[at], self._until[at] = vector, key, until
        return 0

    def nearest(self, vector: NDArray[np.float32], threshold: float, now: Millis) -> AnswerKey | None:
        """The key of the nearest wording whose time is not over."""
        if len(vector) != self.dimensions:
            return None
        # `@` would wake the threads of BLAS, and the event loop would wait for cores that others use.
        cosines = np.einsum("ij,j->i", self._vectors[: len(self._keys)], vector)
        cosines[np.asarray(self._until, np.int64) <= now] = -1.0
        at = int(np.argmax(cosines))
        # As exact as single precision is.
        return self._keys[at] if cosines[at] >= threshold - 1e-6 else None


def _unit(given: Sequence[float]) -> NDArray[np.float32] | None:
    """An embedding with the length 1; None for what is none."""
    try:
        vector = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if vector.ndim != 1 or not 0 < len(vector) <= MAX_DIMENSIONS or not np.isfinite(vector).all():
        return None
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(vector))
    return (vector / length).astype(np.float32) if 0 < length < float("inf") else None
