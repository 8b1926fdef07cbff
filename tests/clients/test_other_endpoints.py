"""What the SDKs offer besides a conversation: every call works as against the provider, at its exact price."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from gateway.testing import ProviderServer, Reply
from tests.clients.policy import served_cost
from tests.clients.records import runs_of
from tests.support.gateway import ALICE, ThreadedGateway, wait_until

pytestmark = pytest.mark.clients


@pytest.fixture
def sdk(gateway: ThreadedGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=ALICE, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(gateway: ThreadedGateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=ALICE, max_retries=0) as made:
        yield made


def ensure_exact(gateway: ThreadedGateway, provider: ProviderServer, runs: int = 1) -> None:
    found = runs_of(gateway)
    assert [run.status for run in found] == ["completed"] * runs
    assert sum(run.cost for run in found) == served_cost(provider) > 0


def test_embeddings_in_the_coding_that_the_sdk_asks_for(
    sdk: openai.OpenAI, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    made = sdk.embeddings.create(model="sim/echo", input=["one", "two words"])
    assert [len(found.embedding) > 1 for found in made.data] == [True, True]
    assert {type(value) for found in made.data for value in found.embedding} == {float}
    assert b'"base64"' in provider.journal.last.body
    ensure_exact(gateway, provider)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_completions(
    stream: bool, sdk: openai.OpenAI, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("tale", Reply("upon a time there was a printer."))
    if stream:
        chunks = list(sdk.completions.create(model="sim/tale", prompt="Once", stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        text = sdk.completions.create(model="sim/tale", prompt="Once").choices[0].text
    assert text == "upon a time there was a printer."
    ensure_exact(gateway, provider)


def test_moderations_cost_nothing(sdk: openai.OpenAI, gateway: ThreadedGateway) -> None:
    assert sdk.moderations.create(model="sim/echo", input="hello").results[0].flagged is False
    assert [run.cost for run in runs_of(gateway)] == [0]


def test_counting_tokens_costs_nothing_and_is_no_run(
    claude: anthropic.Anthropic, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    counted = claude.messages.count_tokens(
        model="claude/echo", messages=[{"role": "user", "content": "hello"}]
    )
    said = claude.messages.create(
        model="claude/echo", max_tokens=100, messages=[{"role": "user", "content": "hello"}]
    )
    assert counted.input_tokens == said.usage.input_tokens > 0
    ensure_exact(gateway, provider)


def test_a_kept_response_can_be_fetched_read_and_deleted(
    sdk: openai.OpenAI, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    made = sdk.responses.create(model="sim/echo", input="hello")
    assert sdk.responses.retrieve(made.id).output_text == made.output_text
    assert [item.type for item in sdk.responses.input_items.list(made.id)] == ["message"]
    sdk.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(made.id)
    ensure_exact(gateway, provider)


def test_a_response_in_the_background_is_billed_when_it_is_done(
    sdk: openai.OpenAI, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    made = sdk.responses.create(model="sim/echo", input="hello", background=True)
    assert made.status == "queued"
    wait_until(lambda: sdk.responses.retrieve(made.id).status == "completed", what="the response")
    wait_until(lambda: [run.status for run in runs_of(gateway)] == ["completed"], what="its bill")
    ensure_exact(gateway, provider)
