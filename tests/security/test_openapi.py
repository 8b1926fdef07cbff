"""The admin plane against its own description: whatever fits or does not fit it is answered as it says.

The data plane publishes no description: it speaks other people's APIs, and its requests are made from the types of
their SDKs (tests/parity) and twisted in test_parsers.py and below.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.security.raw import Connection, Ended, post
from tests.security.test_routes import forget_failures
from tests.support.gateway import ADMIN_TOKEN, ThreadedGateway

openapi = pytest.importorskip("schemathesis.openapi", reason="schemathesis is not installed: make dev")
core = pytest.importorskip("schemathesis")


def quick(examples: int) -> Callable[[Any], Any]:
    """So many examples, the same ones in every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def description(gateway: ThreadedGateway) -> dict[str, Any]:
    """What the admin plane says of itself."""
    found: dict[str, Any] = gateway.admin("GET", "/openapi.json")
    return found


@pytest.fixture(scope="module")
def schema(shared_gateway: ThreadedGateway) -> Any:
    return openapi.from_dict(description(shared_gateway))


def operations(schema: Any) -> list[Any]:
    """Every operation but the stream of events, which does not end."""
    found = [result.ok() for result in schema.get_all_operations()]
    return [each for each in found if not each.path.endswith("/events")]


def play(gateway: ThreadedGateway, case: Any) -> None:
    """Send a case, and hold the answer against the description."""
    forget_failures(gateway)
    kwargs = case.as_transport_kwargs(base_url=gateway.url)
    url = kwargs["url"]
    if kwargs.get("params"):
        url += "?" + urllib.parse.urlencode(kwargs["params"], doseq=True, errors="replace")
    body = kwargs.get("data")
    if kwargs.get("json") is not None:
        body = json.dumps(kwargs["json"]).encode()
    body = body.encode("utf-8", "replace") if isinstance(body, str) else body or b""
    target = url.removeprefix(gateway.url).encode("ascii", "replace")
    raw = post(ADMIN_TOKEN, body, b"Content-Type: application/json", target=target)
    raw = raw.replace(b"POST ", case.method.encode() + b" ", 1).replace(b"gateway.example", b"127.0.0.1", 1)
    with Connection(gateway.port) as line:
        line.send(raw)
        try:
            answer = line.read(method=case.method)
        except Ended:
            pytest.fail(f"no answer to {raw!r}")
    told = (case.method, target, body[:200], answer.status, answer.body[:300])
    assert answer.status < 500, told
    if answer.status == 400 and answer.header("content-type") != "application/json":
        # Bytes that are no HTTP are refused before there is a route.
        return
    responses = case.operation.definition.raw["responses"]
    documented = str(answer.status) in responses or answer.status in (
        400,
        401,
        403,
        404,
        405,
        409,
        413,
        415,
        429,
    )
    assert documented, told
    if answer.status >= 400:
        assert set(json.loads(answer.body)) == {"error"}, told
        assert set(json.loads(answer.body)["error"]) == {"code", "message"}, told
        return
    content = responses[str(answer.status)].get("content", {}).get("application/json", {})
    if answer.header("content-type") == "application/json" and content.get("schema"):
        import jsonschema_rs

        document = {"components": description(gateway)["components"], **content["schema"]}
        assert jsonschema_rs.is_valid(document, json.loads(answer.body)), told


def everything(schema: Any) -> st.SearchStrategy[Any]:
    """Cases of all operations, those that fit and those that do not."""
    return st.one_of(
        [
            each.as_strategy(generation_mode=mode)
            for each in operations(schema)
            for mode in (core.GenerationMode.POSITIVE, core.GenerationMode.NEGATIVE)
        ]
    )


def test_the_admin_plane_keeps_to_its_description(shared_gateway: ThreadedGateway, schema: Any) -> None:
    assert len(operations(schema)) > 30

    @quick(10)
    @given(everything(schema))
    def each(case: Any) -> None:
        play(shared_gateway, case)

    each()


@pytest.mark.slow
def test_the_admin_plane_keeps_to_its_description_at_length(
    shared_gateway: ThreadedGateway, schema: Any
) -> None:
    for operation in operations(schema):
        for mode in (core.GenerationMode.POSITIVE, core.GenerationMode.NEGATIVE):

            @quick(3)
            @given(operation.as_strategy(generation_mode=mode))
            def each(case: Any) -> None:
                play(shared_gateway, case)

            each()
