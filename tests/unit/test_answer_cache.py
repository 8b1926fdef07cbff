"""Answers given again: to whom, to what, what is never kept, and one call for all who ask at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Json, Step, Surface, ToolCall, Verdict
from gateway.errors import StoreUnavailable
from gateway.policy.sections.reuse import ExactCache, SemanticCache
from gateway.rules.budgets import Scopes
from gateway.rules.lineage import Lineage
from gateway.shaping import SHAPERS, Said
from gateway.steps.answer_cache import (
    MAX_BYTES,
    ROWS,
    STREAM_BYTES,
    AnswerCache,
    AnswerKey,
    Recorder,
    Told,
    Wording,
    WordingCache,
    anchors,
    fresh_id,
    is_whole,
    replayed,
)
from gateway.stores.embedded import EmbeddedStore
from gateway.surfaces import CODECS
from tests.unit.shaping.support import (
    TALKING,
    TOOLS,
    contiguous,
    fed,
    heard,
    read_stream,
    request,
    sdk_hears,
    typed,
)

EXACT = ExactCache()
SEMANTIC = SemanticCache(model="e")
SURFACES = (*TALKING, Surface.COMPLETIONS)
CALL = ToolCall("call_AbCdEfGh12345678", "look", '{"at":"x"}')
USAGE: dict[Surface, Json] = {
    Surface.CHAT: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    Surface.COMPLETIONS: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    Surface.MESSAGES: {"input_tokens": 7, "output_tokens": 3},
    Surface.RESPONSES: {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    },
}


class Time:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


class Away(EmbeddedStore):
    async def remember(self, objects: Mapping[str, bytes], ttl_ms: int) -> None:
        raise StoreUnavailable("away")

    async def recall(self, keys: Sequence[str]) -> dict[str, bytes]:
        raise StoreUnavailable("away")


def cache_on(store: EmbeddedStore, clock: Time, **more: Any) -> AnswerCache:
    return AnswerCache(store, Lineage(b"secret of the gateway"), clock, **more)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def store(clock: Time) -> EmbeddedStore:
    return EmbeddedStore(clock=clock)


@pytest.fixture
def cache(store: EmbeddedStore, clock: Time) -> AnswerCache:
    return cache_on(store, clock)


def who(user: str = "ann", key: str = "bot", team: str | None = "cx", principal: str = "key:bot") -> Scopes:
    return Scopes(principal, "run_1", "ses_1", False, user, key, team, "sim/test", "a", Surface.CHAT, {})


def body_of(surface: Surface, **more: Any) -> Json:
    kept = {"store": False} if surface is Surface.RESPONSES else {}
    return {**request(surface), "temperature": 0, **kept, **more}


def step_of(surface: Surface, **more: Any) -> Step:
    return CODECS[surface].parse(orjson.dumps(body_of(surface, **more)))


def key_of(
    cache: AnswerCache, step: Step, scopes: Scopes | None = None, rule: ExactCache = EXACT, **more: Any
) -> AnswerKey | None:
    given: Json = {"policy": "p1", "model": "openai/m", **more}
    return cache.key(step, scopes or who(), rule, **given)


def sure(key: AnswerKey | None) -> AnswerKey:
    assert key is not None
    return key


def reply_of(surface: Surface, text: str = "It is here.", calls: tuple[ToolCall, ...] = ()) -> Json:
    said = Said(
        text, calls, "tool_calls" if calls else "stop", USAGE[surface], "m-1", "chatcmpl-0123456789abcdef"
    )
    return SHAPERS[surface].compose(said, body_of(surface), 1_700_000_000)


def told(reply: Json, **more: Any) -> Told:
    facts: Json = {"model": "openai/m", "verdict": Verdict.ALLOW, "edited": False, "again": False, **more}
    return Told(reply, **facts)


def text_of(surface: Surface, reply: Json | None) -> str | None:
    return None if reply is None else "".join(CODECS[surface].read_answer(reply).texts)


# Which request


@pytest.mark.parametrize("surface", SURFACES)
def test_the_same_request_has_the_same_key_however_it_is_written_and_delivered(
    cache: AnswerCache, surface: Surface
) -> None:
    body = body_of(surface)
    first = sure(key_of(cache, CODECS[surface].parse(orjson.dumps(body))))
    turned = dict(reversed(body.items()))
    indented = CODECS[surface].parse(orjson.dumps(turned, option=orjson.OPT_INDENT_2))
    assert key_of(cache, indented) == first
    assert key_of(cache, step_of(surface, stream=True)) == first
    assert (first.surface, first.model) == (surface, "openai/m")


def test_labels_and_hints_for_prompt_caches_do_not_count(cache: AnswerCache) -> None:
    shared = ExactCache(scope="key")
    more: Json = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "metadata": {"a": "b"},
        "user": "u1",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
    }
    for surface in (Surface.CHAT, Surface.RESPONSES):
        assert key_of(cache, step_of(surface, **more), rule=shared) == key_of(
            cache, step_of(surface), rule=shared
        )
    a, b = step_of(Surface.MESSAGES, metadata={"user_id": "x"}), step_of(Surface.MESSAGES)
    assert key_of(cache, a, rule=shared) == key_of(cache, b, rule=shared)


def test_everything_else_counts(cache: AnswerCache) -> None:
    plain = step_of(Surface.CHAT)
    steps = [
        plain,
        step_of(Surface.CHAT, messages=[{"role": "user", "content": "Find it!"}]),
        step_of(Surface.CHAT, messages=[{"role": "user", "name": "n", "content": "Find it."}]),
        step_of(Surface.CHAT, never_heard_of={"x": 1}),
        step_of(Surface.CHAT, seed=1),
        step_of(Surface.CHAT, max_tokens=5),
        step_of(Surface.CHAT, service_tier="flex"),
        step_of(Surface.CHAT, model="other"),
        step_of(Surface.CHAT, tools=TOOLS[Surface.CHAT][:1]),
        step_of(Surface.CHAT, response_format={"type": "json_object"}),
    ]
    names = {sure(key_of(cache, step)).name for step in steps}
    names |= {
        sure(key_of(cache, plain, policy="p2")).name,
        sure(key_of(cache, plain, model="openai/n")).name,
        sure(key_of(cache, plain, headers={b"anthropic-beta": b"x"})).name,
        sure(key_of(cache, plain, withheld=("look",))).name,
    }
    assert len(names) == len(steps) + 4
    assert key_of(cache, plain, headers={b"user-agent": b"x"}) == key_of(cache, plain)


def history(surface: Surface, first: str, second: str, result: str = "r") -> Json:
    """Two calls with their results; the second result is that of the first call if both ids are the same."""
    ids = (first, second)
    if surface is Surface.CHAT:
        calls = [{"id": i, "type": "function", "function": {"name": "look", "arguments": "{}"}} for i in ids]
        results = [{"role": "tool", "tool_call_id": i, "content": result} for i in ids]
        return {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                *results,
            ]
        }
    if surface is Surface.MESSAGES:
        uses = [{"type": "tool_use", "id": i, "name": "look", "input": {"id": "call_own"}} for i in ids]
        blocks = [{"type": "tool_result", "tool_use_id": i, "content": result} for i in ids]
        return {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": uses},
                {"role": "user", "content": blocks},
            ]
        }
    calls = [{"type": "function_call", "call_id": i, "name": "look", "arguments": "{}"} for i in ids]
    outputs = [{"type": "function_call_output", "call_id": i, "output": result} for i in ids]
    return {"input": [{"role": "user", "content": "q"}, *calls, *outputs]}


@pytest.mark.parametrize("surface", TALKING)
def test_ids_of_calls_count_by_their_order(cache: AnswerCache, surface: Surface) -> None:
    def name(first: str, second: str, result: str = "r") -> str:
        return sure(key_of(cache, step_of(surface, **history(surface, first, second, result)))).name

    assert name("call_a1", "call_b1") == name("call_b2", "call_a2") == name("x", "y")
    assert name("x", "x") != name("x", "y")
    assert name("x", "y", result="s") != name("x", "y")
    # Such an id carries something.
    assert name("x" * 65, "y") != name("z" * 65, "y")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def chat_with(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, *parts]}]}


NOT_AGAIN: list[tuple[Surface, Json]] = [
    (Surface.CHAT, {"n": 2}),
    (Surface.CHAT, {"store": True}),
    (Surface.CHAT, {"temperature": 0.1}),
    (Surface.CHAT, {"temperature": None}),
    (Surface.CHAT, {"temperature": -1}),
    (Surface.CHAT, {"temperature": True}),
    (Surface.CHAT, {"temperature": "0"}),
    (Surface.CHAT, {"modalities": ["text", "audio"], "audio": {"voice": "v", "format": "wav"}}),
    (Surface.CHAT, {"modalities": "text"}),
    (Surface.CHAT, {"web_search_options": {}}),
    (Surface.CHAT, {"model": "gpt-4o-search-preview"}),
    (Surface.CHAT, {"tools": [{"type": "web_search"}]}),
    (Surface.CHAT, {"tools": [{"google_search": {}}]}),
    (Surface.CHAT, chat_with({"type": "image_url", "image_url": {"url": "https://x/y.png"}})),
    (Surface.CHAT, chat_with({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
    (Surface.CHAT, chat_with({"type": "file", "file": {"file_id": "file-1"}})),
    (Surface.CHAT, chat_with({"type": "unknown_part", "id": "x"})),
    (Surface.COMPLETIONS, {"prompt": ["a", "b"]}),
    (Surface.COMPLETIONS, {"best_of": 2}),
    (Surface.RESPONSES, {"store": None}),
    (Surface.RESPONSES, {"store": True}),
    (Surface.RESPONSES, {"background": True}),
    (Surface.RESPONSES, {"previous_response_id": "resp_1"}),
    (Surface.RESPONSES, {"conversation": "conv_1"}),
    (Surface.RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (Surface.RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (Surface.RESPONSES, {"tools": [{"type": "web_search"}]}),
    (Surface.RESPONSES, {"tools": [{"type": "mcp", "server_label": "s"}]}),
    (
        Surface.RESPONSES,
        {"input": [{"role": "user", "content": "q"}, {"type": "additional_tools", "tools": []}]},
    ),
    (Surface.MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (Surface.MESSAGES, {"mcp_servers": [{"type": "url", "name": "s", "url": "https://s"}]}),
    (Surface.MESSAGES, {"container": "container_1"}),
    (
        Surface.MESSAGES,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "document", "source": {"type": "url", "url": "https://x"}}],
                }
            ]
        },
    ),
]


@pytest.mark.parametrize(("surface", "more"), NOT_AGAIN)
def test_what_cannot_be_given_again_has_no_key(cache: AnswerCache, surface: Surface, more: Json) -> None:
    assert key_of(cache, step_of(surface, **more)) is None


def test_what_stands_in_the_request_can_be_given_again(cache: AnswerCache) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    bash = {"type": "bash_20250124", "name": "bash"}
    steps = [
        step_of(Surface.CHAT, **chat_with(IMAGE)),
        step_of(Surface.CHAT, store=False, modalities=["text"], n=1),
        step_of(Surface.RESPONSES, input=[{"role": "user", "content": "q"}, thought]),
        step_of(Surface.MESSAGES, tools=[*TOOLS[Surface.MESSAGES], bash]),
    ]
    assert len({sure(key_of(cache, step)).name for step in steps}) == 4
    others = CODECS[Surface.EMBEDDINGS].parse(orjson.dumps({"model": "m", "input": "x", "temperature": 0}))
    assert key_of(cache, others) is None


def test_a_request_without_a_temperature_counts_as_one(cache: AnswerCache) -> None:
    body = body_of(Surface.CHAT)
    del body["temperature"]
    step = CODECS[Surface.CHAT].parse(orjson.dumps(body))
    assert key_of(cache, step, rule=ExactCache(max_temperature=0.9)) is None
    warm = ExactCache(max_temperature=1)
    assert key_of(cache, step, rule=warm) is not None
    # The default need not be the same everywhere.
    assert key_of(cache, step, rule=warm) != key_of(cache, step_of(Surface.CHAT, temperature=1), rule=warm)


# To whom

NAMES = st.sampled_from(["a", "b", "", "a\0b", '","', "a/b", "\ud800", "null", "ä"]) | st.text(max_size=3)
PEOPLE = st.builds(
    lambda user, key, team, principal: who(user, key, team, principal),
    NAMES,
    NAMES,
    NAMES | st.none(),
    NAMES,
)


def identity(scope: str, scopes: Scopes) -> tuple[Any, ...]:
    owners: dict[str, tuple[Any, ...]] = {
        "user": (scopes.principal, scopes.key, scopes.user),
        "key": (scopes.principal, scopes.key),
        "team": (scopes.team,),
        "global": (),
    }
    return (scope, *owners[scope])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(PEOPLE, st.sampled_from(["user", "key", "team", "global"])), max_size=8))
def test_no_canary_reaches_another_tenant(tenants: list[tuple[Scopes, Any]]) -> None:
    async def check() -> None:
        clock = Time()
        store = EmbeddedStore(clock=clock)
        step = step_of(Surface.CHAT)
        canaries: dict[tuple[Any, ...], str] = {}
        caches = [cache_on(store, clock), cache_on(store, clock)]
        for i, (scopes, scope) in enumerate(tenants):
            key = key_of(caches[0], step, scopes, ExactCache(scope=scope))
            assert (key is None) == (scope == "team" and scopes.team is None)
            if key is None:
                continue
            mine = identity(scope, scopes)
            found = await caches[i % 2].get(key)
            assert text_of(Surface.CHAT, found) == canaries.get(mine)
            canaries[mine] = f"canary {i}"
            for each in caches:
                assert await each.put(key, told(reply_of(Surface.CHAT, canaries[mine])), 60)
        for scopes, scope in tenants:
            if (key := key_of(caches[1], step, scopes, ExactCache(scope=scope))) is not None:
                assert text_of(Surface.CHAT, await caches[1].get(key)) == canaries[identity(scope, scopes)]

    asyncio.run(check())


def test_whom_a_request_names_keeps_users_apart_where_they_do_not_share(cache: AnswerCache) -> None:
    a = step_of(Surface.CHAT, user="a")
    others = (
        step_of(Surface.CHAT, user="b"),
        step_of(Surface.CHAT),
        step_of(Surface.CHAT, safety_identifier="a"),
    )
    assert key_of(cache, a) not in [key_of(cache, step) for step in others]
    assert {key_of(cache, step, rule=ExactCache(scope="key")) for step in (a, *others)} == {
        key_of(cache, a, rule=ExactCache(scope="key"))
    }
    one, two = (step_of(Surface.MESSAGES, metadata={"user_id": i}) for i in "ab")
    assert key_of(cache, one) != key_of(cache, two)


# Kept


async def test_an_answer_is_kept_for_its_time_on_every_worker(store: EmbeddedStore, clock: Time) -> None:
    here, there = cache_on(store, clock), cache_on(store, clock)
    key = sure(key_of(here, step_of(Surface.CHAT)))
    assert await here.get(key) is None
    assert await here.put(key, told(reply_of(Surface.CHAT)), 60)
    clock.now += 59_999
    kept = await here.get(key)
    assert kept == reply_of(Surface.CHAT) == await there.get(key)
    assert kept is not None
    kept["choices"].clear()
    assert await here.get(key) == reply_of(Surface.CHAT)
    clock.now += 1
    assert await here.get(key) is None
    assert await there.get(key) is None
    assert await cache_on(store, clock).get(key) is None


async def test_whoever_has_the_store_can_neither_read_nor_change_nor_swap_answers(
    store: EmbeddedStore, clock: Time
) -> None:
    cache = cache_on(store, clock)
    first, second = (sure(key_of(cache, step_of(Surface.CHAT, seed=i))) for i in (1, 2))
    await cache.put(first, told(reply_of(Surface.CHAT, "first secret")), 60)
    await cache.put(second, told(reply_of(Surface.CHAT, "second")), 60)
    records = await store.recall([first.name, second.name])
    assert b"secret" not in records[first.name]
    assert b"first" not in records[first.name]

    async def seen(value: bytes, secret: bytes = b"secret of the gateway") -> str | None:
        await store.remember({second.name: value}, 60_000)
        return text_of(Surface.CHAT, await AnswerCache(store, Lineage(secret), clock).get(second))

    good = records[second.name]
    assert await seen(good) == "second"
    assert await seen(records[first.name]) is None
    assert await seen(good, b"another secret") is None
    for forged in (
        b"",
        b"1",
        good[:12],
        good[:20],
        good[:-1],
        good + b"x",
        b"2" + good[1:],
        b'{"choices":[]}',
    ):
        assert await seen(forged) is None
    for at in range(len(good)):
        assert await seen(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]) is None


async def test_a_worker_has_no_more_at_hand_than_it_may(store: EmbeddedStore, clock: Time) -> None:
    cache = cache_on(store, clock, local_bytes=20_000, store_bytes=50_000)
    keys = [sure(key_of(cache, step_of(Surface.CHAT, seed=i))) for i in range(200)]
    for key in keys:
        assert await cache.put(key, told(reply_of(Surface.CHAT, "x" * 1000)), 60)
        await cache.get(keys[0])
    alone = AnswerCache(Away(clock=clock), Lineage(b"secret of the gateway"), clock)
    alone._local = cache._local
    at_hand = [i for i, key in enumerate(keys) if await alone.get(key)]
    # The one that is asked for again and again stays.
    assert at_hand[0] == 0
    assert at_hand[1:] == list(range(200 - len(at_hand) + 1, 200))
    assert 10 < len(at_hand) < 20
    in_store = await store.recall([key.name for key in keys])
    assert set(in_store) == {key.name for key in keys[-len(in_store) :]}
    assert 30 < len(in_store) < 50
    clock.now += 61_000
    await cache.put(keys[0], told(reply_of(Surface.CHAT)), 60)
    assert len(cache._local._entries) == len(cache._stored._entries) == 1


async def test_without_the_store_a_worker_goes_by_itself(clock: Time) -> None:
    cache = cache_on(Away(clock=clock), clock)
    key = sure(key_of(cache, step_of(Surface.CHAT)))
    async with cache.single(key) as found:
        assert found is None
        assert await cache.put(key, told(reply_of(Surface.CHAT)), 60)
    assert await cache.get(key) == reply_of(Surface.CHAT)


# What is never kept


@pytest.mark.parametrize("surface", SURFACES)
def test_a_whole_answer_is_fit(surface: Surface) -> None:
    assert is_whole(surface, reply_of(surface))
    if surface in TALKING:
        assert is_whole(surface, reply_of(surface, "", (CALL,)))


CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}


def chat(finish: str | None = "stop", **message: Any) -> Json:
    spoken = {"role": "assistant", "content": "x", **message}
    return {"id": "i", "choices": [{"index": 0, "finish_reason": finish, "message": spoken}]}


def message(stop: str | None = "end_turn", *content: Json, **more: Any) -> Json:
    said = list(content) or [{"type": "text", "text": "x"}]
    return {"id": "i", "type": "message", "role": "assistant", "content": said, "stop_reason": stop, **more}


def response(status: str | None = "completed", *output: Json, **more: Any) -> Json:
    said = list(output) or [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
    ]
    return {"id": "i", "object": "response", "status": status, "output": said, **more}


def a_call(arguments: Any) -> list[Json]:
    return [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]


UNFIT: list[tuple[Surface, Json]] = [
    *[(Surface.CHAT, chat(finish)) for finish in ("length", "content_filter", "error", "", None)],
    (Surface.CHAT, chat(content="")),
    (Surface.CHAT, chat(content="  \n")),
    (Surface.CHAT, chat(refusal="I cannot")),
    (Surface.CHAT, chat(audio={"id": "a"})),
    (Surface.CHAT, chat("tool_calls", tool_calls=a_call('{"a": "b'))),
    (Surface.CHAT, chat("tool_calls", tool_calls=a_call({"a": 1}))),
    (Surface.CHAT, chat(annotations=[{"type": "url_citation"}])),
    (Surface.CHAT, {**chat(), "choices": [CHOICE, CHOICE]}),
    (Surface.CHAT, {**chat(), "choices": [CHOICE, "x"]}),
    (Surface.CHAT, {**chat(), "error": {"message": "overloaded"}}),
    (Surface.CHAT, {"error": {"message": "no"}}),
    (Surface.CHAT, {"choices": ["x"]}),
    (Surface.CHAT, {"choices": [{"message": []}]}),
    (Surface.CHAT, {}),
    *[(Surface.MESSAGES, message(stop)) for stop in ("max_tokens", "refusal", "pause_turn", "model_context_window_exceeded", None)],
    (Surface.MESSAGES, message("end_turn", {"type": "text", "text": ""})),
    (Surface.MESSAGES, message("end_turn", {"type": "text", "text": "x"}, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})),
    (Surface.MESSAGES, message("end_turn", {"type": "text", "text": "x"}, {"type": "never_heard_of"})),
    (Surface.MESSAGES, message(container={"id": "c"})),
    (Surface.MESSAGES, message(content="x")),
    (Surface.MESSAGES, {"type": "error", "error": {"type": "overloaded_error"}}),
    *[(Surface.RESPONSES, response(s)) for s in ("incomplete", "failed", "queued", "in_progress", "cancelled", None)],
    (Surface.RESPONSES, response(incomplete_details={"reason": "content_filter"})),
    (Surface.RESPONSES, response(error={"code": "server_error"})),
    (Surface.RESPONSES, response("completed", {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]})),
    (Surface.RESPONSES, response("completed", {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a'})),
    (Surface.RESPONSES, response("completed", {"type": "web_search_call", "id": "w"}, *response()["output"])),
    (Surface.RESPONSES, response("completed", {"type": "computer_call", "call_id": "c", "action": {"type": "click"}})),
    (Surface.RESPONSES, response("completed", {"type": "reasoning", "id": "r", "summary": []})),
    (Surface.RESPONSES, {"status": "completed"}),
    (Surface.COMPLETIONS, {"choices": [{"index": 0, "text": "x", "finish_reason": "length"}]}),
    (Surface.COMPLETIONS, {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}),
    (Surface.EMBEDDINGS, {"data": [{"embedding": [1]}]}),
]  # fmt: skip


@pytest.mark.parametrize(("surface", "reply"), UNFIT)
def test_an_answer_that_is_not_whole_is_not_kept(surface: Surface, reply: Json) -> None:
    assert not is_whole(surface, reply)


async def test_what_a_rule_had_something_to_say_about_is_not_kept(
    cache: AnswerCache, store: EmbeddedStore
) -> None:
    key = sure(key_of(cache, step_of(Surface.CHAT)))
    reply = reply_of(Surface.CHAT)
    for verdict in Verdict:
        fit = verdict in (Verdict.ALLOW, Verdict.REROUTE)
        assert await cache.put(key, told(reply, verdict=verdict), 60) is fit
    other = sure(key_of(cache, step_of(Surface.CHAT, seed=1)))
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    for unfit in (
        told(reply, edited=True),
        told(reply, again=True),
        told(reply, model="anthropic/fallback"),
        told(chat("length")),
        told(reply_of(Surface.CHAT, "x" * MAX_BYTES)),
        told({**reply, "more": deep}),
    ):
        assert not await cache.put(other, unfit, 60)
    assert await cache.get(other) is None
    assert await store.recall([other.name]) == {}


# One call for all


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Callers:
    """Asks for one answer, as many times as wanted; calls upstream wait until they are let go."""

    def __init__(self, cache: AnswerCache, key: AnswerKey) -> None:
        self.cache = cache
        self.key = key
        self.calls = 0
        self.go = asyncio.Event()

    async def ask(self, *, fails: bool = False, unfit: bool = False) -> str:
        async with self.cache.single(self.key) as found:
            if found is not None:
                return f"kept: {text_of(Surface.CHAT, found)}"
            self.calls += 1
            mine = self.calls
            await self.go.wait()
            if fails:
                raise ValueError("upstream failed")
            reply = chat("length") if unfit else reply_of(Surface.CHAT, f"call {mine}")
            await self.cache.put(self.key, told(reply), 60)
            return f"called: {mine}"


@pytest.fixture
async def callers(cache: AnswerCache) -> AsyncIterator[Callers]:
    made = Callers(cache, sure(key_of(cache, step_of(Surface.CHAT))))
    yield made
    assert cache._flights == {}


async def test_all_who_ask_at_once_are_one_call(callers: Callers) -> None:
    asking = [asyncio.create_task(callers.ask()) for _ in range(50)]
    await turns()
    callers.go.set()
    assert await asyncio.gather(*asking) == ["called: 1", *["kept: call 1"] * 49]
    assert await callers.ask() == "kept: call 1"
    assert callers.calls == 1


async def test_those_who_waited_for_a_failure_or_an_unfit_answer_ask_by_themselves(callers: Callers) -> None:
    leader = asyncio.create_task(callers.ask(fails=True))
    await turns()
    asking = [asyncio.create_task(callers.ask(unfit=True)) for _ in range(3)]
    await turns()
    assert callers.calls == 1
    callers.go.set()
    with pytest.raises(ValueError, match="upstream failed"):
        await leader
    assert sorted(await asyncio.gather(*asking)) == ["called: 2", "called: 3", "called: 4"]
    assert await callers.ask() == "called: 5"


async def test_cancelling_the_first_sets_the_others_free(callers: Callers) -> None:
    leader = asyncio.create_task(callers.ask())
    await turns()
    asking = [asyncio.create_task(callers.ask()) for _ in range(2)]
    await turns()
    leader.cancel()
    await turns()
    assert leader.cancelled()
    assert callers.calls == 3
    callers.go.set()
    assert sorted(await asyncio.gather(*asking)) == ["called: 2", "called: 3"]


async def test_cancelling_one_who_waits_concerns_nobody_else(callers: Callers) -> None:
    asking = [asyncio.create_task(callers.ask()) for _ in range(3)]
    await turns()
    asking[1].cancel()
    await turns()
    assert asking[1].cancelled()
    callers.go.set()
    assert [await asking[0], await asking[2]] == ["called: 1", "kept: call 1"]


async def test_nobody_waits_for_a_slow_client_once_the_answer_is_there(callers: Callers) -> None:
    reading = asyncio.Event()

    async def slow() -> None:
        async with callers.cache.single(callers.key) as found:
            assert found is None
            await callers.go.wait()
            await callers.cache.put(callers.key, told(reply_of(Surface.CHAT, "soon")), 60)
            await reading.wait()

    leader = asyncio.create_task(slow())
    await turns()
    waiting = asyncio.create_task(callers.ask())
    await turns()
    callers.go.set()
    assert await waiting == "kept: soon"
    assert not leader.done()
    reading.set()
    await leader


async def test_a_wait_has_an_end(store: EmbeddedStore, clock: Time) -> None:
    cache = cache_on(store, clock, wait_s=0.01)
    callers = Callers(cache, sure(key_of(cache, step_of(Surface.CHAT))))
    first, second = (asyncio.create_task(callers.ask()) for _ in range(2))
    while callers.calls < 2:
        await asyncio.sleep(0.005)
    callers.go.set()
    assert sorted(await asyncio.gather(first, second)) == ["called: 1", "called: 2"]
    assert cache._flights == {}


async def test_what_another_worker_has_kept_is_fetched_once_for_all(
    store: EmbeddedStore, clock: Time
) -> None:
    here, there = cache_on(store, clock), cache_on(store, clock)
    callers = Callers(there, sure(key_of(there, step_of(Surface.CHAT))))
    await here.put(callers.key, told(reply_of(Surface.CHAT, "elsewhere")), 60)
    found = await asyncio.gather(*[callers.ask() for _ in range(5)])
    assert (found, callers.calls) == (["kept: elsewhere"] * 5, 0)


async def test_different_requests_do_not_wait_for_each_other(cache: AnswerCache) -> None:
    a, b = (Callers(cache, sure(key_of(cache, step_of(Surface.CHAT, seed=i)))) for i in (1, 2))
    first = asyncio.create_task(a.ask())
    await turns()
    b.go.set()
    assert await b.ask() == "called: 1"
    a.go.set()
    await first


# Given again


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("surface", TALKING)
async def test_a_replay_is_a_valid_answer_with_ids_of_its_own(
    cache: AnswerCache, surface: Surface, stream: bool
) -> None:
    reply = reply_of(surface, "Grüße \N{PILE OF POO}\n\ndata: x", (CALL,))
    key = sure(key_of(cache, step_of(surface, tools=TOOLS[surface])))
    assert await cache.put(key, told(reply), 60)
    asked = body_of(surface, stream=stream, tools=TOOLS[surface])
    answers = []
    for _ in range(2):
        kept = await cache.get(key)
        assert kept is not None
        again = replayed(surface, kept, asked, 1_800_000_000)
        assert again["usage"] == USAGE[surface]
        answer = CODECS[surface].read_answer(again)
        text, calls = heard(answer)
        assert (text, [call[1:] for call in calls]) == (
            "Grüße \N{PILE OF POO}\n\ndata: x",
            [("look", {"at": "x"})],
        )
        typed(surface, SHAPERS[surface].compose(Said(reply=again), asked, 1_800_000_000))
        if stream:
            whole = SHAPERS[surface].compose_stream(Said(reply=again), asked, 1_800_000_000)
            contiguous(surface, whole)
            assert heard(read_stream(surface, whole).answer()) == (text, calls) == sdk_hears(surface, whole)
            for sizes in ((1,), (2, 7), (501,)):
                reader = CODECS[surface].stream(strip_usage=False)
                assert fed(reader, whole, sizes) == whole
                assert heard(reader.answer()) == (text, calls)
        answers.append(answer)
    ids = {CODECS[surface].read_answer(reply).response_id, *[a.response_id for a in answers]}
    assert len(ids) == 3
    made = {CALL.id, *[a.calls[0].id for a in answers]}
    assert len(made) == 3
    assert all(i.startswith("call_") and len(i) == len(CALL.id) for i in made)


def test_a_response_repeats_its_own_request_and_nobody_elses(store: EmbeddedStore, clock: Time) -> None:
    async def check() -> None:
        cache = cache_on(store, clock)
        rule = ExactCache(scope="global")
        zoe: Json = {
            "user": "zoe",
            "safety_identifier": "hash-zoe",
            "metadata": {"case": "zoe"},
            "prompt_cache_key": "zoe",
        }
        body = body_of(Surface.RESPONSES, **zoe)
        reply = {**reply_of(Surface.RESPONSES), **zoe, "created_at": 5, "completed_at": 6}
        key = sure(key_of(cache, step_of(Surface.RESPONSES, **zoe), who("zoe"), rule))
        assert await cache.put(key, told(reply), 60)
        assert (
            key_of(cache, step_of(Surface.RESPONSES, user="bob"), who("bob", "k2", None, "key:k2"), rule)
            == key
        )
        kept = await cache.get(key)
        assert kept is not None
        asked = body_of(Surface.RESPONSES, user="bob")
        again = replayed(Surface.RESPONSES, kept, asked, 9)
        assert b"zoe" not in orjson.dumps(again)
        assert (again["user"], again["metadata"], again["created_at"], again["completed_at"]) == (
            "bob",
            {},
            9,
            9,
        )
        typed(Surface.RESPONSES, again)
        assert replayed(Surface.RESPONSES, again, body, 9)["metadata"] == {"case": "zoe"}

    asyncio.run(check())


def test_ids_keep_their_form_and_odd_ones_stay() -> None:
    for made in (
        "call_AbCdEfGh12345678",
        "toolu_01A09q90qw90lq917835lq9",
        "chatcmpl-9x8y7z6w5v4u3t2s",
        "msg_0123456789abcdef",
    ):
        fresh = fresh_id(made)
        assert fresh != made
        assert len(fresh) == len(made)
        at = max(made.find("_"), made.find("-")) + 1
        assert fresh[:at] == made[:at]
    fresh = fresh_id("3f2504e0-4f89-41d3-9a0c-0305e82c3301")
    assert [at for at, letter in enumerate(fresh) if letter == "-"] == [8, 13, 18, 23]
    assert set(fresh) <= set("0123456789abcdef-")
    for odd in ("", "call_0", "9charid01", "-" * 30, "x" * 65, "call_é" + "語" * 20):
        assert fresh_id(odd) == odd


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_stream_is_kept_as_the_reply_it_amounts_to(surface: Surface, size: int) -> None:
    calls = (CALL,) if surface in TALKING else ()
    said = Said(
        "Hello there.",
        calls,
        "tool_calls" if calls else "stop",
        USAGE[surface],
        "m-1",
        "chatcmpl-0123456789abcdef",
    )
    tools = {"tools": TOOLS[surface]} if surface in TALKING else {}
    asked = body_of(surface, stream=True, **tools)
    for options in ({}, {"stream_options": {"include_usage": True}}):
        sent = SHAPERS[surface].compose_stream(said, {**asked, **options}, 5)
        reader, recorder = CODECS[surface].stream(strip_usage=not options), Recorder(surface)
        for at in range(0, len(sent), size):
            recorder.feed(reader.feed(sent[at : at + size]))
        usage = reader.usage or {"usage": USAGE[surface]}
        reply = recorder.reply(usage)
        assert reply is not None
        assert is_whole(surface, reply)
        answer = CODECS[surface].read_answer(reply)
        assert (answer.texts, answer.calls) == (("Hello there.",), calls)
        if surface is not Surface.MESSAGES:
            assert reply["usage"] == USAGE[surface]
        typed(surface, SHAPERS[surface].compose(Said(reply=reply), asked, 5))


def test_a_stream_that_broke_off_or_is_too_long_is_not_kept() -> None:
    sent = SHAPERS[Surface.CHAT].compose_stream(Said("Hello there."), body_of(Surface.CHAT, stream=True), 5)
    recorder = Recorder(Surface.CHAT)
    recorder.feed(b"\n\n".join(sent.split(b"\n\n")[:2]) + b"\n\n")
    reply = recorder.reply(None)
    assert reply is not None
    assert not is_whole(Surface.CHAT, reply)
    recorder.feed(b": x\n\n" * (STREAM_BYTES // 5))
    recorder.feed(sent)
    assert recorder.reply(None) is None


# Other words


def asking(text: str, surface: Surface = Surface.CHAT, **more: Any) -> Step:
    if surface is Surface.RESPONSES:
        return step_of(
            surface,
            input=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": text}],
            **more,
        )
    return step_of(
        surface,
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": text},
        ],
        **more,
    )


class Embedder:
    """Texts as vectors: the first word's angle in degrees, kept by what follows."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.angles: dict[str, float] = {}
        self.answer: Callable[[str], Any] = self._angle

    def _angle(self, text: str) -> list[float]:
        radians = math.radians(self.angles.get(text, 0))
        return [3 * math.cos(radians), 3 * math.sin(radians), 0.0]

    async def __call__(self, text: str) -> Any:
        self.asked.append(text)
        await asyncio.sleep(0)
        return self.answer(text)


class Words:
    def __init__(self, store: EmbeddedStore, clock: Time, rule: SemanticCache = SEMANTIC) -> None:
        self.answers = cache_on(store, clock)
        self.cache = WordingCache(self.answers, clock)
        self.embed = Embedder()
        self.rule = rule

    def wording(self, step: Step, scopes: Scopes | None = None, **more: Any) -> Wording | None:
        given: Json = {"policy": "p1", "model": "openai/m", **more}
        return self.cache.wording(step, scopes or who(), self.rule, **given)

    async def find(self, step: Step, scopes: Scopes | None = None, **more: Any) -> str | None:
        wording = self.wording(step, scopes, **more)
        assert wording is not None
        return text_of(step.surface, await self.cache.find(wording, self.embed))

    async def keep(self, step: Step, text: str, scopes: Scopes | None = None) -> bool:
        wording = self.wording(step, scopes)
        assert wording is not None
        return await self.cache.put(wording, told(reply_of(step.surface, text)), self.embed)


@pytest.fixture
def words(store: EmbeddedStore, clock: Time) -> Words:
    return Words(store, clock)


@pytest.mark.parametrize("surface", TALKING)
async def test_what_was_asked_in_other_words_is_found_if_it_is_near_enough(
    words: Words, surface: Surface
) -> None:
    words.embed.angles = {"How do I pay?": 0, "How can I pay?": 18, "How can I leave?": 19}
    assert await words.find(asking("How do I pay?", surface)) is None
    assert words.embed.asked == []
    assert await words.keep(asking("How do I pay?", surface), "By card.")
    assert await words.find(asking("How do I pay?", surface)) == "By card."
    assert words.embed.asked == ["How do I pay?"]
    assert await words.find(asking("How can I pay?", surface)) == "By card."
    # cos 18° is 0.951, cos 19° is 0.946.
    assert await words.find(asking("How can I leave?", surface)) is None


async def test_the_nearest_counts(words: Words) -> None:
    words.embed.angles = {"a": 0, "b": 10, "c": 8}
    await words.keep(asking("a"), "to a")
    await words.keep(asking("b"), "to b")
    assert await words.find(asking("c")) == "to b"


async def test_a_threshold_of_one_finds_what_is_equal(store: EmbeddedStore, clock: Time) -> None:
    words = Words(store, clock, SemanticCache(model="e", threshold=1))
    words.embed.angles = {"a": 33.3, "b": 33.3, "c": 33.5}
    await words.keep(asking("a"), "to a")
    assert await words.find(asking("b")) == "to a"
    assert await words.find(asking("c")) is None


async def test_everything_but_the_wording_has_to_be_the_same(words: Words) -> None:
    await words.keep(asking("a"), "to a")
    assert await words.find(asking("b")) == "to a"
    assert await words.find(asking("b"), policy="p2") is None
    assert await words.find(asking("b"), model="openai/n") is None
    assert await words.find(asking("b", seed=1)) is None
    assert await words.find(asking("b", tools=TOOLS[Surface.CHAT][:1])) is None
    assert await words.find(asking("b"), withheld=("look",)) is None
    other = step_of(Surface.CHAT, messages=[{"role": "user", "content": "b"}])
    assert await words.find(other) is None
    assert words.embed.asked == ["a", "b"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(PEOPLE, st.sampled_from(["user", "key", "team", "global"])), max_size=6))
def test_no_wording_reaches_another_tenant_however_near(tenants: list[tuple[Scopes, Any]]) -> None:
    async def check() -> None:
        clock = Time()
        words = Words(EmbeddedStore(clock=clock), clock)
        canaries: dict[tuple[Any, ...], set[str]] = {}
        for i, (scopes, scope) in enumerate(tenants):
            words.rule = SemanticCache(model="e", scope=scope)
            if words.wording(asking("same question"), scopes) is None:
                assert scope == "team"
                continue
            # All embeddings are the same.
            found = await words.find(asking(f"same question {'o' * i}"), scopes)
            mine = canaries.setdefault(identity(scope, scopes), set())
            assert (found is None and not mine) or found in mine
            mine.add(f"canary {i}")
            await words.keep(asking(f"same question {'o' * i}"), f"canary {i}", scopes)

    asyncio.run(check())


async def test_numbers_names_with_digits_and_negations_are_not_fuzzy(words: Words) -> None:
    await words.keep(asking("What is the balance of account 4711?"), "7 euros")
    assert await words.find(asking("Balance of account 4711, please!")) == "7 euros"
    assert await words.find(asking("What is the balance of account 4712?")) is None
    assert await words.find(asking("What is not the balance of account 4711?")) is None
    assert await words.find(asking("What is the balance of account 4711 and 4711?")) is None
    assert anchors("Don't e-mail a@b.de or 'x_1' (v2.0) it's fine, NEVER!") == [
        "a@b.de",
        "don't",
        "never",
        "v2.0",
        "x_1",
    ]


async def test_answers_that_call_tools_and_unfit_ones_are_for_one_request_alone(words: Words) -> None:
    wording = words.wording(asking("a"))
    assert wording is not None
    calling = reply_of(Surface.CHAT, "", (CALL,))
    assert not await words.cache.put(wording, told(calling), words.embed)
    assert not await words.cache.put(wording, told(chat("length")), words.embed)
    assert not await words.cache.put(wording, told(reply_of(Surface.CHAT), edited=True), words.embed)
    assert words.embed.asked == []
    assert await words.find(asking("b")) is None


@pytest.mark.parametrize(
    ("surface", "more"),
    [
        (
            Surface.CHAT,
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]},
        ),
        (Surface.CHAT, history(Surface.CHAT, "a", "b")),
        (Surface.MESSAGES, history(Surface.MESSAGES, "a", "b")),
        (Surface.CHAT, {"messages": [{"role": "user", "content": ""}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "x" * 4001}]}),
        (Surface.CHAT, {"messages": [{"role": "user", "content": "q"}], "temperature": 1}),
        (Surface.COMPLETIONS, {}),
    ],
)
def test_what_asks_nothing_in_words_has_no_wording(words: Words, surface: Surface, more: Json) -> None:
    assert words.wording(step_of(surface, **more)) is None


@pytest.mark.parametrize(
    "given_",
    [
        None,
        [],
        [0.0, 0.0],
        [math.nan, 1.0],
        [math.inf],
        ["x"],
        [[1.0]],
        "abc",
        {},
        [10**400],
        [1.0] * 8193,
        [1e308, 1e308],
    ],
)
async def test_an_embedding_that_is_none_finds_and_keeps_nothing(words: Words, given_: Any) -> None:
    words.embed.answer = lambda _: given_
    assert await words.keep(asking("a"), "to a")
    # By its own words it is found all the same.
    assert await words.find(asking("a")) == "to a"
    assert await words.find(asking("b")) is None
    words.embed = Embedder()
    await words.keep(asking("a"), "to a")
    words.embed.answer = lambda _: given_
    assert await words.find(asking("b")) is None


async def test_another_length_of_vectors_begins_anew(words: Words) -> None:
    await words.keep(asking("a"), "to a")
    words.embed.answer = lambda _: [1.0, 0.0]
    assert await words.find(asking("b")) is None
    await words.keep(asking("b"), "to b")
    assert await words.find(asking("c")) == "to b"


async def test_a_wording_is_known_as_long_as_its_answer(words: Words, clock: Time) -> None:
    words.embed.angles = {"a": 0, "b": 5, "c": 1}
    await words.keep(asking("a"), "to a")
    clock.now += 3_000_000
    await words.keep(asking("b"), "to b")
    assert await words.find(asking("c")) == "to a"
    clock.now += 600_000
    assert await words.find(asking("c")) == "to b"
    clock.now += 3_000_000
    assert await words.find(asking("c")) is None


async def test_there_are_no_more_wordings_than_wanted(store: EmbeddedStore, clock: Time) -> None:
    words = Words(store, clock, SemanticCache(model="e", max_entries=20))
    for seed in range(10):
        for i in range(15):
            await words.keep(asking("w" * (i + 1), seed=seed), f"{seed} {i}")
        assert words.cache._rows == sum(len(index) for index in words.cache._indexes.values()) <= 20
    assert await words.find(asking("other", seed=0)) is None
    assert await words.find(asking("other", seed=9)) is not None
    for i in range(50):
        await words.keep(asking("v" * (i + 1), seed=9), "x")
        await words.keep(asking("v" * (i + 1), seed=9), "x")
    assert words.cache._rows == 20
    assert ROWS > 20
