"""The routes of what the provider keeps: fetch, list, remove, cancel. All of them are free.

Each handler takes the ids of its path, the query and the body, and returns what is shown. `ROUTES` is the
whole list; the names in it are also what a script can be mapped to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.domain import Json, Surface
from gateway.testing.background import Background
from gateway.testing.journal import now_ms
from gateway.testing.kept import Conversation, Kept, KeptFile, page
from gateway.testing.surfaces import RequestError
from gateway.testing.surfaces.audio import read_form
from gateway.testing.surfaces.base import json_body, object_at
from gateway.testing.surfaces.response_items import items_of

_MAX_NEW_ITEMS = 20


@dataclass(slots=True)
class Call:
    """A request to one of the routes. `ids` are those of its path, in order."""

    ids: tuple[str, ...]
    query: dict[str, str]
    body: bytes
    content_type: bytes


@dataclass(slots=True)
class Joined:
    """A stream of a background response, from its event of that index on."""

    background: Background
    start: int


@dataclass(slots=True)
class Binary:
    """A body that is not JSON."""

    data: bytes
    content_type: str = "application/octet-stream"


Shown = Json | Joined | Binary
Handler = Callable[[Kept, Call], Shown]


def _show_response(kept: Kept, call: Call) -> Shown:
    found = kept.response(call.ids[0])
    if call.query.get("stream") != "true":
        return found.body
    if found.background is None or not found.background.streams:
        raise RequestError(
            f"Response '{call.ids[0]}' cannot be streamed: it was not created with both 'background' and "
            "'stream'.",
            "stream",
        )
    after = call.query.get("starting_after")
    if after is None:
        return Joined(found.background, 0)
    if not after.isdecimal():
        raise RequestError("'starting_after' must be the sequence number of an event.", "starting_after")
    return Joined(found.background, int(after) + 1)


def _delete_response(kept: Kept, call: Call) -> Shown:
    found = kept.response(call.ids[0])
    if found.background is not None:
        found.background.cancel()
    del kept.responses[call.ids[0]]
    return {"id": call.ids[0], "object": "response", "deleted": True}


def _cancel_response(kept: Kept, call: Call) -> Shown:
    found = kept.response(call.ids[0])
    if found.background is None:
        raise RequestError("Cannot cancel a synchronous response.")
    return found.background.cancel()


def _list_input(kept: Kept, call: Call) -> Shown:
    return page(kept.response(call.ids[0]).items, call.query)


def _create_conversation(kept: Kept, call: Call) -> Shown:
    body = json_body(call.body) if call.body else {}
    items = _new_items(kept, body)
    made = Conversation(kept.new_id("conv_sim_"), now_ms() // 1000, object_at(body, "metadata"), list(items))
    kept.conversations[made.id] = made
    return made.shown()


def _show_conversation(kept: Kept, call: Call) -> Shown:
    return kept.conversation(call.ids[0]).shown()


def _update_conversation(kept: Kept, call: Call) -> Shown:
    found = kept.conversation(call.ids[0])
    found.metadata = object_at(json_body(call.body), "metadata")
    return found.shown()


def _delete_conversation(kept: Kept, call: Call) -> Shown:
    kept.conversation(call.ids[0])
    del kept.conversations[call.ids[0]]
    return {"id": call.ids[0], "object": "conversation.deleted", "deleted": True}


def _list_items(kept: Kept, call: Call) -> Shown:
    return page(kept.conversation(call.ids[0]).items, call.query)


def _add_items(kept: Kept, call: Call) -> Shown:
    found = kept.conversation(call.ids[0])
    made = _new_items(kept, json_body(call.body))
    found.items += made
    return page(made, {"limit": str(_MAX_NEW_ITEMS)}, newest_first=False)


def _new_items(kept: Kept, body: Json) -> tuple[Json, ...]:
    items = items_of(body.get("items"))
    if len(items) > _MAX_NEW_ITEMS:
        raise RequestError(f"At most {_MAX_NEW_ITEMS} items can be added at a time.", "items")
    return kept.named(items)


def _show_item(kept: Kept, call: Call) -> Shown:
    for item in kept.conversation(call.ids[0]).items:
        if item["id"] == call.ids[1]:
            return item
    raise RequestError(f"Item with id '{call.ids[1]}' not found.", status=404)


def _delete_item(kept: Kept, call: Call) -> Shown:
    _show_item(kept, call)
    found = kept.conversation(call.ids[0])
    found.items = [item for item in found.items if item["id"] != call.ids[1]]
    return found.shown()


def _upload_file(kept: Kept, call: Call) -> Shown:
    form = read_form(call.body, call.content_type)
    sent = form.get("file")
    if not isinstance(sent, dict):
        raise RequestError("Missing required parameter: 'file'.", "file")
    shown = {
        "id": kept.new_id("file-sim"),
        "object": "file",
        "bytes": sent["bytes"],
        "created_at": now_ms() // 1000,
        "filename": sent["filename"],
        "purpose": form.get("purpose", "user_data"),
        "status": "processed",
    }
    content = call.body[sent["start"] : sent["start"] + sent["bytes"]]
    kept.files[shown["id"]] = KeptFile(shown, content)
    return shown


def _show_file(kept: Kept, call: Call) -> Shown:
    return kept.file(call.ids[0]).shown


def _delete_file(kept: Kept, call: Call) -> Shown:
    kept.file(call.ids[0])
    del kept.files[call.ids[0]]
    return {"id": call.ids[0], "object": "file", "deleted": True}


def _download_file(kept: Kept, call: Call) -> Shown:
    return Binary(kept.file(call.ids[0]).content)


ROUTES: dict[str, tuple[Surface, Handler]] = {
    "GET /v1/responses/{id}": (Surface.RESPONSES, _show_response),
    "DELETE /v1/responses/{id}": (Surface.RESPONSES, _delete_response),
    "POST /v1/responses/{id}/cancel": (Surface.RESPONSES, _cancel_response),
    "GET /v1/responses/{id}/input_items": (Surface.RESPONSES, _list_input),
    "POST /v1/conversations": (Surface.RESPONSES, _create_conversation),
    "GET /v1/conversations/{id}": (Surface.RESPONSES, _show_conversation),
    "POST /v1/conversations/{id}": (Surface.RESPONSES, _update_conversation),
    "DELETE /v1/conversations/{id}": (Surface.RESPONSES, _delete_conversation),
    "GET /v1/conversations/{id}/items": (Surface.RESPONSES, _list_items),
    "POST /v1/conversations/{id}/items": (Surface.RESPONSES, _add_items),
    "GET /v1/conversations/{id}/items/{id}": (Surface.RESPONSES, _show_item),
    "DELETE /v1/conversations/{id}/items/{id}": (Surface.RESPONSES, _delete_item),
    "POST /v1/files": (Surface.PASSTHROUGH, _upload_file),
    "GET /v1/files/{id}": (Surface.PASSTHROUGH, _show_file),
    "DELETE /v1/files/{id}": (Surface.PASSTHROUGH, _delete_file),
    "GET /v1/files/{id}/content": (Surface.PASSTHROUGH, _download_file),
}
"""Surface and handler by method and path."""

_SHAPES = {name: tuple(name.partition(" ")[2].split("/")) for name in ROUTES}


@dataclass(slots=True)
class Found:
    """The route of a path; `name` is `None` if the path exists and the method does not."""

    name: str | None
    surface: Surface
    ids: tuple[str, ...]


def find_route(method: str, path: str) -> Found | None:
    """The route that serves it; `None` if no method does."""
    parts = tuple(path.split("/"))
    other: Found | None = None
    for name, shape in _SHAPES.items():
        if len(shape) != len(parts):
            continue
        if not all(
            part == wanted or (wanted == "{id}" and part) for part, wanted in zip(parts, shape, strict=True)
        ):
            continue
        ids = tuple(part for part, wanted in zip(parts, shape, strict=True) if wanted == "{id}")
        surface = ROUTES[name][0]
        if name.startswith(method + " "):
            return Found(name, surface, ids)
        other = Found(None, surface, ids)
    return other


def show(kept: Kept, name: str, call: Call) -> Shown:
    """What the route answers. Raises: `RequestError`."""
    return ROUTES[name][1](kept, call)
