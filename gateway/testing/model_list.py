"""`GET /v1/models`, as OpenAI and as Anthropic answer it."""

from __future__ import annotations

from gateway.domain import Json
from gateway.testing import models
from gateway.testing.surfaces import RequestError

_MAX_PAGE = 1_000
_USUAL_PAGE = 20
_EPOCH = "1970-01-01T00:00:00Z"


def openai_model(name: str, description: str) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": models.OWNER,
        "description": f"Simulated: {description}",
    }


def anthropic_model(name: str, description: str) -> Json:
    return {
        "id": name,
        "type": "model",
        "display_name": f"Simulated: {description}",
        "created_at": _EPOCH,
        "lifecycle": "active",
    }


def anthropic_page(listed: list[Json], parameters: dict[str, str]) -> Json:
    """A part of a list, as Anthropic's `limit`, `after_id` and `before_id` ask for it."""
    limit = parameters.get("limit", str(_USUAL_PAGE))
    if not limit.isdecimal() or not 1 <= int(limit) <= _MAX_PAGE:
        raise RequestError(f"limit: Input should be between 1 and {_MAX_PAGE}")
    ids = [entry["id"] for entry in listed]
    after, before = parameters.get("after_id"), parameters.get("before_id")
    start = ids.index(after) + 1 if after in ids else 0
    end = ids.index(before) if before in ids else len(ids)
    if before is not None:
        start = max(start, end - int(limit))
    shown = listed[start:end][: int(limit)]
    return {
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start > 0 if before is not None else start + len(shown) < end,
    }
