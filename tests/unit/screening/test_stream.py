"""Answers screened on their way: nothing too early, every copy alike, quiet streams as they came."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Json, Surface
from gateway.screening import stream as module
from gateway.screening.base import Finding
from gateway.screening.spots import Kind
from gateway.screening.stream import VAULT, Edit, Escapes, StreamScreen, edited_text, fitted, screened
from gateway.screening.vault import LONGEST, Vault
from gateway.screening.window import hold_values
from gateway.shaping import SHAPERS
from gateway.shaping.base import parsed, whole_events
from gateway.surfaces import CODECS
from gateway.surfaces.sse import EventTooLargeError
from tests.support.effort import Effort

CANARY = "ЖЖЖЖ-1234"
BEFORE, AFTER = 'Well, it "is" ', ' indeed.\nGood\\bye "then".'
TEXT = BEFORE + CANARY + AFTER
GONE = BEFORE + "[GONE]" + AFTER


class BlockedError(Exception):
    pass


class Rules:
    """Looks for canaries, and stand-ins of a vault."""

    longest = LONGEST

    def __init__(
        self,
        action: str = "redact",
        *,
        vault: Vault | None = None,
        whole: bool = False,
        pattern: str = "Ж{4}-[0-9]{4}",
    ) -> None:
        self.action = action
        self.vault = vault
        self.whole = whole
        self.pattern = re.compile(pattern)
        self.told: list[tuple[str, int, int, Kind, str]] = []
        self.asked: list[tuple[str, bool]] = []

    def scan(self, text: str, kind: Kind, tool: str) -> Sequence[Finding]:
        found = [Finding("test", "GONE", m.start(), m.end(), 1.0) for m in self.pattern.finditer(text)]
        if self.vault is not None:
            found += [Finding(VAULT, "X", a, b, 1.0) for a, b in self.vault.spans(text)]
        return found

    def found(self, findings: Sequence[Finding], kind: Kind, tool: str) -> None:
        assert findings
        self.told += [(f.type, f.start, f.end, kind, tool) for f in findings]
        if self.action == "block" and any(f.detector != VAULT for f in findings):
            raise BlockedError

    def replacement(self, finding: Finding, value: str, kind: Kind, tool: str, *, json: bool) -> str | None:
        self.asked.append((value, json))
        if finding.detector == VAULT and self.vault is not None:
            return self.vault.restore(value, json=json)
        return None if self.action == "leave" else f"[{finding.type}]"

    def hold(self, text: str) -> int:
        return hold_values(text)


# -- streams of every shape ---------------------------------------------------------------------------


def event(message: Json, *, named: bool = True) -> bytes:
    data = orjson.dumps(message)
    return b"event: %b\ndata: %b\n\n" % (message["type"].encode(), data) if named else b"data: %b\n\n" % data


def chunk(delta: Json, choice: int = 0, finish: str | None = None, **more: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    told = {"index": choice, "delta": delta, **more, "finish_reason": finish}
    return event({**head, "choices": [told]}, named=False)


DONE = b"data: [DONE]\n\n"


def chat(delta: Callable[[str], Json], **begun: Any) -> Callable[[Sequence[str]], list[bytes]]:
    def build(pieces: Sequence[str]) -> list[bytes]:
        first = [chunk({"role": "assistant", **begun})]
        return [*first, *[chunk(delta(piece)) for piece in pieces], chunk({}, finish="stop"), DONE]

    return build


def arguments(kind: str, field: str) -> Callable[[Sequence[str]], list[bytes]]:
    """A call whose arguments come in pieces, behind a word of text."""

    def build(pieces: Sequence[str]) -> list[bytes]:
        first = {"index": 0, "id": "call_1", "type": kind, kind: {"name": "send", field: ""}}
        more = [chunk({"tool_calls": [{"index": 0, kind: {field: piece}}]}) for piece in pieces]
        return [
            chunk({"role": "assistant", "content": "Sending."}),
            chunk({"tool_calls": [first]}),
            *more,
            chunk({}, finish="tool_calls"),
            DONE,
        ]

    return build


def interleaved(pieces: Sequence[str]) -> list[bytes]:
    """Three choices word by word, the text in the second."""
    other = ["Nothing", "of", "note", "is", "in", "this", "one,", "as", "far", "as", "anybody", "knows."]
    events = [chunk({"role": "assistant", "content": ""}, i) for i in range(3)]
    for i in range(max(len(pieces), len(other))):
        for choice, told in ((0, other), (1, pieces), (2, other)):
            if i < len(told):
                events.append(chunk({"content": told[i] + ("" if choice == 1 else " ")}, choice))
    return [*events, *[chunk({}, i, "stop") for i in (2, 0, 1)], DONE]


def with_logprobs(pieces: Sequence[str]) -> list[bytes]:
    def told(piece: str) -> Json:
        return {"content": [{"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}]}

    events = [chunk({"content": piece}, logprobs=told(piece)) for piece in pieces]
    return [chunk({"role": "assistant"}), *events, chunk({}, finish="stop", logprobs=None), DONE]


def twice_thought(pieces: Sequence[str]) -> list[bytes]:
    """Thoughts under two names, as OpenRouter tells them, and an answer behind."""
    events = []
    for piece in pieces:
        detail = {"type": "reasoning.text", "text": piece, "format": "unknown", "index": 0}
        events.append(chunk({"content": "", "reasoning": piece, "reasoning_details": [detail]}))
    return [*events, chunk({"content": "Yes."}), chunk({}, finish="stop"), DONE]


def completion(pieces: Sequence[str]) -> list[bytes]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    choices = [{"text": piece, "index": 0, "logprobs": None, "finish_reason": None} for piece in pieces]
    choices.append({"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"})
    return [*[event({**head, "choices": [choice]}, named=False) for choice in choices], DONE]


def message(blocks: Iterable[tuple[Json, Iterable[Json]]]) -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    begun = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    events: list[Json] = [
        {"type": "message_start", "message": {**begun, "stop_reason": None, "usage": usage}}
    ]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 9}})
    return [event(one) for one in (*events, {"type": "message_stop"})]


def text_block(pieces: Sequence[str]) -> tuple[Json, list[Json]]:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]


def said(pieces: Sequence[str]) -> list[bytes]:
    return message([text_block(pieces)])


def said_in_blocks(pieces: Sequence[str]) -> list[bytes]:
    """Each piece in a block of its own, as citations cut them."""
    return message([text_block([piece]) for piece in pieces])


def thought(pieces: Sequence[str]) -> list[bytes]:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    return message([({"type": "thinking", "thinking": ""}, deltas), text_block(["Yes."])])


def tool_use(pieces: Sequence[str]) -> list[bytes]:
    block = {"type": "tool_use", "id": "toolu_1", "name": "send", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    return message([text_block(["Sending."]), (block, deltas)])


def responses(items: Iterable[tuple[Json, Json, list[Json]]]) -> list[bytes]:
    """Items, each as it begins, as it is in the end, and the events between."""
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "tools": []}
    begun = {**response, "instructions": f"Say {CANARY}.", "status": "in_progress", "output": []}
    events: list[Json] = [
        {"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")
    ]
    output = []
    for place, (added, done, between) in enumerate(items):
        events.append({"type": "response.output_item.added", "output_index": place, "item": added})
        events += [{**one, "output_index": place} for one in between]
        events.append({"type": "response.output_item.done", "output_index": place, "item": done})
        output.append(done)
    ended = {**response, "status": "completed", "output": output, "usage": None}
    events.append({"type": "response.completed", "response": ended})
    return [event({**one, "sequence_number": number}) for number, one in enumerate(events)]


def parts(
    kind: str, part_type: str, field: str, stem: str, index: str = "content_index", holder: str = "content"
) -> Callable[[Sequence[str]], list[bytes]]:
    """A text in its five copies."""

    def build(pieces: Sequence[str]) -> list[bytes]:
        text = "".join(pieces)
        here = {"item_id": "item_1", index: 0}
        part = {"type": part_type, field: text}
        empty = {"type": part_type, field: ""}
        part_stem = "content_part" if holder == "content" else "reasoning_summary_part"
        between: list[Json] = [{"type": f"response.{part_stem}.added", **here, "part": empty}]
        between += [{"type": f"response.{stem}.delta", **here, "delta": piece} for piece in pieces]
        between.append({"type": f"response.{stem}.done", **here, field: text})
        between.append({"type": f"response.{part_stem}.done", **here, "part": part})
        item = {"id": "item_1", "type": kind, "role": "assistant"}
        return responses([({**item, holder: []}, {**item, holder: [part]}, between)])

    return build


def called(kind: str, field: str, stem: str) -> Callable[[Sequence[str]], list[bytes]]:
    def build(pieces: Sequence[str]) -> list[bytes]:
        text = "".join(pieces)
        item = {"id": "item_1", "type": kind, "call_id": "call_1", "name": "send", "status": "completed"}
        between = [{"type": f"response.{stem}.delta", "item_id": "item_1", "delta": p} for p in pieces]
        between.append({"type": f"response.{stem}.done", "item_id": "item_1", field: text})
        return responses([({**item, field: ""}, {**item, field: text}, between)])

    return build


def shell(pieces: Sequence[str]) -> list[bytes]:
    text = "".join(pieces)
    stem = "response.shell_call_command"
    item = {"id": "item_1", "type": "shell_call", "call_id": "call_1", "status": "completed"}
    between = [{"type": f"{stem}.added", "command_index": 0, "command": ""}]
    between += [{"type": f"{stem}.delta", "command_index": 0, "delta": piece} for piece in pieces]
    between.append({"type": f"{stem}.done", "command_index": 0, "command": text})
    done = {**item, "action": {"commands": [text], "timeout_ms": None}}
    return responses([({**item, "action": {"commands": []}}, done, between)])


def written(text: str) -> str:
    """A call's arguments that hold a text."""
    return orjson.dumps({"to": "a", "body": text, "n": [1, None]}).decode()


def escaped(text: str) -> str:
    """The same with escapes for all that is not ASCII."""
    return '{"to": "a", "body": "' + "".join(f"\\u{ord(c):04x}" for c in text) + '"}'


Build = Callable[[Sequence[str]], list[bytes]]
TEXTS: dict[str, tuple[Surface, Build]] = {
    "chat": (Surface.CHAT, chat(lambda piece: {"content": piece}, content="")),
    "chat-refusal": (Surface.CHAT, chat(lambda piece: {"refusal": piece})),
    "chat-reasoning": (Surface.CHAT, chat(lambda piece: {"reasoning_content": piece, "content": None})),
    "chat-reasoning-twice": (Surface.CHAT, twice_thought),
    "chat-logprobs": (Surface.CHAT, with_logprobs),
    "chat-n3": (Surface.CHAT, interleaved),
    "chat-audio": (Surface.CHAT, chat(lambda piece: {"audio": {"transcript": piece}})),
    "chat-parts": (Surface.CHAT, chat(lambda piece: {"content": [{"type": "text", "text": piece}]})),
    "chat-unknown": (Surface.CHAT, chat(lambda piece: {"monologue": {"inner": piece}})),
    "chat-custom": (Surface.CHAT, arguments("custom", "input")),
    "completions": (Surface.COMPLETIONS, completion),
    "messages": (Surface.MESSAGES, said),
    "messages-blocks": (Surface.MESSAGES, said_in_blocks),
    "messages-thinking": (Surface.MESSAGES, thought),
    "responses": (Surface.RESPONSES, parts("message", "output_text", "text", "output_text")),
    "responses-refusal": (Surface.RESPONSES, parts("message", "refusal", "refusal", "refusal")),
    "responses-reasoning": (
        Surface.RESPONSES,
        parts("reasoning", "reasoning_text", "text", "reasoning_text"),
    ),
    "responses-summary": (
        Surface.RESPONSES,
        parts("reasoning", "summary_text", "text", "reasoning_summary_text", "summary_index", "summary"),
    ),
    "responses-custom": (Surface.RESPONSES, called("custom_tool_call", "input", "custom_tool_call_input")),
    "responses-code": (
        Surface.RESPONSES,
        called("code_interpreter_call", "code", "code_interpreter_call_code"),
    ),
    "responses-shell": (Surface.RESPONSES, shell),
}
CALLS: dict[str, tuple[Surface, Build]] = {
    "chat-call": (Surface.CHAT, arguments("function", "arguments")),
    "chat-legacy": (
        Surface.CHAT,
        chat(
            lambda piece: {"function_call": {"arguments": piece}},
            function_call={"name": "send", "arguments": ""},
        ),
    ),
    "messages-call": (Surface.MESSAGES, tool_use),
    "responses-call": (Surface.RESPONSES, called("function_call", "arguments", "function_call_arguments")),
    "responses-mcp": (Surface.RESPONSES, called("mcp_call", "arguments", "mcp_call_arguments")),
}
SHAPES = {**TEXTS, **CALLS}


def content(name: str, text: str) -> str:
    return written(text) if name in CALLS else text


def cuts(text: str) -> Iterable[list[str]]:
    """The text in two pieces, cut anywhere; in pieces of several sizes; whole."""
    yield [text]
    for cut in range(1, len(text)):
        yield [text[:cut], text[cut:]]
    for size in (1, 2, 3, 7):
        yield [text[i : i + size] for i in range(0, len(text), size)]


def run(surface: Surface, events: Iterable[bytes], rules: Rules, *, end: bool = True) -> tuple[bytes, bool]:
    """What leaves, and whether it was blocked."""
    screen = StreamScreen(surface, rules)
    out = []
    try:
        for one in events:
            out.append(screen.feed(one))
        if end:
            out.append(screen.end())
    except BlockedError:
        assert screen.end() == screen.feed(DONE) == b""
        return b"".join(out), True
    return b"".join(out), False


def folded(surface: Surface, out: bytes) -> Json:
    fold = SHAPERS[surface].fold()
    for one in whole_events(out):
        fold.feed(one)
    return fold.reply()


def heard(reply: Json) -> Json:
    """A reply without its tokens, parts and blocks of text joined."""
    choices = []
    for choice in reply.get("choices", ()):
        told = dict(choice.get("message") or {})
        if type(told.get("content")) is list:
            told["content"] = "".join(part["text"] for part in told["content"])
        choices.append({**choice, "message": told, "logprobs": None})
    joined: list[Json] = []
    for block in reply.get("content", ()):
        if joined and block["type"] == joined[-1]["type"] == "text":
            joined[-1] = {**block, "text": joined[-1]["text"] + block["text"]}
        else:
            joined.append(block)
    return {**reply, "choices": choices, "content": joined}


def leaves(value: Any) -> str:
    """Everything but what a response repeats of its request."""
    if type(value) is dict:
        return " ".join(leaves(inner) for name, inner in value.items() if name != "instructions")
    if type(value) is list:
        return " ".join(leaves(inner) for inner in value)
    return value if type(value) is str else ""


def told(out: bytes) -> str:
    """All texts of a stream, wherever they stand; fails where it is none."""
    texts = []
    for one in whole_events(out):
        if not one.startswith((b":", b"data: [DONE]")):
            found = parsed(one)
            assert found is not None, one
            texts.append(leaves(found))
    return " ".join(texts)


# -- blocking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_not_one_byte_of_a_canary_leaves_wherever_it_is_cut(name: str) -> None:
    surface, build = SHAPES[name]
    for pieces in cuts(content(name, TEXT)):
        out, blocked = run(surface, build(pieces), Rules("block"))
        assert blocked
        assert "Ж" not in told(out)


@pytest.mark.parametrize("name", CALLS)
def test_escapes_in_arguments_hide_nothing(name: str) -> None:
    surface, build = SHAPES[name]
    for pieces in cuts(escaped(CANARY)):
        out, blocked = run(surface, build(pieces), Rules("block"))
        assert blocked
        assert "\\u04" not in told(out)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_a_cut_text_gives_the_findings_of_the_whole(name: str, whole: bool) -> None:
    surface, build = SHAPES[name]
    text = content(name, TEXT)
    expected = Rules("leave")
    run(surface, build([text]), expected)
    assert expected.told
    assert all(told[1:3] == expected.told[0][1:3] for told in expected.told)
    for pieces in cuts(text):
        rules = Rules("leave", whole=whole)
        out, _ = run(surface, build(pieces), rules)
        assert rules.told == expected.told
        assert out == b"".join(build(pieces))


def test_the_tool_of_a_call_is_told() -> None:
    for name in (*CALLS, "chat-custom", "responses-custom"):
        rules = Rules("leave")
        surface, build = SHAPES[name]
        run(surface, build([content(name, TEXT)]), rules)
        assert {(kind, tool) for *_, kind, tool in rules.told} == {("arguments", "send")}


def test_a_canary_over_alternating_thoughts_and_words_does_not_leave() -> None:
    events = []
    for char in TEXT:
        events += [chunk({"reasoning": char}), chunk({"content": "And so on and on. "})]
    out, blocked = run(Surface.CHAT, events, Rules("block"))
    assert blocked
    assert "Ж" not in told(out)


# -- editing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_redaction_is_alike_in_all_copies(name: str) -> None:
    surface, build = SHAPES[name]
    want = folded(surface, b"".join(build([content(name, GONE)])))
    for pieces in cuts(content(name, TEXT)):
        out, _ = run(surface, build(pieces), Rules())
        assert "Ж" not in told(out)
        reply = folded(surface, out)
        assert heard(reply) == heard(want)


@pytest.mark.parametrize("name", SHAPES)
def test_plain_replies_are_edited_like_streams(name: str) -> None:
    surface, build = SHAPES[name]
    reply = folded(surface, b"".join(build([content(name, TEXT)])))
    before = orjson.dumps(reply)
    edited = screened(surface, reply, Rules())
    assert edited is not None
    assert heard(edited) == heard(folded(surface, b"".join(build([content(name, GONE)]))))
    assert orjson.dumps(reply) == before
    assert screened(surface, reply, Rules("leave")) is None
    with pytest.raises(BlockedError):
        screened(surface, reply, Rules("block"))


@pytest.mark.parametrize("name", SHAPES)
def test_stand_ins_are_restored_wherever_they_are_cut(name: str) -> None:
    surface, build = SHAPES[name]
    vault = Vault(b"k" * 16, "session")
    values = (("PERSON", 'Ann "A" O\\N\nil'), ("EMAIL_ADDRESS", "ann@example.com"))
    hidden = "Ask " + ", or ".join(vault.pseudonym(*value) for value in values) + " today."
    shown = "Ask " + ", or ".join(value for _, value in values) + " today."
    want = folded(surface, b"".join(build([content(name, shown)])))
    for pieces in list(cuts(content(name, hidden)))[::3]:
        rules = Rules(vault=vault)
        out, _ = run(surface, build(pieces), rules)
        assert all(json == (name in CALLS) for _, json in rules.asked)
        reply = folded(surface, out)
        assert heard(reply) == heard(want)
    reply = folded(surface, b"".join(build([content(name, hidden)])))
    edited = screened(surface, reply, Rules(vault=vault))
    assert edited is not None
    assert heard(edited) == heard(want)


@pytest.mark.parametrize("name", SHAPES)
def test_any_text_in_any_pieces_is_edited_like_the_plain_reply(name: str) -> None:
    surface, build = SHAPES[name]
    rng = random.Random(name)
    vault = Vault(b"k" * 16, "session")
    words = (
        CANARY,
        CANARY,
        "ЖЖЖ",
        "-12",
        vault.pseudonym("PERSON", 'a"b'),
        " and ",
        " ",
        "\n",
        '"',
        "\\",
        "é😀",
        "x",
    )
    for _ in range(15):
        text = content(name, "".join(rng.choice(words) for _ in range(rng.randrange(1, 30))))
        at = sorted(rng.randrange(len(text)) for _ in range(rng.randrange(20)))
        pieces = [text[a:b] for a, b in pairwise([0, *at, len(text)])]
        rules = Rules(vault=vault, whole=rng.random() < 0.3)
        out, _ = run(surface, build(pieces), rules)
        plain = Rules(vault=vault)
        reply = folded(surface, b"".join(build([text])))
        assert heard(folded(surface, out)) == heard(screened(surface, reply, plain) or reply)
        assert {told[:3] for told in rules.told} == {told[:3] for told in plain.told}


def test_only_events_that_an_edit_touches_are_written_anew() -> None:
    pieces = ["Well, ", "ЖЖ", "ЖЖ-12", "34", " and ", "that is it."]
    events = chat(lambda piece: {"content": piece})(pieces)
    out, _ = run(Surface.CHAT, events, Rules())
    left = whole_events(out)
    assert len(left) == len(events)
    assert [left[i] == events[i] for i in range(len(events))] == [
        True,
        True,
        False,
        False,
        False,
        *[True] * 4,
    ]
    assert [orjson.loads(one[6:])["choices"][0]["delta"] for one in left[2:5]] == [
        {"content": "[GONE]"},
        {"content": ""},
        {"content": ""},
    ]


def test_the_framing_of_an_edited_event_stays() -> None:
    data = orjson.dumps({"type": "message", "z": 1, "content": [{"type": "text", "text": CANARY}], "a": 2})
    first, second = data[:24], data[24:]
    framed = b': note\r\nid: 7\r\nevent: message_start\r\ndata:{"message":%b\r\ndata: %b}\r\n\r\n' % (
        first,
        second,
    )
    out, _ = run(Surface.MESSAGES, [framed], Rules())
    edited = data.replace(CANARY.encode(), b"[GONE]")
    assert out == b': note\r\nid: 7\r\nevent: message_start\r\ndata:{"message":%b}\r\n\r\n' % edited


def test_tokens_beside_an_edited_text_are_dropped() -> None:
    pieces = ["Well ", "ЖЖ", "ЖЖ-1234", " then"]
    events = with_logprobs(pieces)
    out, _ = run(Surface.CHAT, events, Rules())
    choices = [orjson.loads(one[6:])["choices"][0] for one in whole_events(out)[1:5]]
    assert [choice["logprobs"] is None for choice in choices] == [False, True, True, False]


def test_tokens_that_are_not_those_of_the_text_are_read() -> None:
    def tokens(*pieces: str) -> Json:
        return {"content": [{"token": piece, "logprob": 0.0} for piece in pieces]}

    events = [
        chunk({"content": "Well."}, logprobs=tokens("ЖЖ", "ЖЖ")),
        chunk({}, logprobs=tokens("-1234")),
        chunk({}, finish="stop"),
        DONE,
    ]
    out, blocked = run(Surface.CHAT, events, Rules("block"))
    assert blocked
    assert out == b""
    out, _ = run(Surface.CHAT, events, Rules())
    choices = [orjson.loads(one[6:])["choices"][0] for one in whole_events(out)[:2]]
    assert [choice["logprobs"] for choice in choices] == [None, None]


def test_tokens_of_responses_become_empty_lists() -> None:
    build = parts("message", "output_text", "text", "output_text")
    events = []
    for one in build([TEXT]):
        found = parsed(one)
        assert found is not None
        for where in (found, found.get("part"), *found.get("item", {}).get("content", ())):
            if where and (where.get("delta") or where.get("text")):
                where["logprobs"] = [{"token": where.get("delta") or where["text"], "logprob": 0.0}]
        events.append(event(found))
    out, _ = run(Surface.RESPONSES, events, Rules())
    assert "Ж" not in told(out)
    assert out.count(b'"logprobs":[]') == 4


def test_copies_that_differ_from_the_pieces_are_read_by_themselves() -> None:
    build = parts("message", "output_text", "text", "output_text")
    events = build(["Nothing here."])
    events[-1] = events[-1].replace(b"Nothing here.", f"Then {CANARY}".encode())
    rules = Rules()
    out, _ = run(Surface.RESPONSES, events, rules)
    assert out == b"".join(events).replace(CANARY.encode() + b'"', b'[GONE]"')
    assert rules.told == [("GONE", 5, 14, "text", "")]


def test_texts_that_come_without_pieces_are_told_once() -> None:
    build = parts("message", "output_text", "text", "output_text")
    events = [one for one in build([TEXT]) if b".delta" not in one]
    rules = Rules()
    out, _ = run(Surface.RESPONSES, events, rules)
    assert "Ж" not in told(out)
    assert rules.told == [("GONE", 14, 23, "text", "")]


def test_the_whole_so_far_beside_a_piece_is_edited_too() -> None:
    pieces = ["Well, ЖЖ", "ЖЖ-1234", " is it, and that is all there is to it."]
    events, so_far = [], ""
    for piece in pieces:
        so_far += piece
        events.append(chunk({"content": piece}, message={"role": "assistant", "content": so_far}))
    out, _ = run(Surface.CHAT, [*events, chunk({}, finish="stop"), DONE], Rules())
    assert "Ж" not in told(out)
    last = orjson.loads(whole_events(out)[2][6:])["choices"][0]
    assert last["message"]["content"] == "Well, [GONE] is it, and that is all there is to it."


def test_a_text_from_elsewhere_is_edited_alike_and_not_told_again() -> None:
    rules = Rules()
    assert edited_text(TEXT, "text", "", rules, json=False) == GONE
    assert edited_text(written(TEXT), "arguments", "send", rules, json=True) == written(GONE)
    assert (
        edited_text('{"a":"' + "\\n" + CANARY + '"}', "arguments", "", rules, json=True)
        == '{"a":"\\n[GONE]"}'
    )
    assert edited_text("quiet", "text", "", rules, json=False) == "quiet"
    assert rules.told == []


def test_what_overlaps_becomes_one_and_redaction_beats_restoring() -> None:
    vault = Vault(b"k" * 16, "session")
    mail = vault.pseudonym("EMAIL_ADDRESS", "ann@example.com")
    person = vault.pseudonym("PERSON", "Ann")
    rules = Rules(vault=vault, pattern=re.escape(mail) + r"|Ask [a-z-]+|\d{4}")
    text = f"Ask {mail} for {person} or 1234."
    reply = {"choices": [{"index": 0, "message": {"content": text}}]}
    edited = screened(Surface.CHAT, reply, rules)
    assert edited is not None
    rest = text[len(f"Ask {mail}".partition("@")[0].rstrip("234567")) :]
    assert rest.endswith("or 1234.")
    assert edited["choices"][0]["message"]["content"].endswith(" for Ann or [GONE].")
    assert "ann@" not in edited["choices"][0]["message"]["content"]


def test_a_finding_that_is_left_alone_takes_nothing_with_it() -> None:
    class Picky(Rules):
        def scan(self, text: str, kind: Kind, tool: str) -> Sequence[Finding]:
            return [Finding("test", "SURE", 0, 9, 1.0), Finding("test", "GONE", 2, 5, 0.5)]

        def replacement(
            self, finding: Finding, value: str, kind: Kind, tool: str, *, json: bool
        ) -> str | None:
            return "[GONE]" if finding.type == "GONE" else None

    reply = {"choices": [{"message": {"content": "0123456789"}}]}
    edited = screened(Surface.CHAT, reply, Picky())
    assert edited == {"choices": [{"message": {"content": "01[GONE]56789"}}]}


# -- arguments ----------------------------------------------------------------------------------------


def test_arguments_leave_when_the_call_is_complete() -> None:
    for name in (*CALLS, "chat-custom", "responses-custom", "responses-shell"):
        surface, build = SHAPES[name]
        text = content(name, "A quiet text, long enough to be released word by word. " * 20)
        events = build([text[i : i + 20] for i in range(0, len(text), 20)])
        screen = StreamScreen(surface, Rules())
        out = [screen.feed(one) for one in events]
        at = next(i for i, one in enumerate(out) if len(whole_events(one)) > 20)
        assert "quiet" not in told(b"".join(out[:at]))
        assert any(mark in events[at] for mark in (b".done", b"block_stop", b'_reason":"'))


@pytest.mark.parametrize(
    ("text", "edit", "want"),
    [
        ('{"a":4111,"b":"x"}', (5, 9, "[C]"), '{"a":"[C]","b":"x"}'),
        ('{"a":4111}', (5, 9, "5222"), '{"a":5222}'),
        ('{"a":4111}', (6, 8, "[C]"), '{"a":"4[C]1"}'),
        ('{"a":"b","c":"d"}', (2, 15, "[C]"), '{"[C]":"","":""}'),
        ('{"a":"b"}', (0, 1, "[C]"), '{"a":"b"}'),
        ('{"a":"b"}', (5, 8, "[C]"), '{"a":"[C]"}'),
        ('{"a":"b cut of', (8, 11, "[C]"), '{"a":"b [C] of'),
        ('["x\\"y",true]', (2, 5, "[C]"), '["[C]y",true]'),
        ('["",true]', (4, 8, ""), '["",""]'),
    ],
)
def test_edits_leave_json_json(text: str, edit: tuple[int, int, str], want: str) -> None:
    edits = fitted(text, [Edit(*edit)])
    for one in reversed(edits):
        text = text[: one.start] + one.text + text[one.end :]
    assert text == want


def test_numbers_in_arguments_are_redacted_alike_everywhere() -> None:
    rules = Rules(pattern="4111[0-9]{12}")
    text = '{"card":4111111111111111,"4111111111111111":[1]}'
    want = {"card": "[GONE]", "[GONE]": [1]}
    for name in CALLS:
        surface, build = SHAPES[name]
        for pieces in ([text], list(text)):
            out, _ = run(surface, build(pieces), rules)
            assert b"4111" not in out
            fold = folded(surface, out)
            if surface is Surface.MESSAGES:
                assert fold["content"][1]["input"] == want
            else:
                assert orjson.dumps(want) in orjson.dumps(fold).replace(b"\\", b"")
        reply = folded(surface, b"".join(build([text])))
        assert b"4111" not in orjson.dumps(screened(surface, reply, rules))


def test_replacements_that_are_not_escaped_are() -> None:
    class Raw(Rules):
        def replacement(self, *_: object, json: bool) -> str:
            return 'a "b"\n'

    surface, build = CALLS["chat-call"]
    reply = folded(surface, b"".join(build(['{"x":"ЖЖЖЖ-1234"}'])))
    edited = screened(surface, reply, Raw())
    assert edited is not None
    call = edited["choices"][0]["message"]["tool_calls"][0]
    assert orjson.loads(call["function"]["arguments"]) == {"x": 'a "b"\n'}


@given(st.text(max_size=40), st.lists(st.integers(0, 60), max_size=6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_escapes_read_as_json_does_and_lead_back(text: str, at: list[int], ascii_only: bool) -> None:
    raw = escaped(text) if ascii_only and all(ord(c) < 0x10000 for c in text) else written(text)
    places = [0, *sorted(min(cut, len(raw)) for cut in at), len(raw)]
    escapes = Escapes()
    read = "".join(escapes.feed(raw[a:b]) for a, b in pairwise(places)) + escapes.end()
    start = read.index('"a"', 3)
    assert read[read.index('"body"') :].partition(":")[2].lstrip()[1:].startswith(text)
    (edit,) = escapes.placed([Edit(start, len(read), "x")])
    assert raw[edit.start :].startswith('"a"')
    assert edit.end == len(raw)


def test_half_an_escape_at_the_end_is_read_as_it_stands() -> None:
    for rest in ("\\", "\\u", "\\u00", "\\ud83d", "\\ud83d\\", "\\ud83d\\ude0", "\\uzz"):
        escapes = Escapes()
        read = escapes.feed("ab" + rest) + escapes.end()
        assert read.startswith("ab")
        assert escapes.placed([Edit(1, len(read), "")])[0].end == 2 + len(rest)
    assert Escapes().feed("\\ud83d\\ude00") == "😀"


# -- quiet streams ------------------------------------------------------------------------------------


def cut_bytes(data: bytes, size: int) -> Iterable[bytes]:
    codec = CODECS[Surface.CHAT].stream(strip_usage=False)
    for i in range(0, len(data), size):
        yield codec.feed(data[i : i + size])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_quiet_streams_leave_byte_for_byte(name: str, whole: bool) -> None:
    surface, build = SHAPES[name]
    text = content(name, "Nothing of note. 日本 4111 \U0001f600 " * 5)
    events = build([text[i : i + 5] for i in range(0, len(text), 5)])
    events[2:2] = [
        b": OPENROUTER PROCESSING\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"data: not JSON\n\n",
    ]
    for framed in (
        events,
        [one.replace(b"\n", b"\r\n") for one in events],
        [one.replace(b"\n", b"\r") for one in events],
    ):
        data = b"".join(framed)
        screen = StreamScreen(surface, Rules(whole=whole))
        assert b"".join([screen.feed(one) for one in framed]) + screen.end() == data
        assert not screen.edited
        screen = StreamScreen(surface, Rules(whole=whole))
        assert screen.feed(data) + screen.end() == data
        for count in range(0, len(framed), 7):
            cut = framed[:count]
            assert run(surface, cut, Rules(whole=whole))[0] == b"".join(cut)


def test_a_stream_that_breaks_off_is_edited_to_its_end() -> None:
    for name, (surface, build) in SHAPES.items():
        text = content(name, TEXT)
        cut = text.index(CANARY) + len(CANARY)
        for last in (-1, -2, -3):
            events = build([text[:cut], text[cut:]])[:last]
            out, _ = run(surface, events, Rules())
            assert "Ж" not in told(out)
            assert len(whole_events(out)) == len(events)
            _, blocked = run(surface, events, Rules("block"))
            assert blocked


def test_ordinary_words_leave_at_once() -> None:
    surface, build = SHAPES["chat"]
    screen = StreamScreen(surface, Rules())
    events = build(["The quick", " brown", " fox", " jumps."])
    assert [len(whole_events(screen.feed(one))) if one else 0 for one in events] == [1, 0, 1, 1, 1, 2, 1]


def test_an_answer_does_not_wait_for_the_thoughts_before_it() -> None:
    screen = StreamScreen(Surface.CHAT, Rules())
    screen.feed(chunk({"reasoning_content": "So that is it"}))
    waited = 0
    while b"it" not in screen.feed(chunk({"content": "words and more ", "reasoning_content": None})):
        waited += 1
        assert waited < 6
    assert screen.feed(chunk({"content": "at once, again "})) != b""


def test_a_text_that_goes_on_after_all_is_still_edited() -> None:
    events = [chunk({"reasoning": "so ЖЖ"})]
    events += [chunk({"content": "words and more words and "}) for _ in range(5)]
    events += [chunk({"reasoning": "ЖЖ-1234 and"}), chunk({}, finish="stop"), DONE]
    rules = Rules()
    out, _ = run(Surface.CHAT, events, rules)
    assert rules.told == [("GONE", 3, 12, "reasoning", "")]
    assert folded(Surface.CHAT, out)["choices"][0]["message"]["reasoning"] == "so ЖЖ[GONE] and"


def test_with_whole_nothing_leaves_before_the_answer_is_complete() -> None:
    for name, (surface, build) in SHAPES.items():
        events = build(list(content(name, "Quiet. " * 40)))
        screen = StreamScreen(surface, Rules(whole=True))
        assert screen.feed(b": comment\n\n") == b": comment\n\n"
        out = [screen.feed(one) for one in events]
        first = next(i for i, one in enumerate(out) if not one)
        assert b"Quiet" not in b"".join(out[:first])
        assert [one for one in out[first:] if one] == [b"".join(events[first:])], name


# -- odd input ----------------------------------------------------------------------------------------


def test_signed_thoughts_are_read_and_never_changed() -> None:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [{"type": "thinking_delta", "thinking": TEXT}, {"type": "signature_delta", "signature": "c2ln"}]
    events = message([(block, deltas), text_block([TEXT])])
    out, _ = run(Surface.MESSAGES, events, Rules())
    reply = folded(Surface.MESSAGES, out)
    assert reply["content"][0]["thinking"] == TEXT
    assert reply["content"][1]["text"] == GONE
    out, blocked = run(Surface.MESSAGES, events, Rules("block"))
    assert blocked
    assert "Ж" not in told(out)


def test_what_is_no_json_is_read_too() -> None:
    for data in (f"data: {CANARY} {{\n\n", f'data: [{{"error": "{CANARY}"}}]\n\n', f'data: "{CANARY}"\n\n'):
        out, blocked = run(Surface.CHAT, [data.encode()], Rules("block"))
        assert (out, blocked) == (b"", True)
        assert run(Surface.CHAT, [data.encode()], Rules())[0] == data.encode()


def test_json_that_only_some_clients_read_is_read() -> None:
    data = '{"choices": [{"delta": {"content": "\\ud83d ЖЖЖЖ-1234"}, "score": NaN}]}'
    event_ = f"data: {data}\n\n".encode()
    assert run(Surface.CHAT, [event_], Rules("block")) == (b"", True)
    out, _ = run(Surface.CHAT, [event_], Rules())
    assert "Ж" not in out.decode()
    assert b"\\u0416" not in out
    assert b"\\ud83d [GONE]" in out


def test_arguments_of_any_depth_are_read() -> None:
    for depth in (100, 400):
        value: Any = CANARY
        for _ in range(depth):
            value = [value]
        block = {"type": "tool_use", "id": "t", "name": "send", "input": {"x": value}}
        with pytest.raises(BlockedError):
            screened(Surface.MESSAGES, {"content": [block]}, Rules("block"))
        edited = screened(Surface.MESSAGES, {"content": [block]}, Rules())
        assert edited is not None
        inner = edited["content"][0]["input"]["x"]
        while type(inner) is list:
            (inner,) = inner
        assert inner == "[GONE]"


FIELDS = (
    "choices", "delta", "message", "content", "refusal", "reasoning", "reasoning_details", "tool_calls",
    "function", "function_call", "audio", "text", "logprobs", "index", "finish_reason", "content_block",
    "item", "part", "response", "output", "output_index", "item_id", "action", "commands", "operation",
    "input", "arguments", "annotation", "citation", "error", "summary", "thinking", "partial_json",
)  # fmt: skip
TYPES = (
    "content_block_delta", "content_block_start", "content_block_stop", "message_start", "message_delta",
    "response.output_text.delta", "response.output_text.done", "response.output_item.added",
    "response.output_item.done", "response.content_part.done", "response.completed", "function_call",
    "response.output_text.annotation.added", "message", "text_delta", "input_json_delta", "tool_use", "error",
)  # fmt: skip


def odd(rng: random.Random, depth: int = 0) -> Any:
    """Something that might stand in an event, or not."""
    kind = rng.random()
    if depth > 4 or kind < 0.35:
        return rng.choice((None, 0, 1, "x", "x", True, 1.5, *TYPES))
    if kind < 0.5:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    return odd_object(rng, depth + 1)


def odd_object(rng: random.Random, depth: int = 0) -> Json:
    made = {rng.choice(FIELDS): odd(rng, depth) for _ in range(rng.randrange(6))}
    return {"type": rng.choice(TYPES), **made} if rng.random() < 0.7 else made


ROUNDS = 150
UNREAD = {"type", "index", "finish_reason", "item_id", "logprobs", "response"}


def assert_read(value: Any) -> None:
    """Every text that is no label was found."""
    if type(value) is dict:
        for name, inner in value.items():
            if name not in UNREAD:
                assert_read(inner)
    elif type(value) is list:
        for inner in value:
            assert_read(inner)
    else:
        assert value != "x"


def test_anything_passes_and_is_read() -> None:
    rng = random.Random(1)
    for _ in range(ROUNDS):
        messages = [odd_object(rng) for _ in range(rng.randrange(5))]
        for one in messages:
            for echoed in ("input", "reasoning", "text"):
                one.pop(echoed, None)
        for surface in (Surface.CHAT, Surface.COMPLETIONS, Surface.MESSAGES, Surface.RESPONSES):
            events = [b"data: %b\n\n" % orjson.dumps(one) for one in messages]
            assert run(surface, events, Rules())[0] == b"".join(events)
            out, _ = run(surface, events, Rules(pattern="x"))
            assert len(whole_events(out)) == len(events)
            for left in whole_events(out):
                assert_read(parsed(left))
            for reply in messages:
                assert screened(surface, reply, Rules()) is None
                assert_read(screened(surface, reply, Rules(pattern="x")))


def test_too_much_to_hold_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 10_000)
    surface, build = SHAPES["chat-call"]
    screen = StreamScreen(surface, Rules())
    events = b"".join(build(["x" * 100] * 200))
    with pytest.raises(EventTooLargeError):
        screen.feed(events)
    assert screen.end() == b""


def test_what_was_dropped_does_not_leave() -> None:
    screen = StreamScreen(Surface.CHAT, Rules())
    assert screen.feed(chunk({"content": "word"})) == b""
    screen.drop()
    assert screen.feed(chunk({"content": " word "})) == screen.end() == b""


def test_a_quiet_event_costs_little_beside_its_scan() -> None:
    class Nothing(Rules):
        def scan(self, text: str, kind: Kind, tool: str) -> Sequence[Finding]:
            return ()

        def hold(self, text: str) -> int:
            return len(text)

    events = [chunk({"content": "a word or two "}) for _ in range(2_000)]
    screen = StreamScreen(Surface.CHAT, Nothing())
    with Effort() as effort:
        for one in events:
            screen.feed(one)
    assert effort.seconds / len(events) < 0.000_2


def test_many_stand_ins_in_a_long_stream_take_linear_time() -> None:
    vault = Vault(b"k" * 16, "session")
    hidden = vault.pseudonym("EMAIL_ADDRESS", "ann@example.com")
    surface, build = SHAPES["responses"]
    with Effort() as effort:
        out, _ = run(surface, build([f"Ask {hidden} now. "] * 2_000), Rules(vault=vault))
    assert effort.seconds < 5
    assert out.count(b"ann@example.com") == 5 * 2_000
