"""How each kind of provider is addressed: URL, credential, version, limit field. One row per quirk."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.domain import Headers, Surface
from gateway.policy.sections.providers import Provider
from gateway.surfaces import CODECS
from gateway.translation import between
from gateway.upstreams import anthropic, azure_openai, openai
from gateway.upstreams.dialects import DIALECTS, Dialect, Wire, query_for

OPENAI_SURFACES = {
    Surface.CHAT: "/chat/completions",
    Surface.RESPONSES: "/responses",
    Surface.EMBEDDINGS: "/embeddings",
    Surface.COMPLETIONS: "/completions",
    Surface.MODERATIONS: "/moderations",
}
BASES: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "groq": "https://api.groq.com/openai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "vllm": "http://vllm:8000/v1",
    "bedrock": "https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1",
    "mantle": "https://bedrock-mantle.us-east-1.api.aws/v1",
}


def provider(dialect: str, base_url: str, **fields: Any) -> Provider:
    return Provider.model_validate({"dialect": dialect, "base_url": base_url, **fields})


def url(p: Provider, surface: Surface, model: str = "m", query: bytes = b"", **below: str) -> str:
    module: Any = {"openai": openai, "azure_openai": azure_openai, "anthropic": anthropic}[p.dialect]
    return str(module.url(p, surface, model, query, **below))


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_openai_providers_paths_follow_its_base(base: str, slash: str) -> None:
    p = provider("openai", base + slash)
    for surface, path in OPENAI_SURFACES.items():
        assert url(p, surface) == base + path
        assert url(p, surface, query=b"a=1&b=%20x") == f"{base}{path}?a=1&b=%20x"
    assert url(p, Surface.RESPONSES, below="/resp_1/cancel") == f"{base}/responses/resp_1/cancel"


AZURE = "https://res.openai.azure.com"
DEPLOYED = f"{AZURE}/openai/deployments"


@pytest.mark.parametrize(
    ("base", "version", "surface", "query", "expected"),
    [
        # The older API: deployments in the path, a version always.
        (AZURE, None, Surface.CHAT, b"", f"{DEPLOYED}/m/chat/completions?api-version=2024-10-21"),
        (AZURE, "2024-02-01", Surface.CHAT, b"", f"{DEPLOYED}/m/chat/completions?api-version=2024-02-01"),
        (AZURE, None, Surface.EMBEDDINGS, b"", f"{DEPLOYED}/m/embeddings?api-version=2024-10-21"),
        (AZURE, None, Surface.COMPLETIONS, b"", f"{DEPLOYED}/m/completions?api-version=2024-10-21"),
        (f"{AZURE}/openai", None, Surface.CHAT, b"", f"{DEPLOYED}/m/chat/completions?api-version=2024-10-21"),
        (AZURE, None, Surface.CHAT, b"a=1&api-version=2020-01-01",
         f"{DEPLOYED}/m/chat/completions?a=1&api-version=2024-10-21"),
        (AZURE, None, Surface.CHAT, b"api%2Dversion=2020-01-01",
         f"{DEPLOYED}/m/chat/completions?api-version=2024-10-21"),
        # Responses: the newer API whatever the base, which refuses dates and needs no version.
        (AZURE, None, Surface.RESPONSES, b"", f"{AZURE}/openai/v1/responses"),
        (AZURE, "2024-10-21", Surface.RESPONSES, b"", f"{AZURE}/openai/v1/responses"),
        (f"{AZURE}/openai", "preview", Surface.RESPONSES, b"", f"{AZURE}/openai/v1/responses?api-version=preview"),
        (AZURE, "2024-10-21", Surface.RESPONSES, b"api-version=preview&a=1",
         f"{AZURE}/openai/v1/responses?a=1&api-version=preview"),
        (AZURE, None, Surface.RESPONSES, b"api-version=2025-04-01-preview", f"{AZURE}/openai/v1/responses"),
        # The newer API by its base or by a version that is no date.
        (f"{AZURE}/openai/v1", None, Surface.CHAT, b"", f"{AZURE}/openai/v1/chat/completions"),
        (f"{AZURE}/openai/v1", "preview", Surface.CHAT, b"x=y",
         f"{AZURE}/openai/v1/chat/completions?x=y&api-version=preview"),
        (f"{AZURE}/openai/v1", "2024-10-21", Surface.EMBEDDINGS, b"", f"{AZURE}/openai/v1/embeddings"),
        (AZURE, "v1", Surface.CHAT, b"", f"{AZURE}/openai/v1/chat/completions?api-version=v1"),
        ("https://res.services.ai.azure.com/api/projects/p/openai/v1", None, Surface.RESPONSES, b"",
         "https://res.services.ai.azure.com/api/projects/p/openai/v1/responses"),
    ],
)  # fmt: skip
def test_azure_has_two_forms_of_address(
    base: str, version: str | None, surface: Surface, query: bytes, expected: str
) -> None:
    assert url(provider("azure_openai", base, api_version=version), surface, query=query) == expected


def test_an_azure_deployments_name_cannot_leave_its_place_in_the_path() -> None:
    p = provider("azure_openai", AZURE)
    assert url(p, Surface.CHAT, "../x?y#z é") == (
        f"{DEPLOYED}/..%2Fx%3Fy%23z%20%C3%A9/chat/completions?api-version=2024-10-21"
    )
    assert url(p, Surface.RESPONSES, below="/resp_1") == f"{AZURE}/openai/v1/responses/resp_1"


@pytest.mark.parametrize(
    ("base", "messages"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"),
        (
            "https://bedrock-mantle.us-east-1.api.aws/anthropic",
            "https://bedrock-mantle.us-east-1.api.aws/anthropic/v1/messages",
        ),
        (
            "https://res.services.ai.azure.com/anthropic/v1",
            "https://res.services.ai.azure.com/anthropic/v1/messages",
        ),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1/messages"),
    ],
)
def test_anthropics_base_may_end_in_its_version(base: str, messages: str) -> None:
    p = provider("anthropic", base)
    assert url(p, Surface.MESSAGES) == messages
    assert url(p, Surface.MESSAGES, query=b"beta=true") == f"{messages}?beta=true"
    counted = url(p, Surface.MESSAGES, query=b"beta=true", below=anthropic.COUNT_TOKENS)
    assert counted == f"{messages}/count_tokens?beta=true"


@pytest.mark.parametrize(
    ("asked", "spoken", "kept"),
    [
        (Surface.MESSAGES, Surface.MESSAGES, b"beta=true"),
        (Surface.MESSAGES, Surface.CHAT, b""),
        (Surface.CHAT, Surface.MESSAGES, b""),
        (Surface.RESPONSES, Surface.MESSAGES, b""),
        # Azure's version is meant for either of its APIs.
        (Surface.RESPONSES, Surface.CHAT, b"beta=true"),
        (Surface.EMBEDDINGS, Surface.EMBEDDINGS, b"beta=true"),
    ],
)
def test_a_query_of_another_vendor_s_api_is_left_out(asked: Surface, spoken: Surface, kept: bytes) -> None:
    translation = between(asked, spoken) if asked is not spoken else None
    wire = Wire(openai, spoken, CODECS[spoken], translation)
    assert query_for(wire, asked, b"beta=true") == kept


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (b"", ""),
        (b"&&", ""),
        (b"beta=true&x", "beta=true&x"),
        (b"key=AIza-secret", ""),
        (b"a=1&key=AIza-secret&b=2", "a=1&b=2"),
        (b"k%65y=s&KEY=s&api_key=s&api-key=s&access_token=s&key", ""),
        (b"monkey=1&keys=2", "monkey=1&keys=2"),
        (b"q=\xff%00", "q=\xff%00"),
    ],
)
def test_a_credential_in_the_query_goes_no_further(query: bytes, kept: str) -> None:
    assert openai.kept_query(query) == kept
    for p, surface in (
        (provider("openai", BASES["gemini"]), Surface.CHAT),
        (provider("azure_openai", AZURE), Surface.CHAT),
        (provider("anthropic", "https://api.anthropic.com"), Surface.MESSAGES),
    ):
        assert "secret" not in url(p, surface, query=query)


JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln"


@pytest.mark.parametrize(
    ("dialect", "secret", "headers"),
    [
        ("openai", None, []),
        ("openai", "", []),
        ("openai", "sk-1", [(b"authorization", b"Bearer sk-1")]),
        ("azure_openai", None, []),
        ("azure_openai", "0af3", [(b"api-key", b"0af3")]),
        ("azure_openai", "eyJkey", [(b"api-key", b"eyJkey")]),
        ("azure_openai", JWT, [(b"authorization", f"Bearer {JWT}".encode())]),
        ("anthropic", None, []),
        ("anthropic", "sk-ant-api03-x", [(b"x-api-key", b"sk-ant-api03-x")]),
        ("anthropic", "anything-else", [(b"x-api-key", b"anything-else")]),
        ("anthropic", "sk-ant-oat01-x", [(b"authorization", b"Bearer sk-ant-oat01-x")]),
        ("anthropic", "sk-or-v1-x", [(b"authorization", b"Bearer sk-or-v1-x")]),
    ],
)
def test_a_secret_goes_into_the_header_that_the_provider_reads(
    dialect: str, secret: str | None, headers: Headers
) -> None:
    assert DIALECTS[dialect].credentials(secret) == headers


def test_anthropics_version_is_the_clients_where_it_names_one() -> None:
    assert anthropic.defaults({}) == [(b"anthropic-version", b"2023-06-01")]
    assert anthropic.defaults({b"anthropic-version": b"2026-10-21"}) == []
    assert openai.defaults({}) == azure_openai.defaults({}) == []


SERVED: dict[str, set[Surface]] = {
    "openai": set(OPENAI_SURFACES),
    "azure_openai": set(OPENAI_SURFACES) - {Surface.MODERATIONS},
    "anthropic": {Surface.MESSAGES},
}


@pytest.mark.parametrize("dialect", SERVED)
def test_a_dialect_serves_its_own_surfaces_and_of_them_what_the_policy_lists(dialect: str) -> None:
    module: Dialect = DIALECTS[dialect]
    every = provider(dialect, "https://x.example")
    assert {surface for surface in Surface if module.serves(every, surface)} == SERVED[dialect]
    some = provider(dialect, "https://x.example", surfaces=["chat", "messages", "moderations"])
    listed = {Surface.CHAT, Surface.MESSAGES, Surface.MODERATIONS}
    assert {surface for surface in Surface if module.serves(some, surface)} == SERVED[dialect] & listed


@pytest.mark.parametrize(
    ("dialect", "base", "fields", "field"),
    [
        ("openai", "https://api.openai.com/v1", {}, "max_completion_tokens"),
        ("openai", "https://eu.api.openai.com/v1", {}, "max_completion_tokens"),
        ("openai", "https://api.openai.com.evil.example/v1", {}, "max_tokens"),
        ("openai", "https://notapi.openai.com.example/v1", {}, "max_tokens"),
        ("openai", BASES["gemini"], {}, "max_tokens"),
        ("openai", BASES["groq"], {}, "max_tokens"),
        ("openai", BASES["openrouter"], {}, "max_tokens"),
        ("openai", BASES["ollama"], {}, "max_tokens"),
        ("openai", BASES["vllm"], {}, "max_tokens"),
        ("openai", BASES["bedrock"], {}, "max_completion_tokens"),
        ("openai", BASES["mantle"], {}, "max_completion_tokens"),
        ("openai", f"{AZURE}/openai/v1", {}, "max_completion_tokens"),
        ("openai", "https://res.cognitiveservices.azure.com/openai/v1", {}, "max_completion_tokens"),
        ("azure_openai", AZURE, {}, "max_completion_tokens"),
        ("azure_openai", "https://my-proxy.example", {}, "max_completion_tokens"),
        ("azure_openai", AZURE, {"api_version": "2024-06-01"}, "max_tokens"),
        ("azure_openai", AZURE, {"api_version": "2024-09-01-preview"}, "max_completion_tokens"),
        ("azure_openai", AZURE, {"api_version": "preview"}, "max_completion_tokens"),
        ("azure_openai", f"{AZURE}/openai/v1", {"api_version": "2024-06-01"}, "max_completion_tokens"),
        ("anthropic", "https://api.anthropic.com", {}, "max_tokens"),
        ("openai", BASES["vllm"], {"output_limit_field": "max_completion_tokens"}, "max_completion_tokens"),
        ("azure_openai", AZURE, {"output_limit_field": "max_tokens"}, "max_tokens"),
    ],
)
def test_the_limit_goes_where_the_provider_looks_for_it(
    dialect: str, base: str, fields: dict[str, Any], field: str
) -> None:
    assert openai.limit_field(provider(dialect, base, **fields)) == field
