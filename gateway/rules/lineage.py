"""Which conversation is this? Keys that tie a request to what was answered before.

Agents send no run id. What they do send back is the conversation: the ids of tool calls that the model made
(byte for byte, in every framework), and the messages themselves (reordered keys, re-serialised arguments,
`null` or `""`, but the same content). Both become index keys here: HMACs under the gateway's secret that
include the principal, so that they can neither be guessed nor reach another principal's run.

Content is matched as a hash chain over the conversation without its system text (which carries clocks and
nonces), and only at places after an assistant's turn: a prefix of system and user text alone is never
evidence, since every run of an agent begins with it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

import orjson

from gateway.admission import Evidence
from gateway.domain import Answer, Item, Role, RunSource, Step, Text, ToolCall
from gateway.values import frozen

MIN_ID_CHARS = 16
"""Shorter tool-call ids (`call_0`) are reused by some servers and tell nothing."""
MAX_EVIDENCE = 16
"""How many ids, nodes and pairs are looked up, newest first: enough to survive any undo in practice."""
MIN_TASK_CHARS = 24
"""A text shorter than this is passed on by many."""
_MAX_TASK_CHARS = 20_000
_MAX_TASKS = 4
MIN_PAIR_CHARS = 40
_MAX_LINKED_PAIRS = 8
_MAX_LINKED_STATE = 2
"""The response and its conversation; nobody goes on from an item."""
_REMEMBERED = 32_768
"""Texts whose digests are remembered: some 6 MB."""
_COARSE_CHARS = 256
_VOLATILE_WORD = re.compile(r"\S*\d\S*")
_VOLATILE_BLOCK = "x-anthropic-billing-header"
_CODE_RUN = re.compile(
    r"Calling tools:\n\[\{'id': 'call_\d{1,6}', 'type': 'function', "
    r"'function': \{'name': 'python_interpreter', 'arguments': "
)
"""What smolagents puts after the text of a model that writes code, which the model never said."""
_MAX_CLOSING = 34
_DIGEST = 16


@frozen
class Chain:
    """The conversation of one request, hashed once.

    `nodes[i]` is the key of the conversation up to and including item i of `items`.
    """

    scope: bytes
    items: tuple[Item, ...]
    digests: tuple[bytes, ...]
    nodes: tuple[str, ...]
    root: bytes


class Lineage:
    """Makes index keys for one gateway. `secret` is the HMAC key: at most 64 bytes are used."""

    __slots__ = ("_known", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = hashlib.blake2b(secret, digest_size=32, person=b"gw-lineage").digest()
        self._known: dict[tuple[int, int, int], bytes] = {}

    def key(self, scope: str, kind: str, value: str) -> str:
        """The index key of a value of one kind inside a scope, usually a principal."""
        h = hashlib.blake2b(key=self._secret, digest_size=_DIGEST)
        h.update(f"{kind}\0{scope}\0{value}".encode("utf-8", "surrogatepass"))
        return h.hexdigest()

    def state_key(self, principal: str, provider_id: str) -> str:
        """The key of something that a provider keeps for this principal."""
        return self.key(principal, "state", provider_id)

    def retry_key(self, asker: str, step: Step, chain: Chain) -> str:
        """The key under which a repetition of this step is recognised: the same asker, the same conversation.

        What is asked counts, not how: after a failure Claude Code asks again without a stream, and Codex
        writes the same request in another order. Instructions count, which a chain leaves out. Ids that the
        provider gave count, since they keep apart agents whose conversations are equal otherwise. Without a
        conversation the bytes are all there is.
        """
        if not chain.nodes:
            asked = [step.raw]
        else:
            ids = [*step.state, *step.references, *_given_ids(chain.items)]
            texts = [*ids, *_instructions(step.items)]
            asked = [chain.nodes[-1].encode(), *[text.encode("utf-8", "surrogatepass") for text in texts]]
        scope = asker.encode("utf-8", "surrogatepass")
        return self._hash(b"retry", scope, step.surface.value.encode(), *asked).hex()

    def chain(self, scope: str, items: Sequence[Item]) -> Chain:
        """Hash a conversation. System items are left out, but for a coarse digest of the leading ones, and so
        is what clients do not always send back."""
        spoken = tuple(item for item in items if item.role is not Role.SYSTEM and not item.aside)
        root = self._hash(b"root", scope.encode(), coarse_system(items))
        digests: list[bytes] = []
        nodes: list[str] = []
        node = root
        for item in spoken:
            digest = self._digest(item)
            node = self._node(node, digest)
            digests.append(digest)
            nodes.append(node.hex())
        return Chain(root, spoken, tuple(digests), tuple(nodes), root)

    def _digest(self, item: Item) -> bytes:
        """Most of a request is what its predecessor brought, so digests of texts are remembered: by the
        interpreter's own keyed hash, since no text is to stay in memory."""
        if len(item.texts) != 1 or item.calls or item.media:
            return self._hash(b"item", canonical(item))
        text = item.texts[0].text
        key = (id(item.role), len(text), hash(text))
        digest = self._known.get(key)
        if digest is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            digest = self._known[key] = self._hash(b"item", canonical(item))
        return digest

    def _node(self, before: bytes, digest: bytes) -> bytes:
        # As `_hash` frames them, in half of the time: a long history has hundreds.
        framed = b"16:%b16:%b" % (before, digest)
        return hashlib.blake2b(framed, key=self._secret, digest_size=_DIGEST).digest()

    def _hash(self, *parts: bytes) -> bytes:
        framed = b"".join([b"%d:%b" % (len(part), part) for part in parts])
        return hashlib.blake2b(framed, key=self._secret, digest_size=_DIGEST).digest()

    def evidence(self, principal: str, chain: Chain, state: Sequence[str] = ()) -> tuple[Evidence, ...]:
        """What might tie this request to a known run, strongest first.

        `state` are ids under which the provider keeps what was said; the items are then what is new.
        Else the place nearest to the conversation's end wins; at the same place a tool-call id beats content.
        Pairs of neighbouring items come last: they survive a truncated or summarised history.
        """
        anchored: list[Evidence] = []
        if state:
            speaks = any(item.role is Role.USER for item in chain.items)
            anchored = [Evidence(self.state_key(principal, i), RunSource.SERVER_STATE, speaks) for i in state]
        tails: list[Evidence] = []
        seen: set[str] = set()
        ids = nodes = 0
        then_user = False
        for i in range(len(chain.items) - 1, -1, -1):
            item = chain.items[i]
            for call_id in _emitted_ids(item):
                if call_id not in seen and ids < MAX_EVIDENCE:
                    seen.add(call_id)
                    ids += 1
                    anchored.append(
                        Evidence(self.key(principal, "call", call_id), RunSource.EMITTED_ID, then_user)
                    )
            if item.role is Role.ASSISTANT and nodes < MAX_EVIDENCE:
                nodes += 1
                anchored.append(Evidence(chain.nodes[i], RunSource.LINEAGE, then_user))
            if i and len(tails) < MAX_EVIDENCE and (pair := self._pair(chain, i)) is not None:
                tails.append(Evidence(pair, RunSource.TAIL, then_user))
            if min(ids, nodes, len(tails)) >= MAX_EVIDENCE:
                break
            then_user = then_user or item.role is Role.USER
        return (*anchored, *tails)

    def _pair(self, chain: Chain, i: int) -> str | None:
        """Key of items i-1 and i, if together they are distinctive."""
        return self._pair_key(
            chain.root, chain.items[i - 1], chain.digests[i - 1], chain.items[i], chain.digests[i]
        )

    def _pair_key(self, root: bytes, a: Item, da: bytes, b: Item, db: bytes) -> str | None:
        if a.role is Role.USER and b.role is Role.USER:
            return None
        if _weight(a) + _weight(b) < MIN_PAIR_CHARS:
            return None
        return self._hash(b"pair", root, da, db).hex()

    def links(
        self, principal: str, chain: Chain, answer: Answer, *, whole: bool = True
    ) -> tuple[tuple[str, ...], str]:
        """Keys that lead from the next request to this run, and the conversation's new head.

        One node per choice, since the client goes on from only one of them; what is hashed is what the
        client received. An answer that broke off is no head: its client may as well ask again.
        """
        keys = [self.key(principal, "call", call.id) for call in answer.calls if len(call.id) >= MIN_ID_CHARS]
        last = bytes.fromhex(chain.nodes[-1]) if chain.nodes else chain.root
        head = ""
        keys += [self.state_key(principal, provider_id) for provider_id in answer.state[:_MAX_LINKED_STATE]]
        for reply in _replies(answer, whole):
            digest = self._hash(b"item", canonical(reply))
            node = self._node(last, digest).hex()
            if whole:
                head = head or node
            keys.append(node)
            if chain.items and (
                pair := self._pair_key(chain.root, chain.items[-1], chain.digests[-1], reply, digest)
            ):
                keys.append(pair)
        for i in range(len(chain.items) - 1, max(0, len(chain.items) - _MAX_LINKED_PAIRS), -1):
            if (pair := self._pair(chain, i)) is not None:
                keys.append(pair)
            if chain.items[i - 1].role is Role.ASSISTANT:
                break
        return tuple(dict.fromkeys(keys)), head

    def tasks_given(self, principal: str, calls: Sequence[ToolCall]) -> tuple[str, ...]:
        """Keys of what calls tell their tools in words. An agent behind a tool will begin with them."""
        keys: dict[str, None] = {}
        for call in calls:
            for text in _words(call.arguments):
                if len(keys) < _MAX_TASKS:
                    keys[self._task(principal, text)] = None
        return tuple(keys)

    def tasks_taken(self, principal: str, chain: Chain) -> tuple[str, ...]:
        """Keys of what a run is told to do, when this is its first step; none later."""
        if any(item.role is not Role.USER for item in chain.items):
            return ()
        texts = [text.text for item in chain.items for text in item.texts]
        return tuple(self._task(principal, text) for text in texts[:_MAX_TASKS] if _is_task(text))

    def _task(self, principal: str, text: str) -> str:
        return self.key(principal, "task", " ".join(text.split()))


def _words(arguments: str) -> Iterator[str]:
    """The texts in a call's arguments that are long enough to tell a task from others."""
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        parsed = arguments
    stack = [parsed]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if _is_task(value):
                yield value
        elif isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _is_task(text: str) -> bool:
    return MIN_TASK_CHARS <= len(text) <= _MAX_TASK_CHARS and " " in text.strip()


def _emitted_ids(item: Item) -> Iterator[str]:
    if item.call_id is not None and len(item.call_id) >= MIN_ID_CHARS:
        yield item.call_id
    for call in item.calls:
        if len(call.id) >= MIN_ID_CHARS:
            yield call.id


def _given_ids(items: Sequence[Item]) -> Iterator[str]:
    """Every id of a tool call in a conversation, short ones too."""
    for item in items:
        if item.call_id is not None:
            yield item.call_id
        for call in item.calls:
            yield call.id


def _replies(answer: Answer, whole: bool) -> Iterator[Item]:
    """The assistant items that a client may send back: one per choice, or the calls with the first text,
    also told as text."""
    if answer.calls or len(answer.texts) <= 1:
        text = answer.texts[0] if answer.texts else ""
        if not whole:
            # A client drops the call in which an answer broke off, and keeps the text before it.
            if text and answer.calls:
                yield _assistant(text, ())
            if not (text or answer.calls):
                return
        yield _assistant(text, answer.calls)
        if answer.calls and all(call.id for call in answer.calls):
            yield _assistant(f"{text.strip()}\n{calls_as_text(answer.calls)}", ())
        return
    for text in answer.texts:
        yield _assistant(text, ())


def _assistant(text: str, calls: tuple[ToolCall, ...]) -> Item:
    return Item(Role.ASSISTANT, texts=(Text(text, ()),) if text else (), calls=calls)


def calls_as_text(calls: Sequence[ToolCall]) -> str:
    """Tool calls as smolagents tells the model of them: in the assistant's text, as Python writes them."""
    shown = []
    for call in calls:
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            arguments = call.arguments
        function = {"name": call.name, "arguments": arguments}
        shown.append({"id": call.id, "type": "function", "function": function})
    return f"Calling tools:\n{shown}"


def _weight(item: Item) -> int:
    return sum(len(t.text) for t in item.texts) + sum(len(c.name) + len(c.arguments) for c in item.calls)


def canonical(item: Item) -> bytes:
    """The item with everything left out that clients are known to change when they send it back.

    Adjacent texts are joined, so that a string and a list of parts are the same; a call is its name and
    its arguments as canonical JSON; its id is left out, since servers that reuse ids exist.
    """
    parts: list[bytes] = [item.role.value.encode()]
    if item.texts:
        text = item.texts[0].text if len(item.texts) == 1 else "".join(t.text for t in item.texts)
        parts.append(b"t:" + normal(said(text) if item.role is Role.ASSISTANT else text))
    for media in item.media:
        parts.append(b"m:" + media.digest.encode())
    for call in item.calls:
        parts.append(b"c:" + call.name.encode("utf-8", "replace") + b"\0" + canonical_json(call.arguments))
    return b"\x1e".join(parts)


def normal(text: str) -> bytes:
    """NFC, one kind of line end, no white space at either end."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip().encode("utf-8", "surrogatepass")


def said(text: str) -> str:
    """An assistant's text without what clients that run code add to it: an account of the run, and the
    closing tag or fence at which the provider stopped, since a stop sequence is no part of an answer."""
    if "Calling tools:" in text and (added := _CODE_RUN.search(text)):
        text = text[: added.start()]
    text = text.rstrip()
    if text.endswith("```"):
        return text[:-3]
    if text.endswith(">"):
        start = text.rfind("</", -_MAX_CLOSING)
        if start >= 0 and text[start + 2 : -1].isidentifier():
            return text[:start]
    return text


def canonical_json(text: str) -> bytes:
    """Arguments with sorted keys and no white space; text that is not JSON stays as it is."""
    return _short_json(text) if len(text) <= _SHORT_JSON_CHARS else _sorted_json(text)


def _sorted_json(text: str) -> bytes:
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, TypeError):
        return normal(text)


_SHORT_JSON_CHARS = 1024
_short_json = lru_cache(maxsize=4096)(_sorted_json)


def _instructions(items: Sequence[Item]) -> list[str]:
    """What the system and the developer say, but for what changes with each request."""
    return [
        text.text
        for item in items
        if item.role is Role.SYSTEM and not item.aside
        for text in item.texts
        if not text.text.startswith(_VOLATILE_BLOCK)
    ]


def coarse_system(items: Sequence[Item]) -> bytes:
    """What stays the same of a system prompt over a run: its first words that hold no digit.

    It only keeps apart agents whose whole conversation is equal otherwise; clocks, versions and nonces
    must not change it.
    """
    for item in items:
        if item.aside:
            continue
        if item.role is not Role.SYSTEM:
            break
        text = "".join(t.text for t in item.texts)
        if text.startswith(_VOLATILE_BLOCK):
            continue
        return _steady_words(text[: 4 * _COARSE_CHARS])
    return b""


@lru_cache(maxsize=512)
def _steady_words(text: str) -> bytes:
    """The words without a digit. Agents send the same prompt with every step, so it is worth remembering."""
    words = _VOLATILE_WORD.sub("", text).split()
    return " ".join(words)[:_COARSE_CHARS].encode("utf-8", "surrogatepass")
