"""`GET /v1/models`: the models that a caller may use, in the shape that its SDK expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import orjson

from gateway.domain import Json, Principal
from gateway.errors import CallerError
from gateway.policy.models import Policy
from gateway.policy.sections.callers import model_allowed

PATH = b"/v1/models"
_PAGE = 20
_MAX_PAGE = 1000
_EPOCH = "1970-01-01T00:00:00Z"


def speaks_anthropic(headers: Mapping[bytes, bytes]) -> bool:
    """Anthropic's SDKs name the version of its API with every call; nobody else does."""
    return b"anthropic-version" in headers


def answer(
    policy: Policy,
    builtin: Sequence[str],
    caller: Principal,
    headers: Mapping[bytes, bytes],
    path: bytes,
    query: bytes,
) -> bytes:
    """The list, or the one model that the path names. Raises `CallerError`."""
    names = [
        name
        for name, model in policy.models.items()
        if not name.endswith("*") and model.provider in policy.providers
    ]
    visible = [n for n in (*names, *builtin) if caller.models is None or model_allowed(caller.models, n)]
    anthropic = speaks_anthropic(headers)
    if path == PATH:
        return orjson.dumps(_page(visible, query) if anthropic else _list(visible))
    name = unquote_to_bytes(path[len(PATH) + 1 :]).decode("utf-8", "replace")
    target = policy.find_model(name)
    known = name in visible or (
        target is not None
        and target.provider is not None
        and (caller.models is None or model_allowed(caller.models, name))
    )
    if not known:
        raise CallerError(
            "unknown_model", f"Model {name[:128]!r} is not configured.", status=404, param="model"
        )
    return orjson.dumps(_anthropic_model(name) if anthropic else _model(name))


def _list(names: Sequence[str]) -> Json:
    return {"object": "list", "data": [_model(name) for name in names]}


def _model(name: str) -> Json:
    owner = "simulated" if name.startswith("sim/") else "gateway"
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _page(names: Sequence[str], query: bytes) -> Json:
    """One page, cursors as in https://platform.claude.com/docs/en/api/models-list."""
    asked = {k: v[-1] for k, v in parse_qs(query.decode("latin-1")).items()}
    limit = asked.get("limit", "")
    size = min(int(limit), _MAX_PAGE) if limit.isdigit() and limit != "0" else _PAGE
    start = names.index(asked["after_id"]) + 1 if asked.get("after_id") in names else 0
    end = len(names)
    if asked.get("before_id") in names:
        end = names.index(asked["before_id"])
        start = max(0, end - size)
    page = names[start : min(end, start + size)]
    more = start > 0 if "before_id" in asked else start + size < end
    return {
        "data": [_anthropic_model(name) for name in page],
        "has_more": more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }


def _anthropic_model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": _EPOCH}
