"""Every error that a caller can meet, on each surface, and what SDKs are told about asking again."""

from __future__ import annotations

import pytest

from gateway.domain import Surface, usd_about
from gateway.errors import (
    CODES,
    CallerError,
    ErrorContext,
    GatewayError,
    Refusal,
    Ruling,
    StoreUnavailable,
    UpstreamError,
    error_body,
    retry_headers,
    status_on,
)
from gateway.steps.turn import new_id

CONTEXT = ErrorContext("req_1", "run_1", "dec_1")


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_shape_on_each_surface(code: str) -> None:
    error = GatewayError(code, "a message")
    body = error_body(Surface.CHAT, error, CONTEXT)["error"]
    assert (body["code"], body["type"], body["message"]) == (code, "guardrail_error", "a message")
    assert body["guardrail"] == {"run_id": "run_1", "decision_id": "dec_1"}
    anthropic = error_body(Surface.MESSAGES, error, CONTEXT)
    assert anthropic["type"] == "error"
    assert anthropic["request_id"] == "req_1"
    assert anthropic["error"]["details"]["error_code"] == code
    assert anthropic["error"]["type"] in {
        "invalid_request_error", "authentication_error", "not_found_error", "rate_limit_error", "timeout_error",
        "api_error", "overloaded_error",
    }  # fmt: skip


@pytest.mark.parametrize("code", [c for c in CODES if c.endswith(("_exceeded", "_killed", "_blocked"))])
def test_a_verdict_that_will_not_change_is_400_and_not_retriable(code: str) -> None:
    if code in ("rate_limit_exceeded", "concurrency_limit_exceeded"):
        return
    error = Refusal(Ruling(code, "rule", "run", 5, 7), "no")
    assert error.status == 400
    assert retry_headers(error) == [(b"x-should-retry", b"false")]


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Refusal(Ruling("rate_limit_exceeded", "r", "user", 1, 1), "wait", retry_after_s=1.2),
         [(b"retry-after", b"2"), (b"retry-after-ms", b"1200")]),
        (Refusal(Ruling("rate_limit_exceeded", "r", "user", 1, 1), "wait", retry_after_s=90), [(b"x-should-retry", b"false")]),
        (Refusal(Ruling("rate_limit_exceeded", "r", "user", 1, 1), "never", status=400), [(b"x-should-retry", b"false")]),
        (StoreUnavailable(), [(b"retry-after", b"2"), (b"retry-after-ms", b"2000")]),
        (UpstreamError("upstream_unavailable", "down"), [(b"retry-after", b"1")]),
        (UpstreamError("upstream_credentials_rejected", "bad"), [(b"x-should-retry", b"false")]),
        (CallerError("invalid_json", "bad"), [(b"x-should-retry", b"false")]),
    ],
)  # fmt: skip
def test_sdks_are_told_whether_to_ask_again(error: GatewayError, headers: list[tuple[bytes, bytes]]) -> None:
    assert retry_headers(error) == headers
    for name, value in headers:
        if name == b"retry-after":
            assert int(value) <= 60


def test_money_in_details_is_decimal_text_and_other_limits_are_numbers() -> None:
    money = Refusal(
        Ruling("run_budget_exceeded", "run", "run", 500_000_000, 1, money=True, resets_at="t"), "no"
    )
    assert money.details == {
        "rule": "run", "scope": "run", "limit": "0.500000000", "used": "0.000000001", "resets_at": "t"}  # fmt: skip
    steps = Refusal(Ruling("step_limit_exceeded", "runs.max_steps", "run", 25, 25), "no")
    assert steps.details["limit"] == 25


def test_an_outage_is_529_for_anthropic_clients() -> None:
    error = UpstreamError("upstream_unavailable", "down")
    assert status_on(Surface.CHAT, error) == 503
    assert status_on(Surface.MESSAGES, error) == 529


def test_no_id_and_no_bound_is_taken_for_a_rate_limit() -> None:
    """Some agents look for "429" in the text of an error, wait a minute and ask again."""
    assert not any("429" in new_id("run") for _ in range(20_000))
    assert [usd_about(nano) for nano in (9_582_501, 429_000_001, 428_999_999, 0, 5, 12_345_678_901, 429)] == [
        "0.00959", "0.43", "0.43", "0.00", "0.000000005", "12.40", "0.00000043",
    ]  # fmt: skip
