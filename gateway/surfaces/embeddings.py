"""Embeddings: a request into a `Step`, a reply into an `Answer` that says nothing.

Nothing is generated here, so a step costs its input alone. Also home of what the small surfaces have in
common: a text, a list of texts, a list of token ids, or a list of such lists (`read_inputs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import orjson

from gateway.domain import Answer, Item, Json, Media, Role, Step, Surface, Text
from gateway.errors import CallerError, UpstreamError
from gateway.surfaces.body import parse_object, with_fields

MAX_MODEL_CHARS = 256
_INPUTS = "a text, a list of texts, a list of token ids or a list of such lists"
_IDS = "a list of at least one token id, whole numbers of at least 0"
_NOT_READ = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
"""Fields that the model does not read as text, or that are counted by themselves."""


def parse(raw: bytes, *, max_depth: int = 128) -> Step:
    """The step that a request body asks for, or `CallerError` naming the field that is wrong."""
    body = parse_object(raw, max_depth=max_depth)
    model = model_name(body.get("model"))
    ensure_not_streamed(body)
    items = read_inputs(body.get("input"), "input")
    return Step(
        surface=Surface.EMBEDDINGS,
        model=model,
        stream=False,
        body=body,
        raw=raw,
        items=items,
        tools=(),
        output_limit=None,
        choices=1,
        wants_usage=False,
        text_bytes=text_bytes(body, items, _NOT_READ),
    )


def wrong(param: str, expected: str, got: object) -> CallerError:
    """The error for a field of a wrong type or value; a caller's text is not repeated in it."""
    shown = type(got).__name__ if isinstance(got, dict | list | str) else repr(got)
    return CallerError("invalid_request", f"'{param}': got {shown}, expected {expected}.", param=param)


def model_name(value: Any) -> str:
    """A body's `model`, or `CallerError`."""
    if not isinstance(value, str) or not value or len(value) > MAX_MODEL_CHARS or not value.isprintable():
        raise wrong("model", f"the name of a model, at most {MAX_MODEL_CHARS} printable characters", value)
    return value


def ensure_not_streamed(body: Mapping[str, Any]) -> None:
    """`CallerError` when a stream is asked for on a surface that has none."""
    if body.get("stream") not in (None, False):
        raise wrong("stream", "false, since this API has no streams", body["stream"])


def read_inputs(value: Any, field: str) -> tuple[Item, ...]:
    """One user item per input, in order; a text's pointer is `(field,)` or `(field, index)`.

    Token ids cannot be read as text: they are media of kind `other`, whose size is that of their JSON.
    """
    if isinstance(value, str):
        return (_text_item(value, (field,)),)
    if not isinstance(value, list) or not value:
        raise wrong(field, _INPUTS, value)
    if type(value[0]) is int:
        return (_ids_item(value, field),)
    return tuple([_input(entry, field, i) for i, entry in enumerate(value)])


def _input(entry: Any, field: str, i: int) -> Item:
    if isinstance(entry, str):
        return _text_item(entry, (field, i))
    if isinstance(entry, list):
        return _ids_item(entry, f"{field}[{i}]")
    raise wrong(f"{field}[{i}]", "a text or a list of token ids", entry)


def _text_item(text: str, pointer: tuple[str | int, ...]) -> Item:
    return Item(Role.USER, (Text(text, pointer),) if text else ())


def _ids_item(ids: list[Any], param: str) -> Item:
    # Among ids a text or `true` would pass by every guard unread.
    if set(map(type, ids)) != {int} or min(ids) < 0:
        raise wrong(param, _IDS, ids)
    written = orjson.dumps(ids)
    return Item(Role.USER, media=(Media("other", hashlib.sha256(written).hexdigest(), len(written)),))


def text_bytes(body: Mapping[str, Any], items: Sequence[Item], not_read: Collection[str]) -> int:
    """`Step.text_bytes`: the texts, and every field that is not in `not_read`, since some servers have
    fields of their own that the model reads."""
    texts = [text.text for item in items for text in item.texts]
    size = sum([len(text) if text.isascii() else len(text.encode()) for text in texts])
    unknown = {name: value for name, value in body.items() if name not in not_read}
    return size + len(orjson.dumps(unknown)) if unknown else size


def forward(
    step: Step,
    *,
    model: str,
    limit_field: str,
    output_limit: int | None,
    inject_usage: bool,
    withheld: Collection[str] = (),
) -> bytes:
    """The body to send upstream: the client's own, with the model's real name. There is no output to limit,
    no usage to ask for and no tool to withhold."""
    del limit_field, output_limit, inject_usage, withheld
    changes: Json = {"model": model} if model != step.model else {}
    return with_fields(step.raw, step.body, changes)


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """Which model answered; the vectors are not looked at."""
    model = reply.get("model")
    return Answer(model=model if isinstance(model, str) else None)


def stream(*, strip_usage: bool) -> NoReturn:
    """There are no streams here: a provider that sends one all the same has failed (`UpstreamError`)."""
    del strip_usage
    raise UpstreamError(
        "upstream_unavailable",
        "The provider answered embeddings with an event stream, which this API does not have.",
        status=502,
    )
