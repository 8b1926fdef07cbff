"""A secret is found in whatever field of a request it stands, or the field is in a reviewed list.

The fields are those of the official SDKs' typed requests. One that a new version of an SDK brings fails here until it is
screened, or reviewed: in `tests/parity/allowed.toml` where no guard meets it, else below.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import orjson
import pytest

from gateway.domain import Surface
from gateway.steps.screens import Blocked
from tests.parity.allowed import groups
from tests.parity.schemas import REQUESTS, Field, fields, seen_as
from tests.unit.screening.harness import Harness

CANARY = "ghp_a8Kd03mZqP5vT7yBnX2cR9wLfH4jS6uE1gQo"
REVIEWED: dict[str, dict[Surface, tuple[str, ...]]] = {
    # Providers hold them to letters, digits and a few signs; the gateway's contracts decide which may be used.
    "names of tools": {
        Surface.CHAT: (
            "functions[].name", "tools[function].function.name", "tools[custom].custom.name",
            "messages[assistant].function_call.name", "messages[assistant].tool_calls[function].function.name",
            "messages[assistant].tool_calls[custom].custom.name",
        ),
        Surface.RESPONSES: (
            "*tools[function].name", "*tools[custom].name", "*tools[mcp].server_label", "*tools[namespace].name",
            "input[function_call].name", "input[custom_tool_call].name", "input[mcp_approval_request].name",
        ),
        Surface.MESSAGES: ("*tools[*].name", "*[tool_use].name", "tools[mcp_toolset].mcp_server_name"),
    },
    # They tell which call is meant. Models read none of them.
    "ids of calls": {
        Surface.CHAT: (
            "messages[assistant].tool_calls[function].id", "messages[assistant].tool_calls[custom].id",
            "messages[tool].tool_call_id",
        ),
        Surface.RESPONSES: ("*.call_id", "*.approval_request_id", "*[local_shell_call_output].id", "*[mcp_approval_request].id"),
        Surface.MESSAGES: ("*[tool_use].id", "*[tool_result].tool_use_id"),
    },
    # An id reaches the provider only for whoever it was handed to.
    "ids of what the provider keeps": {
        Surface.CHAT: ("*.file_id",),
        Surface.RESPONSES: (
            "previous_response_id", "conversation", "conversation.id", "*.file_id", "*.id", "*.container_id",
            "*.file_ids[]", "*.vector_store_ids[]", "*.tunnel_id", "*.skill_id", "*.container", "*.comparison_response_id",
        ),
        Surface.MESSAGES: ("container", "container.id", "*.previous_message_id", "*.file_id", "*.skill_id"),
    },
    # It has to be one that the policy has.
    "the model": {surface: ("model",) for surface in Surface if surface is not Surface.PASSTHROUGH},
    # Sealed: the provider refuses it when it comes back changed, and it came from there.
    "thoughts": {Surface.MESSAGES: ("messages[assistant].content[thinking].thinking",)},
}  # fmt: skip


def reviewed(field: Field) -> bool:
    """Whether a field is in a list, as something that is not screened."""
    if any(e.surface is field.surface and e.fits(field.path) for group in groups() for e in group.entries):
        return True
    return any(
        _fits(pattern, field.path) for of in REVIEWED.values() for pattern in of.get(field.surface, ())
    )


def _fits(pattern: str, path: str) -> bool:
    """`*` stands for anything."""
    first, *rest = pattern.split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for part in rest:
        at = (
            path.find(part, at)
            if part != rest[-1]
            else (len(path) - len(part) if path.endswith(part) else -1)
        )
        if at < 0:
            return False
        at += len(part)
    return at == len(path)


def passing(those: list[Field], text: str) -> Iterator[Field]:
    """The fields with which a text passes."""
    harness = Harness({"secrets": {"action": "block"}, "unscannable": "allow"})

    async def blocks(field: Field) -> bool:
        try:
            await harness.request(field.parse(orjson.dumps(field.put(text))))
        except Blocked as error:
            return error.ruling.code == "secret_blocked" and text not in str(error)
        return False

    async def each() -> list[bool]:
        return [await blocks(field) for field in those]

    for field, blocked in zip(those, asyncio.run(each()), strict=True):
        if not blocked:
            yield field


@pytest.mark.parametrize("request_name", [name for _, name, _, _ in REQUESTS])
def test_a_secret_is_blocked_in_every_field_or_the_field_is_reviewed(request_name: str) -> None:
    those = [field for field in fields() if field.request == request_name]
    unreviewed = sorted({field.path for field in passing(those, CANARY) if not reviewed(field)})
    assert unreviewed == []


def test_the_list_holds_nothing_that_is_screened() -> None:
    unread: dict[Surface, set[str]] = defaultdict(set)
    for field in passing([*fields()], CANARY):
        unread[field.surface].add(field.path)
    idle = [
        (reason, surface, pattern)
        for reason, of in REVIEWED.items()
        for surface, patterns in of.items()
        for pattern in patterns
        if not any(_fits(pattern, path) for path in unread[surface])
    ]
    assert idle == []


def test_what_cannot_be_read_is_refused_where_the_policy_says_so() -> None:
    """Every field that is shown as media alone, with `unscannable: block`."""
    harness = Harness({"unscannable": "block"})
    those = [field for field in fields() if seen_as(field) == frozenset({"media"})]
    assert len(those) > 50

    async def each() -> list[str]:
        passed = []
        for field in those:
            try:
                await harness.request(field.parse(orjson.dumps(field.put("x"))))
                passed.append(field.path)
            except Blocked:
                continue
        return passed

    assert asyncio.run(each()) == []
