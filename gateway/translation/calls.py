"""Tool calls between APIs: arguments are text on one side and an object on the other, ids have other rules.

What a model was told and what a client gets back has to be the call that was made. So valid arguments come
back with the same value, whatever the text was; what is no JSON object is wrapped, and unwrapped on the way
back, in the form that Anthropic documents for invalid arguments:
https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import orjson

from gateway.domain import Json

INVALID = "INVALID_JSON"
"""The one key of an input object that stands for arguments which are no JSON object."""

_LONG_NUMBER = re.compile(r"\d{17}")
_MANY_LEVELS = 64
_TOO_DEEP = '"(arguments nested too deeply)"'


def input_of(arguments: str) -> Json:
    """Arguments text as an input object; nothing at all is an empty object."""
    if not arguments or arguments.isspace():
        return {}
    value = _parsed(arguments)
    if type(value) is not dict or _is_wrapped(value):
        return {INVALID: arguments}
    return value


def arguments_of(given: object) -> str:
    """An input object as arguments text. Never raises: what cannot be written is no valid input either."""
    if type(given) is dict and _is_wrapped(given):
        return str(given[INVALID])
    return written(given if given is not None else {})


def written(value: object) -> str:
    """A provider's JSON value as text. Never raises."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # No object, so that every client reports it instead of calling its tool.
        return _TOO_DEEP


def is_object(arguments: str) -> bool:
    """Whether arguments text is a complete JSON object, to which nothing can be added."""
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        return type(orjson.loads(arguments)) is dict
    except orjson.JSONDecodeError:
        return False


def _is_wrapped(value: Json) -> bool:
    return len(value) == 1 and type(value.get(INVALID)) is str


def _parsed(text: str) -> Any:
    """The value, or None when it would not survive: invalid, too deep, or with an integer of over 64 bits."""
    try:
        value = orjson.loads(text)
        if _LONG_NUMBER.search(text):
            json.loads(text, parse_int=_exact)
        if text.count("{") + text.count("[") > _MANY_LEVELS:
            # As deep as it will stand in the body.
            orjson.dumps([[[[[[[[value]]]]]]]])
    except (ValueError, TypeError, RecursionError):
        return None
    return value


def _exact(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(digits)
    return int(digits)


def messages_id(call_id: str) -> bool:
    """Whether the Messages API takes this id: letters, digits, `_` and `-`."""
    return len(call_id) <= 64 and call_id.isascii() and call_id.replace("_", "").replace("-", "").isalnum()


def chat_id(call_id: str) -> bool:
    """Whether chat providers take this id; OpenAI allows 40 characters."""
    return 0 < len(call_id) <= 40 and call_id.isprintable()


class CallIds:
    """The ids of one request's calls and results, as the provider accepts them.

    An id passes unchanged where it can. One that the provider's API refuses, or that an earlier call of the
    conversation has already (some servers count `call_0`, `call_1` anew with each answer), is replaced, in
    the call and in its result alike; the same request gets the same ids, so prompt caches still match.
    """

    __slots__ = ("_accepts", "_last", "_open", "_times", "_used")

    def __init__(self, accepts: Callable[[str], bool]) -> None:
        self._accepts = accepts
        self._used: set[str] = set()
        self._times: dict[str, int] = {}
        self._open: dict[str, list[str]] = {}
        """By the client's id: what was sent for calls that have no result yet."""
        self._last: dict[str, str] = {}

    def call(self, call_id: str) -> str:
        """The id to send for a call."""
        sent = call_id if self._accepts(call_id) else _digest(call_id)
        while sent in self._used:
            times = self._times[call_id] = self._times.get(call_id, 0) + 1
            sent = _digest(f"{call_id}\n{times}")
        self._used.add(sent)
        self._open.setdefault(call_id, []).append(sent)
        return sent

    def result(self, call_id: str) -> str:
        """The id to send for a result: that of the oldest call without one."""
        waiting = self._open.get(call_id)
        if waiting:
            self._last[call_id] = waiting.pop(0)
        elif call_id not in self._last:
            return call_id if self._accepts(call_id) else _digest(call_id)
        return self._last[call_id]


def made_answer_id(prefix: str, request: Json, created: int) -> str:
    """An id for an answer whose provider gave none; clients take answers of one id for one answer."""
    seed = written(request).encode() + str(created).encode()
    return f"{prefix}{hashlib.sha256(seed).hexdigest()[:32]}"


def made_id(seed: str, index: int) -> str:
    """An id for a call whose provider gave none: unique by the answer and its place there."""
    return _digest(f"{seed}\n{index}")


def _digest(call_id: str) -> str:
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:32]
