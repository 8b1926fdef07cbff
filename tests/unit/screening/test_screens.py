"""What a worker's screens do with verdicts, failures, stand-ins and what cannot be read, without a gateway."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import orjson
import pytest

from gateway.domain import Principal, Step, Surface
from gateway.errors import GatewayError
from gateway.screening import engine
from gateway.steps.screens import INLINE_CHARS, VERDICTS, Blocked, Screened
from gateway.surfaces import CODECS
from gateway.surfaces.messages import parse_count
from tests.support.effort import Effort
from tests.unit.screening.harness import Harness, Records

Json = dict[str, Any]
BOB = Principal("p-bob", "bob", "bob", "blue")
MAIL, CARD = "jane.roe@acme-corp.com", "4111 1111 1111 1111"
KEY = "ghp_a8Kd03mZqP5vT7yBnX2cR9wLfH4jS6uE1gQo"
PSEUDONYMS = {"pii": {"action": "pseudonymise"}}


def chat(*messages: Json, **more: Any) -> Step:
    return CODECS[Surface.CHAT].parse(orjson.dumps({"model": "m", "messages": messages, **more}))


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def text_parts(*texts: str) -> list[Json]:
    return [{"type": "text", "text": text} for text in texts]


async def passed(harness: Harness, step: Step, **whose: Any) -> Screened:
    screened = await harness.request(step, **whose)
    assert screened is not None
    assert orjson.loads(screened.step.raw) == screened.step.body
    return screened


# -- cut in pieces --------------------------------------------------------------------------------------


def cut(value: str, pieces: int) -> list[list[str]]:
    """The value cut at every place, into so many pieces of about one size."""
    found = []
    for at in range(1, len(value)):
        edges = sorted(
            {0, len(value), at, *(at + (len(value) - at) * k // (pieces - 1) for k in range(1, pieces - 1))}
        )
        found.append([value[a:b] for a, b in pairwise(edges)])
    return found


def laid_out(pieces: list[str], where: str) -> list[Step]:
    """The pieces as parts, as messages, and as results of parallel calls, on the surfaces that have them."""
    first, last = f"here: {pieces[0]}", f"{pieces[-1]} so."
    texts = [first, *pieces[1:-1], last]
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for i in range(len(texts))
    ]
    if where == "parts":
        return [chat(user(text_parts(*texts))), messages(user(text_parts(*texts)))]
    if where == "messages":
        return [chat(*map(user, texts)), responses(*map(user, texts)), messages(*map(user, texts))]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": text} for i, text in enumerate(texts)]
    blocks = [
        {"type": "tool_result", "tool_use_id": f"c{i}", "content": text} for i, text in enumerate(texts)
    ]
    outputs = [
        {"type": "function_call_output", "call_id": f"c{i}", "output": text} for i, text in enumerate(texts)
    ]
    uses = [{"type": "tool_use", "id": f"c{i}", "name": "f", "input": {}} for i in range(len(texts))]
    return [
        chat(user("go"), {"role": "assistant", "content": None, "tool_calls": calls}, *results),
        messages(user("go"), {"role": "assistant", "content": uses}, user(blocks)),
        responses(user("go"), *outputs),
    ]


def messages(*those: Json) -> Step:
    return CODECS[Surface.MESSAGES].parse(orjson.dumps({"model": "m", "max_tokens": 9, "messages": those}))


def responses(*items: Json, **more: Any) -> Step:
    return CODECS[Surface.RESPONSES].parse(orjson.dumps({"model": "m", "input": items, **more}))


@pytest.mark.parametrize("where", ["parts", "messages", "results"])
@pytest.mark.parametrize("pieces", [2, 4])
async def test_a_value_is_blocked_wherever_it_is_cut(where: str, pieces: int) -> None:
    harness = Harness(
        {"secrets": {"action": "block"}, "pii": {"action": "block", "entities": ["CREDIT_CARD"]}}
    )
    for value, code in ((KEY, "secret_blocked"), (CARD, "pii_blocked")):
        for parts in cut(value, pieces):
            for step in laid_out(parts, where):
                with pytest.raises(Blocked) as blocked:
                    await harness.request(step)
                assert blocked.value.ruling.code == code, parts


@pytest.mark.parametrize("where", ["parts", "messages", "results"])
@pytest.mark.parametrize("action", ["redact", "mask", "pseudonymise"])
async def test_a_cut_value_is_edited_in_every_piece(where: str, action: str) -> None:
    harness = Harness({"pii": {"action": action, "entities": ["CREDIT_CARD"]}})
    for parts in cut(CARD, 2):
        for step in laid_out(parts, where):
            screened = await passed(harness, step)
            left = " ".join(t.text for item in screened.step.items for t in item.texts)
            for part in parts:
                digits = part.strip()
                assert digits not in left or len(digits) < 5, (parts, left)
            again = CODECS[step.surface].parse(screened.step.raw)
            assert [i.texts for i in again.items] == [i.texts for i in screened.step.items]


# -- JSON -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["redact", "mask", "pseudonymise"])
async def test_json_in_arguments_and_results_remains_json(action: str) -> None:
    harness = Harness({"pii": {"action": action}})
    given = {
        "text": f'Hi\n{MAIL}\n"{CARD}"\t\\{MAIL}/', "card": 4111111111111111, "list": [[4111111111111111], -1, 0.5],
        "nested": orjson.dumps({"a": f"\n{MAIL}", "n": "4111111111111111"}).decode(), "ssn": "536228724", "ü": "\u2028",
    }  # fmt: skip
    for text in (
        orjson.dumps(given).decode(),
        json.dumps(given),
        json.dumps(given, indent=2),
    ):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
        step = chat(
            user("go"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": text},
        )
        screened = await passed(harness, step)
        body = screened.step.body["messages"]
        for edited in (body[1]["tool_calls"][0]["function"]["arguments"], body[2]["content"]):
            read = orjson.loads(edited)
            assert MAIL not in edited
            assert "4111" not in edited.replace("*", "") or action == "mask"
            assert "4111111111111111" not in edited
            assert "536228724" not in edited
            assert read["list"][1:] == [-1, 0.5]
            assert read["ü"] == "\u2028"
            assert read["text"].startswith("Hi\n")
            assert read["text"].count("\n") == 2
            orjson.loads(read["nested"])
        assert step.raw == orjson.dumps({"model": "m", "messages": step.body["messages"]})


async def test_the_same_arguments_are_judged_alike_on_every_surface() -> None:
    """A number that is somebody's only by the key that it stands under, and a key that is an address."""
    given = {"ssn": "536228724", "who": {MAIL: 1}}
    text = orjson.dumps(given).decode()
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    steps = [
        chat(user("go"), {"role": "assistant", "content": None, "tool_calls": [call]}),
        responses(user("go"), {"type": "function_call", "call_id": "c", "name": "f", "arguments": text}),
        messages(
            user("go"),
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": given}]},
        ),
    ]
    for step in steps:
        harness = Harness({"pii": {"action": "redact"}})
        screened = await passed(harness, step)
        raw = screened.step.raw.decode()
        assert MAIL not in raw, step.surface
        assert "536228724" not in raw, step.surface
        assert "[EMAIL_ADDRESS]" in raw
        assert {(f["type"], f["channel"], f["tool"]) for f in screened.findings} == {
            ("EMAIL_ADDRESS", "assistant", "f"),
            ("US_SSN", "assistant", "f"),
        }


# -- verdicts ---------------------------------------------------------------------------------------------


async def test_work_follows_the_new_text(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness({"injection": {}, "secrets": {"action": "block"}})
    scanned: list[int] = []
    real = engine.scan

    def counted(text: str, *rest: Any) -> Any:
        scanned.append(len(text))
        return real(text, *rest)

    monkeypatch.setattr("gateway.steps.screens.scan", counted)
    history: list[Json] = [{"role": "system", "content": "You are an agent."}]
    costs = []
    for turn in range(200):
        history.append(user(f"Question {turn}: " + f"and so on {turn} " * 20))
        scanned.clear()
        harness.pool.chars = 0
        await passed(harness, chat(*history))
        costs.append(sum(scanned) + harness.pool.chars)
        history.append({"role": "assistant", "content": f"Answer {turn}. " * 30})
    # Each text by itself and at its borders, and nothing of the turns before.
    assert max(costs[1:]) < 3 * (310 + 450), costs
    assert max(costs[150:]) <= 1.3 * max(costs[1:50])
    # The same again costs nothing.
    scanned.clear()
    harness.pool.chars = 0
    await passed(harness, chat(*history))
    assert sum(scanned) + harness.pool.chars < 1000


async def test_a_verdict_is_for_one_policy_one_principal_and_one_channel() -> None:
    text = f"see {MAIL} " + "x" * 3 * INLINE_CHARS
    harness = Harness({"pii": {"action": "flag"}})

    async def work(step: Step, **whose: Any) -> int:
        harness.pool.chars = 0
        await passed(harness, step, **whose)
        return harness.pool.chars

    assert await work(chat(user(text))) == len(text)
    assert await work(chat(user(text))) == 0
    assert await work(chat(user(text)), caller=BOB) == len(text)
    assert await work(chat({"role": "system", "content": text})) == len(text)
    # Another replica with the same store has it from there.
    other = Harness({"pii": {"action": "redact"}}, store=harness.store)
    screened = await passed(other, chat(user(text)))
    assert other.pool.chars == 0
    assert MAIL not in screened.step.raw.decode()
    # What is done about it is decided anew, what is looked for is looked for anew.
    policies: tuple[Json, ...] = ({"pii": {"action": "flag", "entities": ["EMAIL_ADDRESS"]}}, {"secrets": {}})
    for changed in policies:
        anew = Harness(changed, store=harness.store)
        await passed(anew, chat(user(text)))
        assert anew.pool.chars == len(text)


async def test_verdicts_that_others_push_out_are_not_missed() -> None:
    """While one request waits for the pool, others fill the memory."""
    harness = Harness({"secrets": {"action": "flag"}})
    known = chat(user("a short and known text"))
    await passed(harness, known)
    waits = asyncio.Event()
    real = harness.pool.scan

    async def slow(*given: Any) -> Any:
        await waits.wait()
        return await real(*given)

    harness.pool.scan = slow  # type: ignore[method-assign, assignment]
    both = asyncio.create_task(
        passed(harness, chat(user("a short and known text"), {"role": "system", "content": "new " * 1000}))
    )
    await asyncio.sleep(0)
    harness.pool.scan = real  # type: ignore[method-assign]
    many = [f"text {i}" for i in range(VERDICTS + 10)]
    await passed(harness, chat(user(text_parts(*many))))
    waits.set()
    await both


# -- failures ---------------------------------------------------------------------------------------------

LONG = "long " * 1000
OTHERS = {
    "chat": lambda: chat(user(LONG)),
    "messages": lambda: messages(user(LONG)),
    "responses": lambda: responses(user(LONG)),
    "embeddings": lambda: CODECS[Surface.EMBEDDINGS].parse(orjson.dumps({"model": "m", "input": LONG})),
    "completions": lambda: CODECS[Surface.COMPLETIONS].parse(orjson.dumps({"model": "m", "prompt": LONG})),
    "moderations": lambda: CODECS[Surface.MODERATIONS].parse(orjson.dumps({"model": "m", "input": LONG})),
    "count_tokens": lambda: parse_count(orjson.dumps({"model": "m", "messages": [user(LONG)]})),
}


@pytest.mark.parametrize("surface", OTHERS)
@pytest.mark.parametrize("reason", ["timeout", "crashed", "overloaded"])
async def test_without_a_verdict_the_rules_decide(surface: str, reason: str) -> None:
    step = OTHERS[surface]()
    for name in ("injection", "pii", "secrets"):
        refuses = Harness({name: {}})
        refuses.pool.fails = reason
        with pytest.raises(GatewayError) as failed:
            await refuses.request(step)
        assert (failed.value.code, failed.value.status) == ("guardrail_unavailable", 503)
        assert failed.value.retry_after_s == 1
        assert reason in str(failed.value)
        assert refuses.bypassed == []
        for rule in ({"on_failure": "allow"}, {"mode": "shadow"}, {"mode": "shadow", "on_failure": "allow"}):
            allows = Harness({name: rule})
            allows.pool.fails = reason
            screened = await passed(allows, step)
            assert not screened.edited
            assert allows.bypassed == [f"screening.{name}"]
            assert screened.findings == [
                {"detector": name, "channel": "user", "mode": rule.get("mode", "enforce"), "action": "allow",
                 "type": f"unscreened_{reason}", "count": 1}
            ]  # fmt: skip
            assert allows.told == [screened.findings]


async def test_one_rule_that_refuses_is_enough_and_nothing_counts_as_let_pass() -> None:
    harness = Harness({"injection": {"on_failure": "allow"}, "secrets": {"on_failure": "refuse"}})
    harness.pool.fails = "timeout"
    with pytest.raises(GatewayError, match=r"screening\.secrets"):
        await harness.request(chat(user(LONG)))
    assert harness.bypassed == []
    # Short texts need no pool.
    await passed(harness, chat(user("short")))


async def test_a_failure_is_not_remembered_as_a_verdict() -> None:
    harness = Harness({"secrets": {"action": "block", "on_failure": "allow"}})
    harness.pool.fails = "crashed"
    await passed(harness, chat(user(LONG + KEY)))
    harness.pool.fails = ""
    with pytest.raises(Blocked):
        await harness.request(chat(user(LONG + KEY)))


# -- stand-ins ----------------------------------------------------------------------------------------------


async def test_two_workers_of_one_session_lose_nothing_of_each_other() -> None:
    """Both read before either writes."""
    store = Records()
    one, two = Harness(PSEUDONYMS, store=store), Harness(PSEUDONYMS, store=store)
    one.screens._slot, two.screens._slot = 1, 2
    held = asyncio.Event()
    real = store.remember

    async def late(*given: Any) -> None:
        await held.wait()
        await real(*given)

    store.remember = late  # type: ignore[method-assign, assignment]
    first = asyncio.create_task(passed(one, chat(user(f"mail {MAIL}"))))
    second = asyncio.create_task(passed(two, chat(user("mail bob.roe@acme-corp.com"))))
    await asyncio.sleep(0.01)
    held.set()
    a, b = await asyncio.gather(first, second)
    third = Harness(PSEUDONYMS, store=store)
    screened = await passed(third, chat(user("go on")))
    assert screened.output is not None
    said = " ".join(step.body["messages"][0]["content"] for step in (a.step, b.step))
    restored = screened.output.plain(
        Surface.CHAT, {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
    )
    assert restored is not None
    assert restored["choices"][0]["message"]["content"] == f"mail {MAIL} mail bob.roe@acme-corp.com"
    assert all(MAIL.encode() not in value for value in store.kept.values())


async def test_requests_that_come_while_a_session_is_read_share_its_stand_ins() -> None:
    store = Records()
    before = await passed(Harness(PSEUDONYMS, store=store), chat(user(f"mail {MAIL}")))
    harness = Harness(PSEUDONYMS, store=store)
    both = await asyncio.gather(*[passed(harness, chat(user("go on"))) for _ in range(3)])
    outputs = [screened.output for screened in both]
    assert None not in outputs
    assert len({id(output.vault) for output in outputs if output is not None}) == 1
    del before


async def test_what_is_only_counted_leaves_nothing_behind() -> None:
    harness = Harness(PSEUDONYMS)
    for i in range(3):
        step = parse_count(orjson.dumps({"model": "m", "messages": [user(f"mail user{i}@acme-corp.com")]}))
        screened = await passed(harness, step, session="count_tokens", run="")
        assert "acme-corp" not in screened.step.raw.decode()
    assert harness.store.kept == {}
    assert harness.screens._vaults == {}


async def test_the_store_is_not_asked_where_nothing_is_to_come_back() -> None:
    harness = Harness({"pii": {"action": "redact"}, "secrets": {}})
    await passed(harness, chat(user(f"mail {MAIL}")))
    assert (harness.store.recalls, harness.store.kept) == (0, {})


# -- what cannot be read --------------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
UNREADABLE = {
    "image": chat(user([IMAGE])),
    "file": chat(user([{"type": "file", "file": {"file_data": "AA", "filename": "a.pdf"}}])),
    "audio": chat(user([{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}])),
    "prompt": responses(prompt={"id": "pmpt_1"}, user="u"),
    "other": CODECS[Surface.COMPLETIONS].parse(orjson.dumps({"model": "m", "prompt": [1, 2, 3]})),
    "passthrough": Step(Surface.PASSTHROUGH, "/x", False, {}, b"{}", (), (), None, 1, False, 0),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("detectors", [{}, {"secrets": {}}], ids=["alone", "beside detectors"])
async def test_what_cannot_be_read_is_allowed_flagged_or_refused(kind: str, detectors: Json) -> None:
    step = UNREADABLE[kind]
    blocks = Harness({**detectors, "unscannable": "block"})
    with pytest.raises(Blocked, match=kind) as blocked:
        await blocks.request(step)
    assert blocked.value.ruling.rule == "screening.unscannable"
    (found,) = blocked.value.findings
    assert (found["detector"], found["action"], found["type"]) == ("unscannable", "block", kind)
    # What can be read passes.
    screened = await blocks.request(chat(user("plain")))
    assert screened is None or screened.findings == []
    for action, expected in (("flag", 1), ("allow", 0)):
        harness = Harness({"secrets": {}, "unscannable": action})
        screened = await passed(harness, step)
        assert len(screened.findings) == expected
        assert screened.output is None or not screened.edited


async def test_nothing_is_done_without_rules() -> None:
    assert await Harness({}).request(UNREADABLE["image"]) is None
    assert await Harness({"secrets": {"mode": "off"}}).request(chat(user(KEY))) is None


# -- hostile texts ----------------------------------------------------------------------------------------------

EVERYTHING = {
    "injection": {},
    "pii": {"action": "redact"},
    "secrets": {"action": "redact"},
    "unscannable": "allow",
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("４１１１ １１１１ １１１１ １１１１", "CREDIT_CARD"),
        ("4111\u200b 1111\u200b 1111\u200b 1111", "CREDIT_CARD"),
        ("\u202e4111 1111 1111 1111\u202c", "CREDIT_CARD"),
        ("\u200f4111-1111-1111-1111\u200e", "CREDIT_CARD"),
        ("4111 1111 1111 1111\x00", "CREDIT_CARD"),
        ("\x004111 1111 1111 1111 \x00", "CREDIT_CARD"),
        ("card u\u0308ber 4111 1111 1111 1111", "CREDIT_CARD"),
        ("jane.roe＠acme-corp.com", "EMAIL_ADDRESS"),
        ("jane.roe@acme\u200b-corp.com", "EMAIL_ADDRESS"),
    ],
)
async def test_other_spellings_are_found_and_cut_out_whole(text: str, found: str) -> None:
    harness = Harness(EVERYTHING)
    screened = await passed(harness, chat(user(f"this: {text} ok")))
    assert found in {f["type"] for f in screened.findings}
    left = screened.step.body["messages"][0]["content"]
    assert "1111" not in left
    assert "１１１１" not in left
    assert "acme" not in left


@pytest.mark.parametrize("escaped", [False, True])
async def test_escapes_of_the_request_change_nothing(escaped: bool) -> None:
    body = '{"model":"m","messages":[{"role":"user","content":"the token is %s"}]}'
    value = "".join(f"\\u{ord(c):04x}" for c in KEY) if escaped else KEY
    harness = Harness({"secrets": {"action": "block"}})
    with pytest.raises(Blocked):
        await harness.request(CODECS[Surface.CHAT].parse((body % value).encode()))


async def test_pathological_requests_take_bounded_time() -> None:
    deep = '{"a":' * 60 + '"' + CARD + '"' + "}" * 60
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": deep}}
    cases = {
        "tiny parts": chat(user(text_parts(*[c for c in (MAIL + " ") * 450][:10_000]))),
        "empty parts": chat(user(text_parts(*["a"] * 10_000))),
        "deep arguments": chat(user("go"), {"role": "assistant", "content": None, "tool_calls": [call]}),
        "backslashes": chat(user('"' + "\\" * 200_000)),
        "brackets": chat(user("[" * 200_000)),
        "quotes": chat(user('\\"' * 100_000)),
        "numbers": chat(user(f"[{','.join(['4111111111111111'] * 2000)}]")),
        "digits": chat(user("4" * 200_000)),
        "marks": chat(user("a" + "\u0301" * 100_000)),
    }
    for name, step in cases.items():
        harness = Harness(EVERYTHING)
        with Effort() as effort:
            screened = await passed(harness, step)
        assert effort.seconds < 6, name
        if name in ("deep arguments", "numbers"):
            assert "4111" not in screened.step.raw.decode(), name
        if name == "deep arguments":
            orjson.loads(screened.step.body["messages"][1]["tool_calls"][0]["function"]["arguments"])
        if name == "numbers":
            assert orjson.loads(screened.step.body["messages"][0]["content"]) == ["[CREDIT_CARD]"] * 2000
        if name == "tiny parts":
            assert MAIL not in "".join(p["text"] for p in screened.step.body["messages"][0]["content"])


async def test_more_values_than_a_session_can_hide_are_not_let_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.screening.vault.MOST", 2)
    harness = Harness({"pii": {"action": "pseudonymise", "entities": ["EMAIL_ADDRESS"]}})
    known = "Write to a@example.com and b@example.com."
    await passed(harness, chat(user(known)))
    with pytest.raises(Blocked) as blocked:
        await passed(harness, chat(user("And to c@example.com.")))
    assert (blocked.value.code, blocked.value.ruling.scope) == ("pii_blocked", "session")
    screened = await passed(harness, chat(user(known)))
    assert b"@example.com" not in screened.step.raw
