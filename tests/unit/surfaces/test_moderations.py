"""Reading moderations: texts, parts and pictures, with or without a model's name."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest

from gateway.domain import Answer, Item, Media, Role, Surface, Text
from gateway.errors import CallerError, UpstreamError
from gateway.surfaces import moderations
from gateway.surfaces.base import Codec

CODEC: Codec = moderations
SETTINGS: dict[str, Any] = {"limit_field": "max_tokens", "output_limit": None, "inject_usage": False}


def user(text: str, *pointer: str | int) -> Item:
    return Item(Role.USER, (Text(text, pointer),))


def media(kind: Any, identity: bytes, size: int) -> Item:
    return Item(Role.USER, media=(Media(kind, hashlib.sha256(identity).hexdigest(), size),))


DATA_URL = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("value", "items", "size"),
    [
        ("bad", (user("bad", "input"),), 3),
        ("", (Item(Role.USER),), 0),
        (["a", "", "é"], (user("a", "input", 0), Item(Role.USER), user("é", "input", 2)), 3),
        (
            [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": DATA_URL}}],
            (user("a", "input", 0, "text"), media("image", DATA_URL.encode(), len(DATA_URL))),
            1,
        ),
        (
            [{"type": "image_url", "image_url": {"url": "https://x.example/a.png?sig=1"}}],
            (media("image", b"https://x.example/a.png", 0),),
            0,
        ),
        ([{"type": "image_url", "image_url": DATA_URL}], (media("image", DATA_URL.encode(), len(DATA_URL)),), 0),
        ([{"type": "sound"}, {}], (media("other", b'{"type":"sound"}', 16), media("other", b"{}", 2)), 0),
        (["a", {"type": "text", "text": ""}], (user("a", "input", 0), Item(Role.USER)), 1),
    ],
)  # fmt: skip
def test_every_input_is_an_item(value: Any, items: tuple[Item, ...], size: int) -> None:
    step = moderations.parse(orjson.dumps({"input": value, "model": "omni-moderation-2024-09-26"}))
    assert step.items == items
    assert step.text_bytes == size
    assert (step.surface, step.model, step.stream) == (
        Surface.MODERATIONS,
        "omni-moderation-2024-09-26",
        False,
    )
    assert (step.output_limit, step.choices, step.tools) == (None, 1, ())


@pytest.mark.parametrize("raw", [b'{ "input": "x" }', b'{ "input": "x", "model": null }'])
def test_a_request_without_a_model_gets_the_apis_own_and_stays_as_it_is(raw: bytes) -> None:
    step = moderations.parse(raw)
    assert step.model == "omni-moderation-latest"
    assert moderations.forward(step, model="omni-moderation-latest", **SETTINGS) is step.raw
    renamed = moderations.forward(step, model="my-guard", **SETTINGS)
    assert orjson.loads(renamed) == {"input": "x", "model": "my-guard"}


def test_new_fields_are_spliced_in_and_nothing_else_moves() -> None:
    step = moderations.parse(b'{ "input": "\\u00e9" }')
    assert moderations.forward(step, model="g", **SETTINGS) == b'{ "input": "\\u00e9" ,"model":"g"}'


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        (None, "input", "'input': got None, expected a text, a list of texts or a list of parts."),
        ([], "input", "'input': got list, expected a text, a list of texts or a list of parts."),
        ({"a": 1}, "input", "'input': got dict, expected a text, a list of texts or a list of parts."),
        (["a", 5], "input[1]", "'input[1]': got 5, expected a text or a part."),
        ([[1, 2]], "input[0]", "'input[0]': got list, expected a text or a part."),
        ([{"type": "text"}], "input[0].text", "'input[0].text': got None, expected a text."),
        ([{"type": "text", "text": ["a"]}], "input[0].text", "'input[0].text': got list, expected a text."),
        ([{"type": "image_url", "image_url": {}}], "input[0].image_url.url",
         "'input[0].image_url.url': got None, expected a URL or a data URL."),
        ([{"type": "image_url", "image_url": 4}], "input[0].image_url.url",
         "'input[0].image_url.url': got 4, expected a URL or a data URL."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(value: Any, param: str, message: str) -> None:
    with pytest.raises(CallerError) as refused:
        moderations.parse(orjson.dumps({"input": value}))
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("field", "value"), [("model", 5), ("model", ""), ("stream", True), ("stream", "no")]
)
def test_a_wrong_model_and_a_stream_are_refused(field: str, value: Any) -> None:
    with pytest.raises(CallerError) as refused:
        moderations.parse(orjson.dumps({"input": "a", field: value}))
    assert (refused.value.code, refused.value.param) == ("invalid_request", field)


def test_a_reply_says_which_model_judged() -> None:
    reply = {"id": "modr-1", "model": "omni", "results": [{"flagged": True}]}
    assert moderations.read_answer(reply) == Answer(response_id="modr-1", model="omni")
    for odd in ({}, {"id": 5, "model": [], "results": None}):
        assert moderations.read_answer(odd) == Answer()


def test_a_stream_where_there_is_none_is_the_providers_failure() -> None:
    with pytest.raises(UpstreamError) as failed:
        moderations.stream(strip_usage=False)
    assert (failed.value.code, failed.value.status) == ("upstream_unavailable", 502)
