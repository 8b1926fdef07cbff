"""What the provider keeps between requests: responses, conversations, and files.

A dialogue that goes on from a kept response is the items of that response's own input, its output, and the
new input; a conversation is the items it has collected. Plain values and no sockets: `background` makes the
responses that are generated after their request was answered, `resources` shows and removes what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.domain import Json
from gateway.testing.script import Ask
from gateway.testing.surfaces import RESPONSES, RequestError
from gateway.testing.surfaces.response_items import REFERENCE, conversation_id

if TYPE_CHECKING:
    from gateway.testing.background import Background

MAX_RESPONSES = 10_000
"""The oldest are forgotten beyond this, so that a long benchmark stays small."""

MAX_PAGE = 100
_USUAL_PAGE = 20

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
_UNFINISHED = ("queued", "in_progress")


@dataclass(slots=True)
class KeptResponse:
    """A response that can be fetched and gone on from. `items` is everything the model read for it."""

    told: Json
    items: tuple[Json, ...]
    background: Background | None = None

    @property
    def body(self) -> Json:
        """The response object as it is now."""
        if self.background is None:
            return self.told
        return self.background.body

    @property
    def finished(self) -> bool:
        """Nothing more will be generated for it."""
        return self.body["status"] not in _UNFINISHED


@dataclass(slots=True)
class Conversation:
    """Items collected over requests."""

    id: str
    created_at: int
    metadata: Json
    items: list[Json] = field(default_factory=list)

    def shown(self) -> Json:
        """As its routes answer it."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


@dataclass(slots=True)
class KeptFile:
    """An uploaded file."""

    shown: Json
    content: bytes


class Kept:
    """All of it. `new_id` makes a random id with the given prefix."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self.responses: dict[str, KeptResponse] = {}
        self.conversations: dict[str, Conversation] = {}
        self.files: dict[str, KeptFile] = {}

    def new_id(self, prefix: str) -> str:
        return self._new_id(prefix)

    # Going on.

    def resumed(self, ask: Ask) -> Ask:
        """The request with what it goes on from. Raises: `RequestError`, 404 for what is not kept."""
        previous = ask.body.get("previous_response_id")
        conversation = conversation_id(ask.body)
        before: tuple[Json, ...] = ()
        if previous is not None:
            kept = self._previous(previous)
            before = (*kept.items, *kept.body["output"])
        elif conversation is not None:
            before = tuple(self.conversation(conversation).items)
        elif not any(item["type"] == REFERENCE for item in ask.items):
            return ask
        own = tuple(
            self._item(item["id"], before) if item["type"] == REFERENCE else item for item in ask.items
        )
        return RESPONSES.resumed(ask, before, own)

    def _previous(self, response_id: Any) -> KeptResponse:
        kept = self.responses.get(response_id) if isinstance(response_id, str) else None
        if kept is None:
            raise RequestError(
                f"Previous response with id '{response_id}' not found.",
                "previous_response_id",
                status=404,
                code="previous_response_not_found",
            )
        if not kept.finished:
            raise RequestError(
                f"Previous response '{response_id}' is still {kept.body['status']}.", "previous_response_id"
            )
        return kept

    def _item(self, item_id: str, before: Sequence[Json]) -> Json:
        for item in before:
            if item.get("id") == item_id:
                return item
        for kept in self.responses.values():
            output: list[Json] = kept.body["output"]
            for item in (*kept.items, *output):
                if item.get("id") == item_id:
                    return item
        raise RequestError(f"Item with id '{item_id}' not found.", "input", status=404)

    # Keeping.

    def keep(self, ask: Ask, body: Json, background: Background | None = None) -> None:
        """Note a response; its request's items get the ids they are listed by."""
        items = ask.items[: ask.kept_items] + self.named(ask.items[ask.kept_items :])
        self.responses[body["id"]] = KeptResponse(body, items, background)
        while len(self.responses) > MAX_RESPONSES:
            del self.responses[next(iter(self.responses))]

    def finish(self, ask: Ask, body: Json) -> None:
        """A response is whole: keep it unless it asked not to be, and tell its conversation what was said."""
        if ask.body.get("store") is not False and not ask.background:
            self.keep(ask, body)
        conversation = self.conversations.get(conversation_id(ask.body) or "")
        if conversation is not None:
            conversation.items += [*self.named(ask.items[ask.kept_items :]), *body["output"]]

    def named(self, items: Sequence[Json]) -> tuple[Json, ...]:
        """The items as they are listed, each with an id."""
        return tuple(item if isinstance(item.get("id"), str) else self._named(item) for item in items)

    def _named(self, item: Json) -> Json:
        prefix = _PREFIXES.get(item["type"], "item")
        return {"status": "completed", **item, "id": self._new_id(f"{prefix}_sim_")}

    # Finding.

    def response(self, response_id: str) -> KeptResponse:
        """Raises: `RequestError` 404."""
        kept = self.responses.get(response_id)
        if kept is None:
            raise RequestError(f"Response with id '{response_id}' not found.", status=404)
        return kept

    def conversation(self, conversation_id: str) -> Conversation:
        """Raises: `RequestError` 404."""
        found = self.conversations.get(conversation_id)
        if found is None:
            raise RequestError(f"Conversation with id '{conversation_id}' not found.", status=404)
        return found

    def file(self, file_id: str) -> KeptFile:
        """Raises: `RequestError` 404."""
        found = self.files.get(file_id)
        if found is None:
            raise RequestError(f"No such File object: {file_id}", "id", status=404)
        return found


def page(items: Sequence[Json], query: dict[str, str], *, newest_first: bool = True) -> Json:
    """A part of a list, as OpenAI's `limit`, `order` and `after` ask for it. Raises: `RequestError`."""
    limit = query.get("limit", str(_USUAL_PAGE))
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_PAGE:
        raise RequestError(f"'limit' must be between 1 and {MAX_PAGE}.", "limit")
    order = query.get("order", "desc" if newest_first else "asc")
    if order not in ("asc", "desc"):
        raise RequestError("'order' must be 'asc' or 'desc'.", "order")
    listed = list(items) if order == "asc" else list(reversed(items))
    if after := query.get("after"):
        ids = [item["id"] for item in listed]
        if after not in ids:
            raise RequestError(f"Item with id '{after}' not found.", "after", status=404)
        listed = listed[ids.index(after) + 1 :]
    shown = listed[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(listed) > len(shown),
    }
