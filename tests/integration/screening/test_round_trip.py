"""Values that were pseudonymised come back wherever the agent looks, and reach the provider nowhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from gateway.testing.script import Ask
from tests.integration.data_plane.test_governance import Agent
from tests.integration.data_plane.test_surfaces import (
    lanes,
    policy_for,
    post,
    streams,
)
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway
from tests.support.redis_server import RedisServer
from tests.support.wire import CHAT, MESSAGES, RESPONSES, WIRES

Json = dict[str, Any]

MAIL, OTHER = "jane.roe@acme-corp.com", "bob.roe@acme-corp.com"
PHONE, CARD = "+49 30 901820", "4111 1111 1111 1111"
SSN = "536-22-8724"
POLICY = """
screening: {pii: {action: pseudonymise}}
tools: {search_web: {side_effects: external}}
"""
STAND_IN = re.compile(
    r"user-[a-z2-7]{10}@example\.invalid|\+999[ .-]?\d{4}|9999[ .-]?\d{4}[ .-]?\d{4}|<[A-Z_]+_[a-z2-7]{10}>",
    re.I,
)
MAILS = re.compile(r"user-[a-z2-7]{10}@example\.invalid")
VALUES = (MAIL, OTHER, PHONE, CARD, SSN)


@pytest.fixture(scope="module")
def shared(
    shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    """One gateway for all tests that do not look at what others left in it."""
    place = tmp_path_factory.mktemp("round-trip")
    with threaded_gateway(policy_for(shared_provider, POLICY), place) as gateway:
        yield gateway


def sent(provider: ProviderServer) -> str:
    """Everything that the provider was ever told."""
    return "\n".join(attempt.body.decode() for attempt in provider.journal)


def asked(ask: Ask) -> str:
    return " ".join(turn.text for turn in ask.turns)


def turn_of(ask: Ask) -> int:
    return sum(turn.role == "assistant" for turn in ask.turns)


class Told(Agent):
    """An agent whose tools answer with JSON that holds more values, and that keeps whatever it receives."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.results: dict[str, str] = {}

    def step(self) -> bool:
        before = len(self.history)
        going = super().step()
        for i in range(before, len(self.history)):
            self.history[i] = _with_results(self.history[i], self.results)
        return going


def _with_results(item: Json, results: dict[str, str]) -> Json:
    dumped = json.dumps(item)
    for name, text in results.items():
        dumped = dumped.replace(json.dumps(f"result of {name}")[1:-1], json.dumps(text)[1:-1])
    loaded: Json = json.loads(dumped)
    return loaded


@lanes
@streams
def test_ten_turns_in_which_nothing_is_lost_and_nothing_leaks(
    shared: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    """Parallel calls, quotes and line ends around values, JSON in results, values first seen in a result, an external
    tool, and what the user writes that only looks like a stand-in."""
    result = json.dumps(
        {"rows": [{"note": f'line\n{OTHER}\n"{PHONE}"\t{CARD}', "n": 4111111111111111}], "ok": True}
    )

    def answers(ask: Ask) -> Reply:
        text = asked(ask)
        mails = list(dict.fromkeys(MAILS.findall(text)))
        turn = turn_of(ask)
        mine = next(m for m in mails if m != "user-aaaaaaaaaa@example.invalid")
        if turn == 0:
            return Reply(
                f"Looking for <{mine}>.",
                tool_calls=[("read_rows", {"q": f'"{mine}"'})],
                reasoning=f"ask {mine}",
            )
        if turn < 8:
            body = f'Dear "{mine}",\n{mails[-1]}\nsays\t\\{mine}/'
            return Reply(
                f"Step {turn}: {mails[-1]}",
                tool_calls=[
                    ("send_mail", {"q": "m", "to": mine, "body": body, "n": turn}),
                    ("send_mail", {"q": "m", "to": mails[-1], "n": turn}),
                ],
            )
        if turn == 8:
            return Reply(tool_calls=[("search_web", {"q": mine}), ("send_mail", {"q": "m", "to": mine})])
        return Reply("Done: " + ", ".join(mails) + " and <PERSON_1>. " + text[text.index("line") :][:150])

    provider.script("trip", answers)
    agent = Told(shared, WIRES[surface], f"{prefix}/trip", ["read_rows", "send_mail", "search_web"], stream)
    agent.results = {"read_rows": result}
    ask = f"Write to {MAIL} and to <PERSON_1>; user-aaaaaaaaaa@example.invalid is no address. SSN {SSN}"
    final = agent.run(ask)
    assert agent.error is None
    assert len(agent.headers) == 10
    # What only looks like a stand-in is as the user wrote it; everything else is a value again.
    received = json.dumps(agent.history) + json.dumps(agent.executed)
    searched = [arguments for name, arguments in agent.executed if name == "search_web"]
    assert len(searched) == 1
    assert MAIL not in searched[0]
    (hidden,) = MAILS.findall(searched[0])
    left = set(STAND_IN.findall(received.replace(hidden, ""))) - {"user-aaaaaaaaaa@example.invalid"}
    assert left == set()
    assert "<PERSON_1>" in final
    assert MAIL in final
    assert OTHER in final
    mails = [json.loads(arguments) for name, arguments in agent.executed if name == "send_mail"]
    assert {m["to"] for m in mails} == {MAIL, OTHER}
    assert mails[0]["body"] == f'Dear "{MAIL}",\n{OTHER}\nsays\t\\{MAIL}/'
    told = sent(provider)
    for value in VALUES:
        assert value not in told
    assert "4111111111111111" not in told
    assert hidden in told
    assert len({headers["x-guardrail-run-id"] for headers in agent.headers}) == 1


@streams
def test_every_choice_is_restored(shared: ThreadedGateway, provider: ProviderServer, stream: bool) -> None:
    provider.script(
        "two", lambda ask: Reply(tuple(f"{i}: {MAILS.findall(asked(ask))[0]}!" for i in range(3)))
    )
    body = CHAT.request("sim/two", f"mail {MAIL}", n=3, stream=stream)
    status, _, raw = post(shared, CHAT, body)
    assert status == 200
    texts: dict[int, str] = {}
    if stream:
        for line in raw.decode().split("\n"):
            for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
                texts[choice["index"]] = texts.get(choice["index"], "") + (
                    choice["delta"].get("content") or ""
                )
    else:
        texts = {choice["index"]: choice["message"]["content"] for choice in json.loads(raw)["choices"]}
    assert texts == {i: f"{i}: {MAIL}!" for i in range(3)}


def test_sessions_and_principals_share_nothing(shared: ThreadedGateway, provider: ProviderServer) -> None:
    def answers(ask: Ask) -> Reply:
        found = MAILS.findall(asked(ask))
        return Reply(found[0] if found else "none")

    provider.script("who", answers)
    seen = []
    for key, session in ((ALICE, "s-one"), (ALICE, "s-two"), (BOB, "s-one")):
        status, _, raw = post(
            shared, CHAT, CHAT.request("sim/who", f"mail {MAIL}"), key=key, x_guardrail_session_id=session
        )
        assert (status, CHAT.read(raw).text) == (200, MAIL)
        seen += MAILS.findall(provider.journal.last.body.decode())
    assert len(set(seen)) == 3
    # A stand-in of one session says nothing in another, nor to somebody else who names the same session.
    for key, session in ((ALICE, "s-two"), (BOB, "s-one"), (ALICE, "s-three")):
        status, _, raw = post(
            shared,
            CHAT,
            CHAT.request("sim/who", f"who is {seen[0]}"),
            key=key,
            x_guardrail_session_id=session,
        )
        assert MAIL not in raw.decode()
    status, _, raw = post(
        shared, CHAT, CHAT.request("sim/who", f"who is {seen[0]}"), x_guardrail_session_id="s-one"
    )
    assert CHAT.read(raw).text == MAIL


@streams
def test_what_the_provider_keeps_is_restored_when_it_is_gone_on_from_and_fetched(
    shared: ThreadedGateway, provider: ProviderServer, stream: bool
) -> None:
    def answers(ask: Ask) -> Reply:
        found = MAILS.findall(json.dumps(ask.items))
        return Reply(
            f"I know {found[0]}.", tool_calls=[("note", {"q": f"\n{found[0]}"})] if len(ask.items) < 2 else ()
        )

    provider.script("kept", answers)
    status, _, raw = post(
        shared, RESPONSES, RESPONSES.request("sim/kept", f"mail {MAIL}", ["note"], stream=stream, store=True)
    )
    said = RESPONSES.read(raw)
    assert (status, said.text) == (200, f"I know {MAIL}.")
    assert json.loads(said.calls[0][2]) == {"q": f"\n{MAIL}"}
    result = {"type": "function_call_output", "call_id": said.calls[0][0], "output": "noted"}
    body = {
        "model": "sim/kept",
        "input": [result],
        "previous_response_id": said.id,
        "stream": stream,
        "store": True,
    }
    status, _, raw = post(shared, RESPONSES, body)
    second = RESPONSES.read(raw)
    assert (status, second.text) == (200, f"I know {MAIL}.")
    for path in ("", "/input_items"):
        status, _, raw = shared.request("GET", f"/v1/responses/{said.id}{path}")
        assert status == 200, raw
        assert MAIL in raw.decode()
        assert not STAND_IN.search(raw.decode()), path
    # For nobody else.
    assert shared.request("GET", f"/v1/responses/{said.id}", key=BOB)[0] == 404
    assert MAIL not in sent(provider)


def test_an_answer_made_in_the_background_is_followed_with_its_values(
    shared: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("later", lambda ask: Reply(f"I know {MAILS.findall(asked(ask))[0]}."))
    body = RESPONSES.request("sim/later", f"mail {MAIL}", stream=True, store=True, background=True)
    status, _, raw = post(shared, RESPONSES, body)
    said = RESPONSES.read(raw)
    assert (status, said.text) == (200, f"I know {MAIL}.")
    status, _, raw = shared.request("GET", f"/v1/responses/{said.id}?stream=true")
    assert (status, RESPONSES.read(raw).text) == (200, f"I know {MAIL}.")
    assert not STAND_IN.search(raw.decode())


@pytest.mark.redis
@pytest.mark.slow
def test_a_value_that_one_replica_hid_is_restored_by_another_and_after_a_restart(
    provider: ProviderServer, tmp_path: Path
) -> None:
    provider.script("kept", lambda ask: Reply(" ".join(["I know", *MAILS.findall(json.dumps(ask.items))])))
    policy = policy_for(provider, POLICY)

    def ask(gateway: Any, **body: Any) -> Any:
        status, _, raw = gateway.post({"model": "sim/kept", "store": True, **body}, path="/v1/responses")
        assert status == 200, raw
        return RESPONSES.read(raw)

    with RedisServer() as server, threaded_gateway(policy, tmp_path / "b", store_url=server.patient_url) as b:
        with threaded_gateway(policy, tmp_path / "a", store_url=server.patient_url) as a:
            first = ask(a, input=f"mail {MAIL}")
            assert first.text == f"I know {MAIL}"
            # Both have values of their own, none overwrites the other's.
            second = ask(b, input=f"and {OTHER}", previous_response_id=first.id)
            assert second.text == f"I know {MAIL} {MAIL} {OTHER}"
            third = ask(a, input="and now?", previous_response_id=second.id)
            assert MAIL in third.text
            assert OTHER in third.text
            assert not STAND_IN.search(third.text)
        with threaded_gateway(policy, tmp_path / "a2", store_url=server.patient_url) as again:
            assert OTHER in ask(again, input="and now?", previous_response_id=third.id).text
            status, _, raw = again.request("GET", f"/v1/responses/{second.id}")
            assert status == 200
            assert OTHER in raw.decode()
            assert not STAND_IN.search(raw.decode())
        keys = server.client().keys("*") if hasattr(server, "client") else []
        assert not [key for key in keys if MAIL.encode() in key]
    assert MAIL not in sent(provider)


def test_stand_ins_survive_a_restart_of_the_embedded_store(provider: ProviderServer, tmp_path: Path) -> None:
    provider.script("kept", lambda ask: Reply(" ".join(["I know", *MAILS.findall(json.dumps(ask.items))])))
    policy = policy_for(provider, POLICY)
    body: Json = {"model": "sim/kept", "store": True}
    with threaded_gateway(policy, tmp_path / "a", data_dir=tmp_path / "data") as gateway:
        _, _, raw = gateway.post({**body, "input": f"mail {MAIL}"}, path="/v1/responses")
        first = RESPONSES.read(raw)
    with threaded_gateway(policy, tmp_path / "b", data_dir=tmp_path / "data") as gateway:
        body = {**body, "input": "go on", "previous_response_id": first.id}
        status, _, raw = gateway.post(body, path="/v1/responses")
        assert status == 200, raw
        assert MAIL in RESPONSES.read(raw).text
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file():
            assert MAIL.encode() not in file.read_bytes(), file


def test_two_types_of_one_value_and_keys_that_are_values(
    shared: ThreadedGateway, provider: ProviderServer
) -> None:
    """An object may be keyed by addresses: the history of a call that was restored has them in its keys."""

    def answers(ask: Ask) -> Reply:
        if turn_of(ask) == 0:
            (mine,) = MAILS.findall(asked(ask))
            return Reply(tool_calls=[("note", {"q": "x", "who": {mine: {"mail": mine, "card": "none"}}})])
        return Reply("fine")

    provider.script("keys", answers)
    for wire, model in (
        (MESSAGES, "claude/keys"),
        (CHAT, "sim/keys"),
        (RESPONSES, "sim/keys"),
        (CHAT, "claude/keys"),
    ):
        agent = Agent(shared, wire, model, ["note"])
        assert agent.run(f"mail {MAIL}") == "fine"
        assert json.loads(agent.executed[0][1]) == {
            "q": "x",
            "who": {MAIL: {"mail": MAIL, "card": "none"}},
        }
    assert MAIL not in sent(provider)
