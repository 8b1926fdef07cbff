"""What tools that the provider runs cost when it never says: the uses that were seen, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.domain import Usage
from gateway.metering.estimate import input_count
from gateway.metering.prices import PriceBook
from gateway.surfaces import CODECS
from gateway.testing import ProviderServer, Reply
from tests.support.gateway import ALICE, ThreadedGateway, threaded_gateway
from tests.support.wire import WIRES

SEARCH_NANO = 10_000_000
FOUND = 8_000
"""Tokens that a search is taken to bring in."""
ASKED = "Which city has the most herons?"
DEFINITION = 4_500
"""Tokens that the definition of the search is taken to have on responses; Messages tells them."""
MODELS = {"responses": "gpt-5", "messages": "claude-sonnet-4-5", "chat": "gpt-4o-search-preview"}
TOOLS = {
    "responses": {"type": "web_search"},
    "messages": {"type": "web_search_20250305", "name": "web_search"},
}


@pytest.fixture
def gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    policy = f"""
version: 1
providers:
  upstream: {{dialect: openai, base_url: "{provider.base_url}", api_key: sk-upstream-secret-000000000000, price_table: openai}}
  claude: {{dialect: anthropic, base_url: "{provider.origin}", api_key: sk-upstream-secret-000000000000, price_table: anthropic}}
models:
  gpt-5: {{provider: upstream}}
  gpt-4o-search-preview: {{provider: upstream}}
  claude-sonnet-4-5: {{provider: claude}}
auth: {{mode: keys}}
keys: [{{name: alice, key: {ALICE}, user: alice}}]
"""
    with threaded_gateway(policy, tmp_path / "gw") as made:
        yield made


class Asked:
    """One step, and what the ledger and the provider's journal have of it."""

    def __init__(
        self, gateway: ThreadedGateway, provider: ProviderServer, surface: str, reply: Reply, **more: Any
    ) -> None:
        wire = WIRES[surface]
        provider.script("task", reply, models=tuple(MODELS.values()))
        body = {**wire.request(MODELS[surface], ASKED, **more), "max_tokens": 5_000}
        if surface in TOOLS:
            body["tools"] = [TOOLS[surface]]
        self.raw = gateway.post(body, path=wire.path, **wire.headers)[2]
        self.attempt = gateway.attempts()[-1]
        self.usage = Usage(**self.attempt["usage"], source=self.attempt["usage_source"])
        self.served = provider.journal.last.served
        owner = "anthropic" if surface == "messages" else "openai"
        rates = PriceBook().rates(owner, MODELS[surface], self.attempt["started_at"])
        assert rates.tool_nano == SEARCH_NANO
        assert self.attempt["cost"] == rates.cost(self.usage)
        self.money_of_searches = self.attempt["cost"] - rates.cost(replace(self.usage, tool_requests=0))
        codec = next(codec for known, codec in CODECS.items() if known.value == surface)
        self.counted = input_count(codec.parse(orjson.dumps(body)))
        """Our own count of the request's tokens."""


@pytest.mark.parametrize("searches", [0, 1, 3])
@pytest.mark.parametrize("surface", ["responses", "messages"])
def test_a_cut_stream_pays_for_the_searches_that_it_showed(
    gateway: ThreadedGateway, provider: ProviderServer, surface: str, searches: int
) -> None:
    reply = Reply("word " * 60, searches=searches, chunks=30)
    whole = Asked(gateway, provider, surface, reply, stream=True)
    assert (whole.attempt["cost_source"], whole.usage) == ("provider", whole.served)
    at = whole.raw.index(b'"word ') + 800
    cut = Asked(gateway, provider, surface, replace(reply, cut_at_byte=at), stream=True)
    assert (cut.attempt["outcome"], cut.attempt["cost_source"]) == ("cut", "estimated")
    assert cut.usage.tool_requests == cut.served.tool_requests == searches
    assert cut.money_of_searches == searches * SEARCH_NANO
    # Every search is a round that reads everything once more, and the results of those before it.
    found = FOUND * searches * (searches + 1) // 2
    if surface == "messages":
        assert cut.usage.input_uncached == cut.served.input_uncached * (1 + searches) + found
    else:
        assert cut.usage.input_uncached == (cut.counted + DEFINITION) * (1 + searches) + found


@pytest.mark.parametrize("surface", ["responses", "messages"])
def test_a_stream_that_is_cut_before_a_search_pays_for_none(
    gateway: ThreadedGateway, provider: ProviderServer, surface: str
) -> None:
    reply = Reply("word " * 60, reasoning="Let me think about herons. " * 4, searches=2, chunks=30)
    whole = Asked(gateway, provider, surface, reply, stream=True)
    assert whole.usage.tool_requests == 2
    begins = (
        rb"output_item\.added[^\n]*\n[^\n]*web_search_call|content_block_start[^\n]*\n[^\n]*server_tool_use"
    )
    first, second = [begun.end() for begun in re.finditer(begins, whole.raw)]
    for at, shown in ((first - 150, 0), (first, 0), (second, 1), (second + 150, 2)):
        cut = Asked(gateway, provider, surface, replace(reply, cut_at_byte=at), stream=True)
        assert (cut.attempt["outcome"], cut.usage.tool_requests) == ("cut", shown), at
        assert cut.money_of_searches == shown * SEARCH_NANO


@pytest.mark.parametrize("searches", [0, 2])
@pytest.mark.parametrize("surface", ["responses", "messages"])
def test_a_plain_answer_without_usage_pays_for_the_searches_in_it(
    gateway: ThreadedGateway, provider: ProviderServer, surface: str, searches: int
) -> None:
    asked = Asked(gateway, provider, surface, Reply("Utrecht.", searches=searches, usage="absent"))
    assert (asked.attempt["outcome"], asked.attempt["cost_source"]) == ("ok", "estimated")
    assert asked.usage.tool_requests == asked.served.tool_requests == searches
    assert asked.money_of_searches == searches * SEARCH_NANO


def test_a_chat_that_searches_pays_once_it_has_begun_to_answer(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    reply = Reply("word " * 60, chunks=30)
    options: dict[str, Any] = {"stream": True, "web_search_options": {}}
    whole = Asked(gateway, provider, "chat", reply, **options)
    begins = whole.raw.index(b'"content":"word ')
    for at, searches in ((begins, 0), (begins + 1_000, 1)):
        cut = Asked(gateway, provider, "chat", replace(reply, cut_at_byte=at), **options)
        assert (cut.attempt["outcome"], cut.usage.tool_requests) == ("cut", searches)
        assert cut.usage.input_uncached == cut.counted


@pytest.mark.parametrize("surface", ["responses", "messages"])
def test_the_reservation_still_covers_every_search_that_may_come(
    gateway: ThreadedGateway, provider: ProviderServer, surface: str
) -> None:
    asked = Asked(
        gateway, provider, surface, Reply("word " * 60, searches=3, chunks=30, cut_at_byte=4_000), stream=True
    )
    assert asked.attempt["reserved"] > asked.attempt["cost"] > 0
