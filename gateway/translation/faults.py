"""A provider's errors in the client's shape, whether they come as a body or inside a stream.

What is kept is what tells the caller what to change: the message, and the type and code that the provider
gave. Reading is tolerant; a body that is no error object at all is told as its beginning.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.domain import Json
from gateway.translation.calls import written
from gateway.values import frozen

_MAX_TEXT_CHARS = 2000
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The Messages API's published types: https://platform.claude.com/docs/en/api/errors"""


@frozen
class Fault:
    """What a provider said went wrong."""

    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status that some providers put into `code`."""
        return self.code if type(self.code) is int else None


def read_fault(told: object) -> Fault:
    """The fault in an error object of any of the three APIs, or in what holds one under `error`."""
    if type(told) is list and told:
        # Gemini's OpenAI endpoint wraps its errors in an array.
        told = told[0]
    if type(told) is dict and told.get("error"):
        told = told["error"]
    if type(told) is str:
        return Fault(told[:_MAX_TEXT_CHARS])
    if type(told) is not dict:
        return Fault("The provider reported an error without saying which.")
    message = told.get("message")
    if type(message) is not str:
        message = written(told)[:_MAX_TEXT_CHARS]
    code: Any = told.get("code")
    return Fault(
        message,
        _text(told.get("type")),
        code if type(code) is int else _text(code),
        _text(told.get("param")),
    )


def read_fault_body(reply: bytes) -> Fault:
    """The fault in an error's body."""
    try:
        return read_fault(orjson.loads(reply))
    except orjson.JSONDecodeError:
        text = reply[: _MAX_TEXT_CHARS * 4].decode("utf-8", "replace").strip()
        return Fault(text[:_MAX_TEXT_CHARS] or "The provider gave no reason.")


def chat_error(fault: Fault) -> Json:
    """The fault as chat and responses clients know it. The code falls back to the type, which is the only
    thing that the Messages API gives to branch on."""
    return {
        "error": {
            "message": fault.message,
            "type": fault.type or "api_error",
            "code": fault.code if fault.code is not None else fault.type,
            "param": fault.param,
        }
    }


def messages_error(fault: Fault, status: int | None = None) -> Json:
    """The fault as messages clients know it: its type follows the status, as that API's own do."""
    status = status or fault.status
    if status is None:
        kind = fault.type if fault.type in _TYPES.values() else "api_error"
    else:
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    error: Json = {"type": kind, "message": fault.message}
    if type(fault.code) is str:
        error["details"] = {"error_code": fault.code}
    return {"type": "error", "error": error, "request_id": None}


def _text(value: object) -> str | None:
    return value if type(value) is str else None
