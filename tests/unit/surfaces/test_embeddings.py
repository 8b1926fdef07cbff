"""Reading embeddings: texts and token ids in every form, and bodies that pass untouched."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Answer, Item, Media, Role, Surface, Text
from gateway.errors import CallerError, UpstreamError
from gateway.surfaces import embeddings
from gateway.surfaces.base import Codec

CODEC: Codec = embeddings
SETTINGS: dict[str, Any] = {"limit_field": "max_tokens", "output_limit": 100, "inject_usage": True}
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def body(value: Any, **fields: Any) -> bytes:
    return orjson.dumps({"input": value, "model": "m", **fields})


def user(text: str, *pointer: str | int) -> Item:
    return Item(Role.USER, (Text(text, pointer),))


def ids(*values: int) -> Item:
    written = orjson.dumps(list(values))
    return Item(Role.USER, media=(Media("other", hashlib.sha256(written).hexdigest(), len(written)),))


@pytest.mark.parametrize(
    ("value", "items", "size"),
    [
        ("héllo", (user("héllo", "input"),), 6),
        ("", (Item(Role.USER),), 0),
        (["a", "", "漢"], (user("a", "input", 0), Item(Role.USER), user("漢", "input", 2)), 4),
        ([1, 22, 333], (ids(1, 22, 333),), 0),
        ([[1, 2], [3]], (ids(1, 2), ids(3)), 0),
        (["a", [3]], (user("a", "input", 0), ids(3)), 1),
    ],
)
def test_every_input_is_an_item(value: Any, items: tuple[Item, ...], size: int) -> None:
    step = embeddings.parse(body(value, dimensions=4, encoding_format="base64", user="u"))
    assert step.items == items
    assert step.text_bytes == size
    assert (step.surface, step.model, step.stream) == (Surface.EMBEDDINGS, "m", False)
    assert (step.output_limit, step.choices, step.tools, step.wants_usage) == (None, 1, (), False)


@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_pointers_lead_to_the_texts(texts: list[str]) -> None:
    step = embeddings.parse(body(texts))
    for item in step.items:
        for text in item.texts:
            name, index = text.pointer
            assert step.body[str(name)][index] == text.text
    assert [t.text for item in step.items for t in item.texts] == [text for text in texts if text]
    assert step.text_bytes == sum(len(text.encode()) for text in texts)


def test_fields_that_a_server_may_read_are_text_too() -> None:
    step = embeddings.parse(body("a", instruction="ü", task=None))
    assert step.text_bytes == 1 + len('{"instruction":"ü","task":null}'.encode())


@pytest.mark.parametrize(
    ("raw", "param", "message"),
    [
        (b'{"model":"m"}', "input", "'input': got None, expected a text, a list of texts, a list of token ids "
         "or a list of such lists."),
        (body([]), "input", "'input': got list, expected a text, a list of texts, a list of token ids or a "
         "list of such lists."),
        (body({"text": "a"}), "input", "'input': got dict, expected a text, a list of texts, a list of token "
         "ids or a list of such lists."),
        (body([1, "secret"]), "input", "'input': got list, expected a list of at least one token id, whole "
         "numbers of at least 0."),
        (body([1, True]), "input", "'input': got list, expected a list of at least one token id, whole "
         "numbers of at least 0."),
        (body([1, -2]), "input", "'input': got list, expected a list of at least one token id, whole numbers "
         "of at least 0."),
        (body([1, 1.5]), "input", "'input': got list, expected a list of at least one token id, whole numbers "
         "of at least 0."),
        (body([[1], []]), "input[1]", "'input[1]': got list, expected a list of at least one token id, whole "
         "numbers of at least 0."),
        (body([["secret"]]), "input[0]", "'input[0]': got list, expected a list of at least one token id, "
         "whole numbers of at least 0."),
        (body(["a", 5]), "input[1]", "'input[1]': got 5, expected a text or a list of token ids."),
        (body([True]), "input[0]", "'input[0]': got True, expected a text or a list of token ids."),
        (body(["a", None]), "input[1]", "'input[1]': got None, expected a text or a list of token ids."),
        (body("a", stream=True), "stream", "'stream': got True, expected false, since this API has no streams."),
        (body("a", stream=1), "stream", "'stream': got 1, expected false, since this API has no streams."),
        (body("a", model=7), "model", "'model': got 7, expected the name of a model, at most 256 printable "
         "characters."),
        (body("a", model=""), "model", "'model': got str, expected the name of a model, at most 256 printable "
         "characters."),
        (body("a", model="m\n"), "model", "'model': got str, expected the name of a model, at most 256 "
         "printable characters."),
        (body("a", model="m" * 257), "model", "'model': got str, expected the name of a model, at most 256 "
         "printable characters."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_never_repeated(raw: bytes, param: str, message: str) -> None:
    with pytest.raises(CallerError) as refused:
        embeddings.parse(raw)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    assert refused.value.message == message


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"input":"a","input":"b","model":"m"}', b"\xff"])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(CallerError) as refused:
        embeddings.parse(raw)
    assert refused.value.code == "invalid_json"


def test_false_streams_and_nulls_are_as_good_as_none() -> None:
    assert not embeddings.parse(body("a", stream=False)).stream
    assert not embeddings.parse(body("a", stream=None)).stream


def test_depth_is_limited() -> None:
    with pytest.raises(CallerError) as refused:
        embeddings.parse(body("a", extra=[[[[]]]]), max_depth=4)
    assert refused.value.code == "invalid_json"


def test_only_the_models_name_changes_on_the_way() -> None:
    raw = b'{ "model": "m", "input": ["\\u00e9", [1]], "dimensions": 4, "new": {"a": 1.0} }'
    step = embeddings.parse(raw.replace(b", [1]", b""))
    assert embeddings.forward(step, model="m", withheld=("t",), **SETTINGS) is step.raw
    sent = orjson.loads(embeddings.forward(step, model="real", **SETTINGS))
    assert sent == {**step.body, "model": "real"}


def test_a_reply_says_only_which_model_made_it() -> None:
    vectors = {"object": "list", "data": [{"embedding": "AAAA", "index": 0}], "model": "m-1", "id": "x"}
    assert embeddings.read_answer(vectors) == Answer(model="m-1")
    for odd in ({}, {"model": 5, "data": None}, {"data": "x"}):
        assert embeddings.read_answer(odd) == Answer()


def test_a_stream_where_there_is_none_is_the_providers_failure() -> None:
    with pytest.raises(UpstreamError) as failed:
        embeddings.stream(strip_usage=True)
    assert (failed.value.code, failed.value.status) == ("upstream_unavailable", 502)
