"""The official SDK as the client: what it reads is what was scripted, and what the journal counted."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from gateway.testing import ExactTokens, ProviderServer, Reply, Scenario, error_reply, running_provider

HI: list[Any] = [{"role": "user", "content": "hi there"}]
SEARCH: Any = {
    "type": "function",
    "function": {
        "name": "search_kb",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "top": {"type": "integer"}},
        },
    },
}


def count(text: str) -> int:
    return ExactTokens().count(text)


async def test_plain_reply_reports_the_tokens_it_counted(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("greet", Reply("Good morning."))
    reply = await client.chat.completions.create(model="sim/greet", messages=HI)
    assert reply.choices[0].message.content == "Good morning."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 3 + 3 + count("user") + count("hi there")
    assert reply.usage.completion_tokens == count("Good morning.")
    served = provider.journal.last.served
    assert (served.input_total, served.output_total) == (
        reply.usage.prompt_tokens,
        reply.usage.completion_tokens,
    )
    assert provider.journal.last.usage_reported


async def test_stream_has_role_deltas_finish_usage_and_done_in_that_order(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("greet", Reply("Good morning, 世界 👩‍🚀."))
    stream = await client.chat.completions.create(
        model="sim/greet", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Good morning, 世界 👩‍🚀."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [c.usage is None for c in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == count("Good morning, 世界 👩‍🚀.")
    assert provider.journal.last.completion_tokens == chunks[-1].usage.completion_tokens


async def test_usage_chunk_comes_only_when_asked_for(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(model="sim/echo", messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert not provider.journal.last.usage_reported
    assert provider.journal.last.completion_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_n_choices_are_counted_each(
    provider: ProviderServer, client: openai.AsyncOpenAI, stream: bool
) -> None:
    provider.script("two", Reply(("one two three", "four")))
    texts = {0: "", 1: ""}
    if stream:
        chunks = await client.chat.completions.create(model="sim/two", messages=HI, n=2, stream=True)
        async for chunk in chunks:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        reply = await client.chat.completions.create(model="sim/two", messages=HI, n=2)
        texts = {choice.index: choice.message.content or "" for choice in reply.choices}
    assert texts == {0: "one two three", 1: "four"}
    assert provider.journal.last.completion_tokens == count("one two three") + count("four")


@pytest.mark.parametrize("tool_deltas", ["split", "whole"])
async def test_streamed_tool_calls_fold_to_what_the_plain_reply_has(
    provider: ProviderServer, client: openai.AsyncOpenAI, tool_deltas: Any
) -> None:
    calls: list[Any] = [("search_kb", {"query": "größe", "top": 3}), ("search_kb", '{"query": "brok')]
    provider.script("call", Reply(tool_calls=calls, tool_deltas=tool_deltas))
    plain = await client.chat.completions.create(model="sim/call", messages=HI, tools=[SEARCH])
    assert plain.choices[0].finish_reason == "tool_calls"
    assert plain.choices[0].message.content is None
    expected = [(c.function.name, c.function.arguments) for c in plain.choices[0].message.tool_calls or []]  # type: ignore[union-attr]
    assert expected[0] == ("search_kb", '{"query":"größe","top":3}')
    assert expected[1][1] == '{"query": "brok'
    folded: dict[int, list[str]] = {}
    ids = []
    stream = await client.chat.completions.create(model="sim/call", messages=HI, tools=[SEARCH], stream=True)
    async for chunk in stream:
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            call = folded.setdefault(delta.index, ["", ""])
            call[0] += delta.function.name or ""
            call[1] += delta.function.arguments or ""
            ids += [delta.id] if delta.id else []
    assert [tuple(call) for call in folded.values()] == expected
    assert all(len(call_id) == len("call_") + 24 for call_id in ids)
    assert len(set(ids)) == 2
    plain_attempt, streamed_attempt = provider.journal
    assert plain_attempt.completion_tokens == streamed_attempt.completion_tokens


async def test_output_limit_cuts_with_finish_reason_length(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("wordy", Reply("one two three four five six seven", reasoning_tokens=2))
    reply = await client.chat.completions.create(model="sim/wordy", messages=HI, max_tokens=5)
    assert reply.choices[0].message.content == "one two three"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 2
    provider.script("wordy", Reply("one two three four five six seven", ignore_limits=True))
    reply = await client.chat.completions.create(model="sim/wordy", messages=HI, max_completion_tokens=1)
    assert reply.choices[0].message.content == "one two three four five six seven"


async def test_limit_inside_a_tool_call_leaves_its_arguments_partial(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("call", Reply(tool_calls=[("search_kb", {"query": "a rather long query for this"})]))
    reply = await client.chat.completions.create(model="sim/call", messages=HI, tools=[SEARCH], max_tokens=6)
    assert reply.choices[0].finish_reason == "length"
    (call,) = reply.choices[0].message.tool_calls or []
    assert not call.function.arguments.endswith("}")  # type: ignore[union-attr]
    assert provider.journal.last.completion_tokens == 6


async def test_errors_in_a_row_then_success(provider: ProviderServer, client: openai.AsyncOpenAI) -> None:
    provider.script("flaky", Scenario([error_reply(500), error_reply(500), Reply("ok")], by="sequence"))
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="sim/flaky", messages=HI)
    assert (await client.chat.completions.create(model="sim/flaky", messages=HI)).choices[
        0
    ].message.content == "ok"
    assert [attempt.status for attempt in provider.journal] == [500, 500, 200]
    assert [attempt.served.input_total > 0 for attempt in provider.journal] == [False, False, True]


async def _agent(client: openai.AsyncOpenAI, model: str, steps: int = 20) -> list[ChatCompletion]:
    """A plain agent loop: calls tools until the model answers, at most `steps` times."""
    messages = list(HI)
    replies = []
    for _ in range(steps):
        reply = await client.chat.completions.create(model=model, messages=messages, tools=[SEARCH])
        replies.append(reply)
        message = reply.choices[0].message
        if not message.tool_calls:
            break
        messages.append(message.to_dict())
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": "nothing found"}
            for call in message.tool_calls
        ]
    return replies


async def test_interleaved_agents_do_not_disturb_each_other(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script(
        "work",
        [Reply(tool_calls=[("search_kb", {"query": f"part {n}"})]) for n in range(3)] + [Reply("Done.")],
    )
    runs = await asyncio.gather(*(_agent(client, "sim/work") for _ in range(10)))
    assert [len(run) for run in runs] == [4] * 10
    assert all(run[-1].choices[0].message.content == "Done." for run in runs)


async def test_steps_model_ends_after_its_steps_and_never_repeats_a_call(client: openai.AsyncOpenAI) -> None:
    run = await _agent(client, "sim/steps-5")
    calls = [call.function.arguments for r in run for call in r.choices[0].message.tool_calls or []]  # type: ignore[union-attr]
    assert len(run) == 5
    assert len(set(calls)) == 4
    assert "[simulated]" in str(run[-1].choices[0].message.content)


async def test_steps_model_speaks_react_without_tools(client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Use one of [lookup, compute]."}]
    texts = []
    for _ in range(3):
        reply = await client.chat.completions.create(model="sim/steps-3", messages=messages)
        texts.append(reply.choices[0].message.content or "")
        messages += [
            {"role": "assistant", "content": texts[-1]},
            {"role": "user", "content": "Observation: 1"},
        ]
    assert ["Action: lookup" in text for text in texts] == [True, True, False]
    assert "Final Answer:" in texts[-1]


async def test_printer_never_finishes_while_tools_are_offered(client: openai.AsyncOpenAI) -> None:
    run = await _agent(client, "sim/printer", steps=30)
    assert len(run) == 30
    arguments = {call.function.arguments for r in run for call in r.choices[0].message.tool_calls or []}  # type: ignore[union-attr]
    assert arguments == {'{"query":"printer"}'}
    landed = await client.chat.completions.create(
        model="sim/printer", messages=HI, tools=[SEARCH], tool_choice="none"
    )
    assert landed.choices[0].message.content


async def test_forced_tool_is_the_one_called(client: openai.AsyncOpenAI) -> None:
    final: Any = {
        "type": "function",
        "function": {
            "name": "final_answer",
            "parameters": {"type": "object", "properties": {"answer": {"type": "string"}}},
        },
    }
    reply = await client.chat.completions.create(
        model="sim/printer",
        messages=HI,
        tools=[SEARCH, final],
        tool_choice={"type": "function", "function": {"name": "final_answer"}},
    )
    (call,) = reply.choices[0].message.tool_calls or []
    assert call.function.name == "final_answer"  # type: ignore[union-attr]


async def test_tokens_model_claims_exactly_what_its_name_says(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    reply = await client.chat.completions.create(model="sim/tokens-1234-567", messages=HI, max_tokens=5)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (1234, 567)
    stream = await client.chat.completions.create(model="sim/tokens-7-100000", messages=HI, stream=True)
    assert [chunk async for chunk in stream]
    assert provider.journal.last.served.input_total == 7
    assert provider.journal.last.served.output_total == 100_000


async def test_error_model_fails_with_its_status(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="sim/error-429", messages=HI)
    assert limited.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.APIStatusError) as failed:
        await client.chat.completions.create(model="sim/error-503", messages=HI)
    assert failed.value.status_code == 503


async def test_models_are_listed_as_simulated(provider: ProviderServer, client: openai.AsyncOpenAI) -> None:
    provider.script("mine", Reply("x"), models=["gpt-4o"])
    listed = [model async for model in await client.models.list()]
    assert {"sim/echo", "sim/printer", "sim/mine", "gpt-4o"} <= {model.id for model in listed}
    assert {model.owned_by for model in listed} == {"simulated"}
    assert (await client.models.retrieve("sim/steps-9")).id == "sim/steps-9"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("sim/nothing")


async def test_unknown_scenario_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="sim/nothing"):
        await client.chat.completions.create(model="sim/nothing", messages=HI)
    with pytest.raises(openai.NotFoundError, match="typo"):
        await client.chat.completions.create(
            model="gpt-4o", messages=HI, extra_headers={"x-sim-scenario": "typo"}
        )


async def test_scenario_header_goes_before_the_model(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("a", Reply("from the header"))
    provider.script("b", Reply("from the model"), models=["gpt-4o"])
    reply = await client.chat.completions.create(
        model="gpt-4o", messages=HI, extra_headers={"x-sim-scenario": "a"}
    )
    assert reply.choices[0].message.content == "from the header"
    reply = await client.chat.completions.create(model="gpt-4o", messages=HI)
    assert reply.choices[0].message.content == "from the model"


async def test_azure_client_is_answered_in_azures_shape(provider: ProviderServer) -> None:
    provider.script("greet", Reply("Good morning."), models=["my-deployment"])
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=provider.origin, api_key="any", api_version="2024-10-21", max_retries=0
    ) as azure:
        reply = await azure.chat.completions.create(model="my-deployment", messages=HI)
        assert reply.choices[0].message.content == "Good morning."
        stream = await azure.chat.completions.create(
            model="my-deployment", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices == []
    assert chunks[0].to_dict()["prompt_filter_results"]
    assert chunks[-1].usage is not None
    assert provider.journal.last.path.endswith("/chat/completions?api-version=2024-10-21")
    assert provider.journal.last.model == "my-deployment"


async def test_wrong_key_is_rejected_where_keys_are_set() -> None:
    async with ProviderServer(api_keys=["right"]) as server:
        wrong = openai.AsyncOpenAI(base_url=server.base_url, api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            await wrong.chat.completions.create(model="sim/echo", messages=HI)
        right = openai.AsyncOpenAI(base_url=server.base_url, api_key="right", max_retries=0)
        assert await right.chat.completions.create(model="sim/echo", messages=HI)


def test_running_provider_serves_code_without_an_event_loop() -> None:
    with running_provider(counting="bytes") as provider:
        sdk = openai.OpenAI(base_url=provider.base_url, api_key="any", max_retries=0)
        provider.script("greet", lambda ask: Reply(f"You are {ask.last_user_text}."))
        reply = sdk.chat.completions.create(model="sim/greet", messages=HI)
        assert reply.choices[0].message.content == "You are hi there."
        provider.wait_idle_blocking(received=1)
        assert provider.journal.last.completion_tokens == 5
        sdk.close()
