"""Every refusal and failure that a caller can meet, and what each becomes on the wire.

    GatewayError            code, status, safe message
      CallerError           the request is wrong and will be wrong again
      Refusal               the request is fine and a rule said no: rule, scope, limit, used
      UpstreamError         the provider failed: its status, the class of failure
      StoreUnavailable      our own dependency failed; asking again soon may help

`CODES` is the whole taxonomy: a code, its status, and whether asking again can help. The status is
chosen by what SDKs do with it: 400 is the only one on which every client stops after one attempt
(docs/decisions/0001-status-codes.md). A message names the rule, the run, the limit and the observed
value, and never a secret or the text that matched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.domain import Surface, usd

Retry = Literal["never", "soon"]

_SCOPES = ("run", "session", "user", "key", "team", "model", "global")

CODES: dict[str, tuple[int, Retry]] = {
    **{f"{scope}_budget_exceeded": (400, "never") for scope in (*_SCOPES, "tag")},
    **{f"{scope}_killed": (400, "never") for scope in (*_SCOPES, "tool")},
    "loop_detected": (400, "never"),
    "step_limit_exceeded": (400, "never"),
    "run_timeout": (400, "never"),
    "tool_limit_exceeded": (400, "never"),
    "token_limit_exceeded": (400, "never"),
    "tool_not_allowed": (400, "never"),
    "approval_denied": (400, "never"),
    "approval_timeout": (400, "never"),
    "prompt_injection_blocked": (400, "never"),
    "pii_blocked": (400, "never"),
    "secret_blocked": (400, "never"),
    "output_blocked": (400, "never"),
    "rate_limit_exceeded": (429, "soon"),
    "concurrency_limit_exceeded": (429, "soon"),
    "upstream_unavailable": (503, "soon"),
    "upstream_timeout": (504, "soon"),
    "upstream_stream_interrupted": (502, "soon"),
    "upstream_credentials_rejected": (502, "never"),
    "breaker_open": (503, "soon"),
    "unknown_model": (400, "never"),
    "unknown_price": (400, "never"),
    "model_not_allowed": (400, "never"),
    "unknown_route": (404, "never"),
    "unknown_reference": (404, "never"),
    "invalid_api_key": (401, "never"),
    "invalid_json": (400, "never"),
    "invalid_request": (400, "never"),
    "request_too_large": (413, "never"),
    "unsupported_encoding": (415, "never"),
    "upgrade_required": (426, "never"),
    "method_not_allowed": (405, "never"),
    "budget_store_unavailable": (503, "soon"),
    "guardrail_unavailable": (503, "soon"),
}

MAX_RETRY_AFTER_S = 60
"""Some SDKs sleep for as long as they are told, so no answer ever tells more than a minute."""


class GatewayError(Exception):
    """A caller's request could not be served. `code` is stable; `message` is safe to show."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        default_status, retry = CODES[code]
        self.code = code
        self.message = message
        self.status = status or default_status
        self.retry: Retry = retry
        self.retry_after_s = retry_after_s
        self.param = param

    @property
    def details(self) -> dict[str, Any]:
        """Machine-readable facts for the `guardrail` object of the body."""
        return {}


class CallerError(GatewayError):
    """The request is wrong and will be wrong again."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """Why a rule said no, in figures. Money in nano-dollars, other limits in their own unit."""

    code: str
    rule: str
    scope: str
    limit: int
    used: int
    money: bool = False
    resets_at: str | None = None
    """RFC 3339, when the limit belongs to a window."""


class Refusal(GatewayError):  # noqa: N818 - a rule's answer, not a fault
    """The request is fine and a rule said no."""

    def __init__(
        self, ruling: Ruling, message: str, *, retry_after_s: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(ruling.code, message, retry_after_s=retry_after_s, status=status)
        self.ruling = ruling

    @property
    def details(self) -> dict[str, Any]:
        r = self.ruling
        show = usd if r.money else int
        details: dict[str, Any] = {
            "rule": r.rule,
            "scope": r.scope,
            "limit": show(r.limit),
            "used": show(r.used),
        }
        if r.resets_at:
            details["resets_at"] = r.resets_at
        return details


class UpstreamError(GatewayError):
    """The provider failed, before or after its first byte."""


class StoreUnavailable(GatewayError):  # noqa: N818 - read as a state
    """The store cannot answer in time; without it hard limits cannot be kept."""

    def __init__(self, message: str = "The budget store is unavailable; nothing was sent upstream.") -> None:
        super().__init__("budget_store_unavailable", message, retry_after_s=2)


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """Identifiers that belong in every error, known or not at the moment it is raised."""

    request_id: str
    run_id: str | None = None
    decision_id: str | None = None


def retry_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """The headers that steer an SDK's retries; a refusal that will not change never looks retriable."""
    final = error.retry == "never" or error.status == 400
    if final or (error.retry_after_s or 0) > MAX_RETRY_AFTER_S:
        return [(b"x-should-retry", b"false")]
    if error.retry_after_s is None:
        return [(b"retry-after", b"1")] if error.status in (429, 503, 529) else []
    seconds = max(error.retry_after_s, 0.001)
    return [
        (b"retry-after", b"%d" % math.ceil(seconds)),
        (b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)),
    ]


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
    502: "api_error",
    500: "api_error",
}


def status_on(surface: Surface, error: GatewayError) -> int:
    """The HTTP status of an error on a surface: Anthropic clients know 529 for an outage."""
    if surface is Surface.MESSAGES and error.code == "upstream_unavailable":
        return 529
    return error.status


def error_body(surface: Surface, error: GatewayError, context: ErrorContext) -> dict[str, Any]:
    """The error as this surface's JSON, the same before the first byte of a stream and after it."""
    facts = {
        "run_id": context.run_id,
        "decision_id": context.decision_id,
        **error.details,
    }
    if surface is Surface.MESSAGES:
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error")
        return {
            "type": "error",
            "error": {
                "type": kind,
                "message": error.message,
                "details": {"error_code": error.code, "guardrail": facts},
            },
            "request_id": context.request_id,
        }
    return {
        "error": {
            "message": error.message,
            "type": "guardrail_error",
            "code": error.code,
            "param": error.param,
            "guardrail": facts,
        }
    }


def error_json(surface: Surface, error: GatewayError, context: ErrorContext) -> bytes:
    """`error_body`, serialised."""
    return orjson.dumps(error_body(surface, error, context))
