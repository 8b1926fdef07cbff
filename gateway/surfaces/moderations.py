"""Moderations: a request into a `Step`, a reply into an `Answer` that says nothing.

The text is the whole of it: nothing is generated, and whether it costs anything is the price's question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import orjson

from gateway.domain import Answer, Item, Json, Media, Role, Step, Surface, Text
from gateway.errors import UpstreamError
from gateway.surfaces.body import parse_object, with_fields
from gateway.surfaces.embeddings import ensure_not_streamed, model_name, text_bytes, wrong

DEFAULT_MODEL = "omni-moderation-latest"
"""What OpenAI takes when a request names no model:
https://platform.openai.com/docs/api-reference/moderations/create"""
_NOT_READ = frozenset({"input", "model"})


def parse(raw: bytes, *, max_depth: int = 128) -> Step:
    """The step that a request body asks for, or `CallerError` naming the field that is wrong."""
    body = parse_object(raw, max_depth=max_depth)
    model = body.get("model")
    ensure_not_streamed(body)
    items = _inputs(body.get("input"))
    return Step(
        surface=Surface.MODERATIONS,
        model=DEFAULT_MODEL if model is None else model_name(model),
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


def _inputs(value: Any) -> tuple[Item, ...]:
    if isinstance(value, str):
        return (Item(Role.USER, (Text(value, ("input",)),) if value else ()),)
    if not isinstance(value, list) or not value:
        raise wrong("input", "a text, a list of texts or a list of parts", value)
    return tuple([_input(entry, i) for i, entry in enumerate(value)])


def _input(entry: Any, i: int) -> Item:
    if isinstance(entry, str):
        return Item(Role.USER, (Text(entry, ("input", i)),) if entry else ())
    if not isinstance(entry, dict):
        raise wrong(f"input[{i}]", "a text or a part", entry)
    kind = entry.get("type")
    if kind == "text":
        text = entry.get("text")
        if not isinstance(text, str):
            raise wrong(f"input[{i}].text", "a text", text)
        return Item(Role.USER, (Text(text, ("input", i, "text")),) if text else ())
    if kind == "image_url":
        image = entry.get("image_url")
        return Item(Role.USER, media=(_image(image.get("url") if isinstance(image, dict) else image, i),))
    written = orjson.dumps(entry)
    return Item(Role.USER, media=(Media("other", hashlib.sha256(written).hexdigest(), len(written)),))


def _image(url: Any, i: int) -> Media:
    if not isinstance(url, str):
        raise wrong(f"input[{i}].image_url.url", "a URL or a data URL", url)
    linked = url.startswith("http")
    # The query of a signed URL changes from time to time; the picture does not.
    identity = url.split("?", 1)[0] if linked else url
    return Media("image", hashlib.sha256(identity.encode()).hexdigest(), 0 if linked else len(url))


def forward(
    step: Step,
    *,
    model: str,
    limit_field: str,
    output_limit: int | None,
    inject_usage: bool,
    withheld: Collection[str] = (),
) -> bytes:
    """The body to send upstream: the client's own; `model` is set only where its real name is another than
    the one asked for, by name or by silence."""
    del limit_field, output_limit, inject_usage, withheld
    changes: Json = {"model": model} if model != step.model else {}
    return with_fields(step.raw, step.body, changes)


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """Which model judged; its verdicts are the client's business."""
    response_id, model = reply.get("id"), reply.get("model")
    return Answer(
        response_id=response_id if isinstance(response_id, str) else None,
        model=model if isinstance(model, str) else None,
    )


def stream(*, strip_usage: bool) -> NoReturn:
    """There are no streams here: a provider that sends one all the same has failed (`UpstreamError`)."""
    del strip_usage
    raise UpstreamError(
        "upstream_unavailable",
        "The provider answered moderations with an event stream, which this API does not have.",
        status=502,
    )
