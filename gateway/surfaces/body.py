"""Request bodies: one strict parse, and edits that keep every byte that they do not concern.

What a guard read must be what the provider reads. Parsers differ over duplicate keys, other encodings and
`NaN`, so all of these are refused here, before anything else looks at the body.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from gateway.domain import Json
from gateway.errors import CallerError

_LONG = 4096


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _DuplicateKeyError(key)
        out[key] = value
    return out


def parse_object(raw: bytes, *, max_depth: int) -> Json:
    """The body as a dict, or `CallerError` `invalid_json` / `invalid_request`.

    Refused: what is not UTF-8 JSON, a duplicate key at any depth, nesting deeper than `max_depth`, numbers
    that would not survive the round trip, and anything but an object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise CallerError("invalid_json", f"The request body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise CallerError("invalid_json", "The request body has to be a JSON object.")
    # In a long body counting takes longer than walking.
    if len(raw) > _LONG or raw.count(b"{") + raw.count(b"[") > max_depth:
        _check_depth(body, max_depth)
    # A compact body that serialises to itself cannot hold a duplicate; SDKs send compact bodies.
    if orjson.dumps(body) != raw:
        _check_duplicates(raw)
    return body


def _check_depth(body: Json, max_depth: int) -> None:
    level: list[Any] = [body]
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise CallerError("invalid_json", f"The request body is nested deeper than {max_depth} levels.")
        level = [
            value
            for node in level
            for value in (node.values() if type(node) is dict else node)
            if type(value) is dict or type(value) is list
        ]


def _check_duplicates(raw: bytes) -> None:
    try:
        json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_int=_check_int)
    except _DuplicateKeyError as duplicate:
        raise CallerError(
            "invalid_json", f"The request body has the key {duplicate.key[:64]!r} twice in one object."
        ) from None
    except OverflowError:
        raise CallerError("invalid_json", "The request body has an integer of more than 64 bits.") from None


def _check_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise OverflowError
    return int(digits)


def with_fields(raw: bytes, body: Json, changes: Json) -> bytes:
    """The body with top-level fields set, for forwarding.

    Fields that are new are spliced in before the closing brace, so that all other bytes stay the client's;
    only a change of a field that is there serialises anew.
    """
    if not changes:
        return raw
    if any(key in body for key in changes):
        return orjson.dumps({**body, **changes})
    return joined(raw, changes)


def json_text(value: object) -> str:
    """A parsed JSON value as text; empty for what was parsed at a depth at which it cannot be written."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return ""


def joined(raw: bytes, fields: Json) -> bytes:
    """A serialised object with more fields, none of which it has; it is not parsed and must not be empty."""
    return b"%b,%b" % (raw[: raw.rindex(b"}")], orjson.dumps(fields)[1:])
