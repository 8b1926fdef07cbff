"""Cursors of the ledger's listings: the sort key of the last row of a page, as opaque text."""

from __future__ import annotations

import base64
from typing import Any

import orjson


class BadCursor(ValueError):  # noqa: N818 - reads as what it is
    """The cursor was not made by this listing."""


def make_cursor(*values: int | str) -> str:
    """The cursor of the page after the row with this sort key."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def read_cursor(cursor: str, *types: type) -> list[Any]:
    """The sort key in a cursor, of these types. Raises `BadCursor`."""
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise BadCursor("the cursor is not one of this listing") from error
    if type(values) is not list or [type(value) for value in values] != list(types):
        raise BadCursor("the cursor is not one of this listing")
    if not all(_storable(value) for value in values):
        raise BadCursor("the cursor is not one of this listing")
    return values


def _storable(value: int | str) -> bool:
    """Whether both databases can compare a column with it: 64 bits, and no U+0000, which Postgres refuses."""
    return -(2**63) <= value < 2**63 if isinstance(value, int) else "\0" not in value
