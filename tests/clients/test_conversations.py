"""Where one run ends and the next begins, and what a conversation survives: trimming, summaries, edits."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, Scenario
from tests.clients.clients import EVERY, STEPS, Client, Drivers, at_the_ends
from tests.clients.records import runs_of
from tests.clients.talk import TOOLS, Talk
from tests.integration.conftest import MakeGateway, let_time_pass
from tests.support.gateway import ALICE, ThreadedGateway

pytestmark = pytest.mark.clients

Messages = list[dict[str, Any]]
PROMPT = "Why does the printer on the third floor print everything twice?"


# -- successors -----------------------------------------------------------------------------------------


def test_a_second_question_in_a_chat_with_tools_opens_a_successor_of_the_same_session(
    gateway: ThreadedGateway,
) -> None:
    chat = Talk(gateway, "sim/steps-3")
    chat.say(PROMPT)
    chat.say("And the one on the fourth floor?")
    chat.say("Thank you. Anything else that I should know?")
    assert [seen.step for seen in chat.seen] == [1, 2, 3] * 3
    first, second, third = runs_of(gateway)
    assert [run.continues for run in (first, second, third)] == [None, first.id, second.id]
    assert len({run.session for run in (first, second, third)}) == 1
    assert {run.status for run in (first, second, third)} == {"completed"}


def test_two_chats_stay_two_sessions_over_all_their_runs(gateway: ThreadedGateway) -> None:
    one, other = Talk(gateway, "sim/steps-2"), Talk(gateway, "sim/steps-2")
    for question in (PROMPT, "And then?", "And then?"):
        one.say(question)
        other.say(question)
    assert len(one.runs) == len(other.runs) == 3
    assert len(one.sessions) == len(other.sessions) == 1
    assert not set(one.sessions) & set(other.sessions)


def test_an_agent_that_speaks_text_stays_in_its_run_while_it_comes_back_at_once(
    gateway: ThreadedGateway,
) -> None:
    chat = Talk(gateway, "sim/echo", tools=False)
    chat.say(PROMPT)
    chat.say("Observation: nothing was found.")
    assert len(chat.runs) == 1


def test_an_agent_that_speaks_text_opens_a_successor_after_the_gap(make_gateway: MakeGateway) -> None:
    gateway = make_gateway("runs: {text_agent_gap_s: 60}\n")
    chat = Talk(gateway, "sim/echo", tools=False)
    chat.say(PROMPT)
    let_time_pass(gateway, 61)
    chat.say("And the one on the fourth floor?")
    first, second = runs_of(gateway)
    assert second.continues == first.id
    assert second.session == first.session


def test_an_agent_started_again_does_not_join_an_equal_one_that_was_abandoned(
    make_gateway: MakeGateway,
) -> None:
    gateway = make_gateway("runs: {text_agent_gap_s: 60}\n")
    abandoned = Talk(gateway, "sim/steps-3")
    abandoned.tools = False
    abandoned.messages.append({"role": "user", "content": PROMPT})
    abandoned.step()
    let_time_pass(gateway, 61)
    again = Talk(gateway, "sim/steps-3", tools=False)
    again.messages.append({"role": "user", "content": PROMPT})
    again.step()
    again.messages.append({"role": "user", "content": "Observation: nothing was found."})
    again.step()
    assert len(again.runs) == 1
    assert again.runs != abandoned.runs


# -- edited histories -----------------------------------------------------------------------------------


def last_four(messages: Messages) -> Messages:
    """A sliding window: the system message and the four newest."""
    return messages[:1] + messages[1:][-4:]


def summarised(messages: Messages, kept: int = 4) -> Messages:
    """What compaction leaves: a summary, and the newest messages as they were."""
    if len(messages) <= kept + 4:
        return messages
    summary = {"role": "user", "content": f"Summary of {len(messages)} messages: nothing was found so far."}
    return [messages[0], summary, *messages[-kept:]]


def summarised_but_one(messages: Messages) -> Messages:
    """The same with the newest call and its result alone: what ties it to its run is the call's id."""
    return summarised(messages, kept=2)


def reserialised(messages: Messages) -> Messages:
    """The same conversation as other clients write it: arguments with spaces, `""` for null, other order."""
    found: Messages = []
    for message in messages:
        changed = dict(reversed(message.items()))
        if message.get("tool_calls"):
            changed["content"] = message.get("content") or ""
            changed["tool_calls"] = [
                {
                    **call,
                    "function": {
                        "arguments": json.dumps(json.loads(call["function"]["arguments"]), indent=1),
                        "name": call["function"]["name"],
                    },
                }
                for call in message["tool_calls"]
            ]
        elif message["role"] == "user" and isinstance(message["content"], str):
            changed["content"] = [{"type": "text", "text": message["content"] + "\r\n"}]
        changed.pop("refusal", None)
        found.append(changed)
    return found


def clocked(messages: Messages) -> Messages:
    """A system prompt that tells the time."""
    head = {"role": "system", "content": f"It is {time.time()}. You are a careful researcher."}
    return [head, *messages[1:]]


@pytest.mark.parametrize("edit", [last_four, summarised, summarised_but_one, clocked, reserialised])
def test_a_tool_agent_with_an_edited_history_stays_in_its_run(
    edit: Any, gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("eight", Scenario([search(n) for n in range(1, 8)] + [Reply("Done.")], by="sequence"))
    chat = Talk(gateway, "sim/eight", edit=edit)
    assert chat.say(PROMPT) == "Done."
    assert [seen.step for seen in chat.seen] == list(range(1, 9))
    (run,) = runs_of(gateway)
    assert run.status == "completed"


@pytest.mark.parametrize("edit", [last_four, summarised, clocked, reserialised])
def test_with_ids_that_say_nothing_content_ties_the_steps_together(
    edit: Any, gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    replies = [search(n, tool_call_ids="colliding") for n in range(1, 8)] + [Reply("Done.")]
    provider.script("ollama", Scenario(replies, by="sequence"))
    chat = Talk(gateway, "sim/ollama", edit=edit)
    assert chat.say(PROMPT) == "Done."
    assert [seen.step for seen in chat.seen] == list(range(1, 9))


@pytest.mark.parametrize("edit", [last_four, summarised, clocked])
def test_a_text_agent_with_an_edited_history_stays_in_its_run(
    edit: Any, gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    thoughts = [Reply(f"Thought: part {n} is still unknown.\nAction: search {n}") for n in range(1, 8)]
    provider.script("thinker", Scenario([*thoughts, Reply("Final Answer: none")], by="sequence"))
    chat = Talk(gateway, "sim/thinker", tools=False, edit=edit)
    chat.say(PROMPT)
    for n in range(1, 8):
        chat.say(f"Observation: nothing was found about part {n} in the whole archive.")
    assert [seen.step for seen in chat.seen] == list(range(1, 9))


def test_a_conversation_of_which_only_a_summary_is_left_is_a_new_run(gateway: ThreadedGateway) -> None:
    chat = Talk(gateway, "sim/steps-3")
    chat.say(PROMPT)
    chat.messages = [chat.messages[0]]
    chat.say("Summary: nothing was found. Please go on.")
    assert len(chat.runs) == 2


def test_an_edited_tool_result_is_another_branch_of_the_same_run(gateway: ThreadedGateway) -> None:
    chat = Talk(gateway, "sim/steps-4")
    chat.messages.append({"role": "user", "content": PROMPT})
    chat.run_tools(chat.step())
    chat.run_tools(chat.step())
    # Undo the last exchange, and give the tool's first result another text.
    chat.messages = chat.messages[:-2]
    chat.messages[-1]["content"] = "The archive is closed today."
    chat.step()
    assert [seen.step for seen in chat.seen] == [1, 2, 3]
    assert len(chat.runs) == 1


def test_an_edited_question_stays_in_its_session(gateway: ThreadedGateway) -> None:
    chat = Talk(gateway, "sim/steps-2")
    chat.say(PROMPT)
    kept = list(chat.messages)
    chat.say("And the one on the fourth floor?")
    chat.messages = kept
    chat.say("And the one on the fifth floor?")
    assert len(chat.runs) == 3
    assert len(chat.sessions) == 1


def test_a_regenerated_answer_is_a_step_of_the_same_run(gateway: ThreadedGateway) -> None:
    chat = Talk(gateway, "sim/steps-2")
    chat.say(PROMPT)
    chat.messages.pop()
    chat.body = {"temperature": 1}
    chat.step()
    assert [seen.step for seen in chat.seen] == [1, 2, 3]
    assert len(chat.runs) == 1


def search(number: int, **more: Any) -> Reply:
    return Reply(tool_calls=[("search", {"query": f"part {number} of the whole archive"})], **more)


def test_a_slow_upload_of_one_step_does_not_outlast_the_answer_after_it(gateway: ThreadedGateway) -> None:
    chat = Talk(gateway, "sim/steps-2")
    chat.messages.append({"role": "user", "content": PROMPT})
    body = {"model": chat.model, "messages": chat.messages, "tools": TOOLS}
    message = json.loads(post_slowly(gateway, body))["choices"][0]["message"]
    chat.messages.append(message)
    chat.run_tools(message)
    chat.step()
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2]
    assert run.status == "completed"


def post_slowly(gateway: ThreadedGateway, body: dict[str, Any]) -> bytes:
    """A request whose body comes half a second after its head."""
    data = json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("authorization", f"Bearer {ALICE}")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(len(data)))
    connection.endheaders()
    connection.send(data[:20])
    time.sleep(0.5)
    connection.send(data[20:])
    answer = connection.getresponse().read()
    connection.close()
    return answer


# -- hints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "x-guardrail-session-id",
        "x-session-id",
        "x-litellm-session-id",
        "helicone-session-id",
        "x-acme-session-id",
    ],
)
def test_a_session_header_groups_runs(header: str, gateway: ThreadedGateway) -> None:
    talks = [Talk(gateway, "sim/steps-2", headers={header: "thread-0815"}) for _ in range(3)]
    for talk in talks:
        talk.say(PROMPT)
    assert len({run for talk in talks for run in talk.runs}) == 3
    assert {session for talk in talks for session in talk.sessions} == {"thread-0815"}


@pytest.mark.parametrize(
    "body", [{"user": "ann"}, {"prompt_cache_key": "support"}, {"metadata": {"session_id": "thread-0815"}}]
)
def test_a_value_in_the_body_groups_new_runs(body: dict[str, Any], gateway: ThreadedGateway) -> None:
    talks = [Talk(gateway, "sim/steps-2", body=body) for _ in range(2)]
    for talk in talks:
        talk.say(PROMPT)
    assert len({run for talk in talks for run in talk.runs}) == 2
    assert len({session for talk in talks for session in talk.sessions}) == 1


@pytest.mark.parametrize("how", ["header", pytest.param("url", marks=pytest.mark.slow)])
@pytest.mark.parametrize("client", at_the_ends(EVERY))
def test_a_named_run_takes_in_every_step_and_no_answer_ends_it(
    client: Client, how: str, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    if how == "url":
        job: dict[str, Any] = {"base_url": client.base_url(f"{gateway.url}/r/nightly")}
    else:
        job = {"headers": {"x-guardrail-run-id": "nightly"}}
    for _ in range(2):
        (result,) = drivers.play(client, gateway, PROMPT, **job)
        assert result.error is None, result.error
    (run,) = runs_of(gateway)
    assert run.name == "nightly"
    assert run.source == how
    assert run.steps == list(range(1, 2 * STEPS + 1))
    assert run.status == "running"
