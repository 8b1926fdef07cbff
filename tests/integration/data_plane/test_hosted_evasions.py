"""Ways to a tool that the provider runs, past the contracts: fields beside `tools`, the names of other tools,
choices that force it. And what looks like one of these and is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from gateway.testing.script import Ask
from tests.integration.data_plane.test_governance import Agent, Start, governed
from tests.integration.data_plane.test_surfaces import lanes, post, streams
from tests.support.gateway import ThreadedGateway
from tests.support.wire import WIRES, Json, error_code

__all__ = ["governed"]

MODELS = {"chat": "sim/echo", "responses": "sim/echo", "messages": "claude/echo"}
FIELDS = (
    "tools", "functions", "tool_choice", "function_call", "web_search_options", "search_parameters", "plugins",
    "mcp_servers",
)  # fmt: skip
SERVER = {"type": "url", "name": "search", "url": "https://evil.example"}
TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "search"}
MCP = {"type": "mcp", "server_label": "search", "server_url": "https://evil.example", "require_approval": "never"}  # fmt: skip
CONNECTOR = {"type": "mcp", "server_label": "search", "connector_id": "connector_gmail", "authorization": "x"}
HOSTED: tuple[Json, ...] = (
    {"type": "web_search"},
    {"type": "web_search_preview"},
    {"type": "file_search", "vector_store_ids": []},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "programmatic_tool_calling"},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "local_shell"},
    {"type": "apply_patch"},
    {"type": "computer"},
    {"type": "computer_use_preview", "display_width": 1, "display_height": 1, "environment": "linux"},
    {"type": "tool_search"},
    MCP,
    CONNECTOR,
)


def sent(
    gateway: ThreadedGateway, provider: ProviderServer, surface: str, fields: Json, model: str = ""
) -> Json:
    """What reaches the provider of the fields that have to do with tools."""
    wire = WIRES[surface]
    provider.journal.clear()
    status, _, raw = post(gateway, wire, {**wire.request(model or MODELS[surface]), **fields})
    assert status == 200, raw
    body = json.loads(provider.journal.last.body)
    return {name: body[name] for name in FIELDS if name in body}


BESIDE: list[tuple[str, Json, str]] = [
    ("chat", {"web_search_options": {}}, "web_search"),
    ("chat", {"search_parameters": {"mode": "auto"}}, "web_search"),
    ("chat", {"plugins": [{"id": "web"}]}, "web_search"),
    ("chat", {"tools": [{"type": "web_search", "name": "search"}]}, "web_search"),
    ("chat", {"tools": [{"type": "web_search", "function": "search"}]}, "web_search"),
    ("chat", {"functions": [{"name": "evil", "function": {"name": "search"}}], "function_call": {"name": "evil"}}, "evil"),
    ("responses", {"plugins": [{"id": "web"}]}, "web_search"),
    ("messages", {"mcp_servers": [SERVER]}, "mcp_toolset"),
    ("messages", {"mcp_servers": [SERVER], "tools": [TOOLSET]}, "mcp_toolset"),
    ("messages", {"mcp_servers": [SERVER, SERVER], "tools": [{**TOOLSET, "name": "search"}] * 2}, "mcp_toolset"),
    ("messages", {"plugins": [{"id": "web"}]}, "web_search"),
    *(("responses", {"tools": [tool]}, tool["type"]) for tool in HOSTED),
    *(("responses", {"tools": [{**tool, "name": "search"}] * 2, "tool_choice": tool}, tool["type"]) for tool in HOSTED),
]  # fmt: skip


NAMES = sorted({name for _, _, name in BESIDE})


def test_a_hosted_tool_is_withheld_by_whatever_field_it_comes(
    governed: Start, provider: ProviderServer
) -> None:
    # The one tool that is allowed has the name behind which others hide.
    gateway = governed("tools: {defaults: {allow: false}, search: {allow: true}}")
    for surface, fields, _ in BESIDE:
        assert sent(gateway, provider, surface, fields) == {}, fields


def test_a_hosted_tool_is_withheld_by_its_own_contract_alone(
    governed: Start, provider: ProviderServer
) -> None:
    gateway = governed(f"tools: {{{', '.join(f'{name}: {{allow: false}}' for name in NAMES)}}}")
    for surface, fields, _ in BESIDE:
        assert sent(gateway, provider, surface, fields) == {}, fields
        good = WIRES[surface].tools(["good"])
        more = {**fields, "tools": [*fields.get("tools", ()), *good]}
        assert sent(gateway, provider, surface, more) == {"tools": good}, fields


def test_a_hosted_tool_that_is_allowed_is_sent_as_it_came(governed: Start, provider: ProviderServer) -> None:
    allowed = ", ".join(f"{name}: {{allow: true}}" for name in (*NAMES, "search"))
    gateway = governed(f"tools: {{defaults: {{allow: false}}, {allowed}}}")
    for surface, fields, _ in BESIDE:
        assert sent(gateway, provider, surface, fields) == fields


def test_a_server_is_withheld_by_its_own_name(governed: Start, provider: ProviderServer) -> None:
    gateway = governed("tools: {search: {allow: false}}")
    other = {**SERVER, "name": "other"}
    fields: Json = {
        "mcp_servers": [SERVER, other],
        "tools": [TOOLSET, {**TOOLSET, "mcp_server_name": "other"}],
    }
    assert sent(gateway, provider, "messages", fields) == {
        "mcp_servers": [other],
        "tools": [{**TOOLSET, "mcp_server_name": "other"}],
    }
    choice = {"type": "mcp", "server_label": "search"}
    fields = {"tools": [MCP, {"type": "web_search"}], "tool_choice": choice}
    assert sent(gateway, provider, "responses", fields) == {"tools": [{"type": "web_search"}]}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [choice]}
    assert sent(gateway, provider, "responses", {**fields, "tool_choice": allowed}) == {
        "tools": [{"type": "web_search"}],
        "tool_choice": "none",
    }


@pytest.mark.parametrize(
    ("surface", "prefix", "fields"),
    [
        ("chat", "claude", {"web_search_options": {}}),
        ("responses", "claude", {"tools": [MCP]}),
        ("responses", "chatonly", {"tools": [{"type": "web_search"}]}),
        ("messages", "sim", {"mcp_servers": [SERVER]}),
    ],
)
def test_no_hosted_tool_is_carried_to_a_provider_of_another_api(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, fields: Json
) -> None:
    gateway = governed("tools: {defaults: {allow: false}}")
    wire = WIRES[surface]
    status, _, raw = post(gateway, wire, {**wire.request(f"{prefix}/echo"), **fields})
    assert (status, error_code(json.loads(raw)), len(provider.journal)) == (400, "invalid_request", 0)


def test_an_operator_stops_a_search_that_is_asked_for_beside_the_tools(
    governed: Start, provider: ProviderServer
) -> None:
    gateway = governed("")
    assert sent(gateway, provider, "chat", {"web_search_options": {}}) == {"web_search_options": {}}
    gateway.admin("POST", "/kills", {"scope": "tool", "id": "web_search", "reason": "leaks"})
    assert sent(gateway, provider, "chat", {"web_search_options": {}}) == {}
    assert sent(gateway, provider, "responses", {"tools": [{"type": "web_search"}]}) == {}


@pytest.mark.parametrize(
    "fields", [{"tools": [{"type": "web_search"}]}, {"plugins": [{"id": "web"}]}, {"tools": [MCP]}]
)
def test_what_is_fetched_later_is_not_to_be_had_with_hosted_tools(
    governed: Start, provider: ProviderServer, fields: Json
) -> None:
    gateway = governed("tools: {defaults: {allow: false}}")
    wire = WIRES["responses"]
    status, _, raw = post(gateway, wire, {**wire.request("sim/echo"), "background": True, **fields})
    assert (status, error_code(json.loads(raw))) == (400, "invalid_request")
    assert b"background" in raw
    assert len(provider.journal) == 0


def test_the_system_of_a_computer_is_nothing_that_a_provider_keeps(
    governed: Start, provider: ProviderServer
) -> None:
    gateway = governed("tools: {other: {allow: false}}")
    for system in ("linux", "browser", "mac", "windows", "ubuntu"):
        tool = {
            "type": "computer_use_preview",
            "display_width": 1,
            "display_height": 1,
            "environment": system,
        }
        assert sent(gateway, provider, "responses", {"tools": [tool]}) == {"tools": [tool]}
    wire = WIRES["responses"]
    shell = {"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_other"}}
    status, _, raw = post(gateway, wire, {**wire.request("sim/echo"), "tools": [shell]})
    assert (status, error_code(json.loads(raw))) == (404, "unknown_reference")


def calls_unasked(name: str) -> Any:
    def reply(ask: Ask) -> Reply:
        if ask.turns[-1].role == "tool":
            return Reply(ask.turns[-1].text)
        return Reply(tool_calls=[(name, {"q": "rm -rf"})], ignore_limits=True)

    return reply


@lanes
@streams
def test_a_function_with_the_name_of_a_hosted_tool_is_not_delivered_unless_it_is_offered(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    name = "computer"
    gateway = governed("tools: {other: {max_calls_per_run: 5}}")
    provider.script("unasked", calls_unasked(name))
    agent = Agent(gateway, WIRES[surface], f"{prefix}/unasked", ["lookup"], stream)
    assert "unknown_tool" in agent.run()
    assert agent.executed == []
    offers = Agent(gateway, WIRES[surface], f"{prefix}/unasked", ["lookup", name], stream)
    offers.run("another task")
    assert [called for called, _ in offers.executed] == [name]


@lanes
def test_a_tool_whose_name_is_longer_than_a_trace_keeps_is_called_as_often_as_it_may(
    governed: Start, provider: ProviderServer, surface: str, prefix: str
) -> None:
    name = "n" * 255 + "_and_more"
    gateway = governed("tools: {defaults: {max_calls_per_run: 2}}")

    def calls(ask: Ask) -> Reply:
        if any(tool.name == name for tool in ask.tools):
            return Reply(tool_calls=[(name, {"q": f"page {len(ask.turns)}"})])
        return Reply("That is all.")

    provider.script("long", calls)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/long", ["lookup", name])
    assert agent.run() == "That is all."
    assert [called for called, _ in agent.executed] == [name] * 2
