"""What the provider keeps: dialogues that go on by id, conversations, and responses made in the background."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from gateway.domain import Surface
from gateway.testing import Ask, ExactTokens, ProviderServer, Reply, Scenario, ScriptError, error_reply
from tests.unit.testing.conftest import RESPONSES, Json, Seen, call, fetch, leave_after

FUNCTION: Json = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


async def _ask(provider: ProviderServer, model: str = "sim/echo", **fields: Any) -> Json:
    seen = await RESPONSES.fetch(provider, model, **fields)
    assert seen.status == 200, seen.body
    answer: Json = seen.json
    return answer


def _recorder(asked: list[Ask]) -> Any:
    def script(ask: Ask) -> Reply:
        asked.append(ask)
        return Reply(f"answer {len(asked)}")

    return script


# Going on by id.


@pytest.mark.parametrize("stream", [False, True])
async def test_script_sees_the_whole_dialogue_behind_a_previous_response(
    provider: ProviderServer, stream: bool
) -> None:
    asked: list[Ask] = []
    provider.script("x", _recorder(asked))
    previous: str | None = None
    for text in ("one", "two", "three"):
        fields: Json = {"input": text, "instructions": f"about {text}"}
        if previous is not None:
            fields["previous_response_id"] = previous
        seen = await RESPONSES.fetch(provider, "sim/x", stream, **fields)
        previous = seen.events[-1]["response"]["id"] if stream else seen.json["id"]
    # Instructions are not inherited.
    assert [(turn.role, turn.text) for turn in asked[2].turns] == [
        ("system", "about three"),
        ("user", "one"),
        ("assistant", "answer 1"),
        ("user", "two"),
        ("assistant", "answer 2"),
        ("user", "three"),
    ]
    tokens = [attempt.prompt_tokens for attempt in provider.journal]
    assert tokens == sorted(set(tokens))


async def test_tool_dialogue_needs_only_the_results(provider: ProviderServer) -> None:
    answer = await _ask(provider, "sim/steps-4", tools=[FUNCTION])
    for _ in range(3):
        (made,) = answer["output"]
        result = {"type": "function_call_output", "call_id": made["call_id"], "output": "r"}
        answer = await _ask(
            provider, "sim/steps-4", tools=[FUNCTION], previous_response_id=answer["id"], input=[result]
        )
    assert "Done after 4 steps" in answer["output"][0]["content"][0]["text"]


async def test_forks_of_one_response_do_not_see_each_other(provider: ProviderServer) -> None:
    asked: list[Ask] = []
    provider.script("x", _recorder(asked))
    root = (await _ask(provider, "sim/x", input="root"))["id"]
    for branch in ("left", "right"):
        await _ask(provider, "sim/x", input=branch, previous_response_id=root)
    assert [[t.text for t in ask.turns] for ask in asked[1:]] == [
        ["root", "answer 1", "left"],
        ["root", "answer 1", "right"],
    ]


async def test_call_left_without_a_result_is_refused_on_the_next_request(provider: ProviderServer) -> None:
    answer = await _ask(provider, "sim/printer", tools=[FUNCTION])
    seen = await RESPONSES.fetch(provider, "sim/echo", previous_response_id=answer["id"])
    assert seen.status == 400
    assert f"No tool output found for function call {answer['output'][0]['call_id']}." in seen.body.decode()


async def test_items_can_be_referred_to(provider: ProviderServer) -> None:
    asked: list[Ask] = []
    provider.script("x", _recorder(asked))
    first = await _ask(provider, "sim/x", input="one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await _ask(provider, "sim/x", input=[reference, {"role": "user", "content": "two"}])
    assert [turn.text for turn in asked[1].turns] == ["answer 1", "two"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"conversation": "conv_unknown"}, None),
        ({"conversation": {"id": "conv_unknown"}}, None),
        ({"input": [{"type": "item_reference", "id": "msg_unknown"}]}, "input"),
    ],
)
async def test_unknown_ids_are_answered_404_unless_the_script_is_not_strict(
    provider: ProviderServer, fields: Json, param: str | None
) -> None:
    provider.script("x", Reply("ok"))
    seen = await RESPONSES.fetch(provider, "sim/x", **fields)
    assert seen.status == 404
    assert set(seen.json["error"]) == {"message", "type", "param", "code"}
    assert seen.json["error"]["param"] == param
    provider.script("x", Reply("ok", strict=False))
    assert (await RESPONSES.fetch(provider, "sim/x", **fields)).status == 200


async def test_response_that_was_not_stored_is_not_there(provider: ProviderServer) -> None:
    answer = await _ask(provider, store=False)
    assert answer["store"] is False
    assert (await call(provider, "GET", f"/v1/responses/{answer['id']}")).status == 404
    assert (await RESPONSES.fetch(provider, "sim/echo", previous_response_id=answer["id"])).status == 404


@pytest.mark.parametrize("reply", [Reply("one two", error_at_chunk=4), Reply("one two", cut_at_byte=2_000)])
async def test_stream_that_broke_off_is_not_kept(provider: ProviderServer, reply: Reply) -> None:
    provider.script("x", reply)
    seen = await RESPONSES.fetch(provider, "sim/x", True)
    broken = seen.events[0]["response"]["id"]
    assert (await call(provider, "GET", f"/v1/responses/{broken}")).status == 404


# The routes.


async def test_kept_response_is_shown_listed_and_deleted(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    first = await client.responses.create(model="sim/echo", input="one")
    second = await client.responses.create(model="sim/echo", input="two", previous_response_id=first.id)
    shown = await client.responses.retrieve(second.id)
    assert shown.to_dict() == second.to_dict()
    items = [item async for item in client.responses.input_items.list(second.id, order="asc", limit=2)]
    assert [item.to_dict()["content"][0]["text"][:3] for item in items] == ["one", "[si", "two"]  # type: ignore[index]
    assert len({item.id for item in items}) == 3
    newest = await client.responses.input_items.list(second.id, limit=1)
    assert newest.data[0].id == items[-1].id
    assert newest.has_more
    await client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(second.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="sim/echo", input="x", previous_response_id=second.id)
    assert (await client.responses.retrieve(first.id)).status == "completed"


async def test_routes_are_free_and_journalled(provider: ProviderServer) -> None:
    answer = await _ask(provider)
    await call(provider, "GET", f"/v1/responses/{answer['id']}")
    await call(provider, "POST", f"/v1/responses/{answer['id']}/cancel")
    await call(provider, "DELETE", f"/v1/responses/{answer['id']}")
    _, *routes = provider.journal
    assert [(attempt.method, attempt.status) for attempt in routes] == [
        ("GET", 200),
        ("POST", 400),
        ("DELETE", 200),
    ]
    assert {attempt.surface for attempt in routes} == {Surface.RESPONSES}
    assert all(attempt.served.input_total == attempt.served.output_total == 0 for attempt in routes)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses/resp_unknown", 404),
        ("DELETE", "/v1/responses/resp_unknown", 404),
        ("POST", "/v1/responses/resp_unknown/cancel", 404),
        ("GET", "/v1/responses/resp_unknown/input_items", 404),
        ("GET", "/v1/conversations/conv_unknown", 404),
        ("GET", "/v1/files/file_unknown/content", 404),
        ("PUT", "/v1/responses/resp_unknown", 405),
        ("GET", "/v1/responses", 405),
        ("GET", "/v1/responses/", 404),
        ("GET", "/v1/responses/a/b/c", 404),
    ],
)
async def test_what_is_not_there_is_told_in_openais_shape(
    provider: ProviderServer, method: str, path: str, status: int
) -> None:
    seen = await call(provider, method, path)
    assert seen.status == status
    assert set(seen.json["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=0", 400), ("limit=x", 400), ("order=up", 400), ("after=nothing", 404), ("limit=100", 200)],
)
async def test_pages_are_asked_for_properly(provider: ProviderServer, query: str, status: int) -> None:
    answer = await _ask(provider)
    seen = await call(provider, "GET", f"/v1/responses/{answer['id']}/input_items?{query}")
    assert seen.status == status


async def test_script_can_be_mapped_to_a_route(provider: ProviderServer) -> None:
    answer = await _ask(provider)
    flaky = Scenario([error_reply(503), Reply(cut_at_byte=9), Reply()], by="sequence")
    provider.script("flaky", flaky, routes=["GET /v1/responses/{id}"])
    seen = [await call(provider, "GET", f"/v1/responses/{answer['id']}") for _ in range(3)]
    assert [(s.status, s.body_complete) for s in seen] == [(503, True), (200, False), (200, True)]
    assert seen[2].json == answer
    assert provider.journal.last.scenario == "flaky"
    provider.forget_scripts()
    assert (await call(provider, "GET", f"/v1/responses/{answer['id']}")).status == 200
    with pytest.raises(ScriptError, match=r"no route 'GET /nothing'; expected one of POST /v1/chat"):
        provider.script("flaky", flaky, routes=["GET /nothing"])


async def test_route_is_scripted_by_another_process(provider: ProviderServer) -> None:
    script = {"name": "down", "replies": [{"status": 503}], "routes": ["POST /v1/conversations"]}
    assert (await call(provider, "POST", "/__sim__/scripts", script)).status == 200
    assert (await call(provider, "GET", "/__sim__/scripts")).json["routes"] == {
        "POST /v1/conversations": "down"
    }
    assert (await call(provider, "POST", "/v1/conversations")).status == 503
    mistaken = await call(provider, "POST", "/__sim__/scripts", script | {"routes": ["PUT /"]})
    assert mistaken.status == 400


# Conversations.


async def test_conversation_collects_what_is_said_in_it(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    asked: list[Ask] = []
    provider.script("x", _recorder(asked))
    talk = await client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "zero"}], metadata={"a": "b"}
    )
    for text in ("one", "two"):
        answer = await client.responses.create(model="sim/x", input=text, conversation=talk.id)
        assert answer.conversation is not None
        assert answer.conversation.id == talk.id
    assert [turn.text for turn in asked[1].turns] == ["zero", "one", "answer 1", "two"]
    added = await client.conversations.items.create(
        talk.id, items=[{"type": "message", "role": "user", "content": "three"}]
    )
    listed = [item async for item in client.conversations.items.list(talk.id, order="asc")]
    texts = [item.to_dict()["content"][0]["text"] for item in listed]  # type: ignore[index]
    assert texts == ["zero", "one", "answer 1", "two", "answer 2", "three"]
    assert listed[-1].id == added.data[0].id
    found = await client.conversations.items.retrieve(str(listed[0].id), conversation_id=talk.id)
    assert found.id == listed[0].id
    await client.conversations.items.delete(str(listed[0].id), conversation_id=talk.id)
    assert len((await client.conversations.items.list(talk.id)).data) == 5
    assert (await client.conversations.retrieve(talk.id)).metadata == {"a": "b"}
    assert (await client.conversations.update(talk.id, metadata={"c": "d"})).metadata == {"c": "d"}
    await client.conversations.delete(talk.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="sim/x", input="x", conversation=talk.id)
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.list(talk.id)


async def test_stream_speaks_in_a_conversation_once(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("x", Reply("said", usage_on="twice"))
    talk = await client.conversations.create()
    await RESPONSES.fetch(provider, "sim/x", True, conversation={"id": talk.id}, store=False)
    assert len((await client.conversations.items.list(talk.id)).data) == 2


# In the background.


async def _until(provider: ProviderServer, response_id: str, status: str) -> Json:
    for _ in range(500):
        shown: Json = (await call(provider, "GET", f"/v1/responses/{response_id}")).json
        if shown["status"] == status:
            return shown
        await asyncio.sleep(0.005)
    raise AssertionError(f"never {status}")


async def test_background_response_is_queued_then_made_then_whole(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three", queue_s=0.03, chunk_delay_s=0.01))
    answer = await _ask(provider, "sim/x", background=True)
    assert (answer["status"], answer["output"], answer["usage"]) == ("queued", [], None)
    assert provider.journal.last.completion_tokens == 0
    making = await _until(provider, answer["id"], "in_progress")
    assert (making["output"], making["usage"]) == ([], None)
    done = await _until(provider, answer["id"], "completed")
    assert done["output"][0]["content"][0]["text"] == "one two three"
    assert done["usage"]["output_tokens"] == 3
    assert provider.journal.last.usage_reported
    attempt = provider.journal[0]
    assert (attempt.completion_tokens, attempt.prompt_tokens) == (3, done["usage"]["input_tokens"])
    assert attempt.finished_at is not None
    going_on = await _ask(provider, previous_response_id=answer["id"], input="more")
    assert going_on["status"] == "completed"


async def test_attempt_is_open_while_the_background_is_busy(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three", chunk_delay_s=0.01))
    await _ask(provider, "sim/x", background=True, store=False)
    assert provider.journal.last.finished_at is None
    with pytest.raises(TimeoutError):
        await provider.wait_idle(timeout_s=0.001)
    await provider.wait_idle()
    assert provider.journal.totals.completion_tokens == 3


@pytest.mark.parametrize("when", ["queued", "in_progress"])
async def test_cancelling_stops_the_bill_where_it_is(provider: ProviderServer, when: str) -> None:
    queue_s = 60.0 if when == "queued" else 0.0
    provider.script("x", Reply(" word" * 400, queue_s=queue_s, chunk_delay_s=0.002))
    answer = await _ask(provider, "sim/x", background=True)
    await _until(provider, answer["id"], when)
    while when == "in_progress" and provider.journal[0].completion_tokens < 5:
        await asyncio.sleep(0.002)
    cancelled = (await call(provider, "POST", f"/v1/responses/{answer['id']}/cancel")).json
    assert (cancelled["status"], cancelled["usage"]) == ("cancelled", None)
    billed = provider.journal[0].completion_tokens
    assert billed == 0 if when == "queued" else 5 <= billed < 400
    await provider.wait_idle()
    await asyncio.sleep(0.01)
    assert provider.journal[0].completion_tokens == billed
    again = await call(provider, "POST", f"/v1/responses/{answer['id']}/cancel")
    assert (again.status, again.json) == (200, cancelled)


async def test_cancelling_what_is_whole_changes_nothing(provider: ProviderServer) -> None:
    answer = await _ask(provider, background=True)
    done = await _until(provider, answer["id"], "completed")
    seen = await call(provider, "POST", f"/v1/responses/{answer['id']}/cancel")
    assert (seen.status, seen.json) == (200, done)


async def test_deleting_a_background_response_stops_it(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two", queue_s=60.0))
    answer = await _ask(provider, "sim/x", background=True)
    assert (await call(provider, "DELETE", f"/v1/responses/{answer['id']}")).status == 200
    await provider.wait_idle()
    assert provider.journal[0].completion_tokens == 0


async def test_background_response_that_fails(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three", error_at_chunk=7))
    answer = await _ask(provider, "sim/x", background=True)
    failed = await _until(provider, answer["id"], "failed")
    assert failed["error"]["code"] == "server_error"
    assert failed["usage"] is None
    await provider.wait_idle()
    assert provider.journal[0].completion_tokens == 2


async def test_background_response_can_hang_until_it_is_cancelled(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three", stall_at="finish"))
    answer = await _ask(provider, "sim/x", background=True)
    while provider.journal[0].completion_tokens < 3:
        await asyncio.sleep(0.002)
    assert (await _until(provider, answer["id"], "in_progress"))["usage"] is None
    await call(provider, "POST", f"/v1/responses/{answer['id']}/cancel")
    await provider.wait_idle()


async def test_server_stops_with_a_background_response_under_way() -> None:
    server = await ProviderServer().start()
    server.script("x", Reply("one", queue_s=60.0))
    await _ask(server, "sim/x", background=True)
    await server.stop()
    assert server.journal.active == 0


async def _made(provider: ProviderServer) -> str:
    """The id of the first response, once it is begun."""
    while not len(provider.journal) or provider.journal[0].answer_id is None:
        await asyncio.sleep(0.001)
    return provider.journal[0].answer_id


def _shape(seen: Seen) -> list[tuple[str, int]]:
    return [(event["type"], event["sequence_number"]) for event in seen.events]


async def test_background_stream_goes_on_without_its_reader_and_can_be_joined(
    provider: ProviderServer,
) -> None:
    provider.script("x", Reply("one two three four", chunk_delay_s=0.005, queue_s=0.01))
    body = RESPONSES.body("sim/x", stream=True, background=True)
    await leave_after(provider, body, 5, RESPONSES.path)
    await provider.wait_idle(received=1)
    attempt = provider.journal[0]
    assert attempt.client_left
    assert attempt.completion_tokens == 4
    response_id = await _made(provider)
    whole = await call(provider, "GET", f"/v1/responses/{response_id}?stream=true")
    assert _shape(whole)[:3] == [
        ("response.created", 0),
        ("response.queued", 1),
        ("response.in_progress", 2),
    ]
    assert whole.events[0]["response"]["status"] == "queued"
    assert whole.events[-1]["type"] == "response.completed"
    assert RESPONSES.said(whole, True) == "one two three four"
    rest = await call(provider, "GET", f"/v1/responses/{response_id}?stream=true&starting_after=6")
    assert rest.events == whole.events[7:]
    nothing = await call(provider, "GET", f"/v1/responses/{response_id}?stream=true&starting_after=999")
    assert (nothing.status, nothing.events) == (200, [])
    assert provider.journal.last.completion_tokens == 0


async def test_two_readers_of_a_background_stream_see_the_same(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three four", chunk_delay_s=0.01))
    body = RESPONSES.body("sim/x", stream=True, background=True)
    first = asyncio.create_task(fetch(provider, body, path=RESPONSES.path))
    response_id = await _made(provider)
    second = await call(provider, "GET", f"/v1/responses/{response_id}?stream=true")
    assert (await first).events == second.events
    assert second.body_complete
    await provider.wait_idle()
    assert provider.journal.totals.completion_tokens == ExactTokens().count("one two three four")


async def test_cancelling_ends_the_stream_of_a_background_response(provider: ProviderServer) -> None:
    provider.script("x", Reply(" word" * 400, chunk_delay_s=0.005))
    body = RESPONSES.body("sim/x", stream=True, background=True)
    reading = asyncio.create_task(fetch(provider, body, path=RESPONSES.path))
    await call(provider, "POST", f"/v1/responses/{await _made(provider)}/cancel")
    seen = await asyncio.wait_for(reading, 5)
    assert "response.completed" not in seen.names
    assert seen.body_complete


async def test_cut_of_a_background_stream_is_the_connections_alone(provider: ProviderServer) -> None:
    provider.script("x", Reply("one two three", cut_at_byte=1_500))
    seen = await fetch(provider, RESPONSES.body("sim/x", stream=True, background=True), path=RESPONSES.path)
    assert (len(seen.body), seen.body_complete) == (1_500, False)
    await provider.wait_idle()
    shown = (await call(provider, "GET", f"/v1/responses/{seen.events[0]['response']['id']}")).json
    assert shown["status"] == "completed"
    assert provider.journal[0].completion_tokens == 3


@pytest.mark.parametrize("fields", [{}, {"background": True}])
async def test_only_a_background_stream_can_be_joined(provider: ProviderServer, fields: Json) -> None:
    answer = await _ask(provider, **fields)
    seen = await call(provider, "GET", f"/v1/responses/{answer['id']}?stream=true")
    assert seen.status == 400
    streamed = await fetch(
        provider, RESPONSES.body("sim/echo", stream=True, background=True), path=RESPONSES.path
    )
    response_id = streamed.events[0]["response"]["id"]
    odd = await call(provider, "GET", f"/v1/responses/{response_id}?stream=true&starting_after=x")
    assert odd.status == 400


async def test_sdk_polls_a_background_response(provider: ProviderServer, client: openai.AsyncOpenAI) -> None:
    provider.script("x", Reply("Done.", chunk_delay_s=0.005))
    answer = await client.responses.create(model="sim/x", input="hi", background=True)
    while answer.status in ("queued", "in_progress"):
        await asyncio.sleep(0.005)
        answer = await client.responses.retrieve(answer.id)
    assert answer.output_text == "Done."
    stream = await client.responses.create(model="sim/x", input="hi", background=True, stream=True)
    kinds = []
    response_id = ""
    async for event in stream:
        kinds.append(event.type)
        if event.type == "response.created":
            response_id = event.response.id
    resumed = await client.responses.retrieve(response_id, stream=True, starting_after=3)
    assert [event.type async for event in resumed] == kinds[4:]
