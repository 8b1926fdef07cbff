"""Twisted requests to a whole gateway: no surface answers 500, and nothing that is refused reaches a provider."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.testing import ProviderServer
from tests.security import fuzz
from tests.security.raw import Connection, post
from tests.security.smuggling import BOB
from tests.support.gateway import ThreadedGateway
from tests.support.wire import error_code

SURFACES = {
    "/v1/chat/completions": fuzz.CHAT, "/v1/responses": fuzz.RESPONSES, "/v1/messages": fuzz.MESSAGES,
    "/v1/messages/count_tokens": fuzz.MESSAGES, "/v1/embeddings": fuzz.OTHERS, "/v1/completions": fuzz.OTHERS,
    "/v1/moderations": fuzz.OTHERS, "/r/run-1/v1/chat/completions": fuzz.CHAT,
}  # fmt: skip


def _named(samples: list[Any]) -> list[Any]:
    return [{**each, "model": "sim/echo"} for each in samples]


def play(gateway: ThreadedGateway, provider: ProviderServer, path: str, body: Any) -> None:
    before = provider.journal.received
    raw = post(BOB, fuzz.as_bytes(body), b"Content-Type: application/json", target=path.encode())
    with Connection(gateway.port) as line:
        line.send(raw)
        answer = line.read()
    told = (path, fuzz.as_bytes(body)[:500], answer.status, answer.body[:300])
    assert answer.status != 500, told
    code = error_code(json.loads(answer.body)) if answer.body[:1] == b"{" else None
    assert code not in ("guardrail_unavailable", "upstream_timeout"), told
    if code in ("invalid_json", "invalid_request", "unknown_model", "unknown_price"):
        # The provider has words of its own for what it does not take.
        own = b'"guardrail"' in answer.body
        assert not own or provider.journal.received == before, told


def run(gateway: ThreadedGateway, provider: ProviderServer, examples: int) -> None:
    @settings(
        max_examples=examples, derandomize=True, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.one_of(
            [st.tuples(st.just(path), fuzz.twisted(_named(samples))) for path, samples in SURFACES.items()]
        )
    )
    def each(given_: tuple[str, Any]) -> None:
        play(gateway, provider, *given_)

    each()


def test_no_body_breaks_a_surface(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    run(gateway, provider, 30)


@pytest.mark.slow
def test_no_body_breaks_a_surface_at_length(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    run(gateway, provider, 400)
