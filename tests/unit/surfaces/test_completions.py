"""Reading text completions: prompts in every form, what is generated for them, and their streams."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Answer, Item, Role, Surface, Text
from gateway.errors import CallerError, ErrorContext, UpstreamError, error_json
from gateway.surfaces import completions
from gateway.surfaces.base import Codec

CODEC: Codec = completions
MODEL = "gpt-3.5-turbo-instruct"


def parse(**fields: Any) -> Any:
    return completions.parse(orjson.dumps({"model": MODEL, **fields}))


def forward(step: Any, *, model: str = MODEL, output_limit: int | None = None, inject: bool = False) -> bytes:
    return completions.forward(
        step, model=model, limit_field="max_completion_tokens", output_limit=output_limit, inject_usage=inject
    )


def user(text: str, *pointer: str | int) -> Item:
    return Item(Role.USER, (Text(text, pointer),))


@pytest.mark.parametrize(
    ("fields", "items", "choices", "size"),
    [
        ({"prompt": "ab"}, (user("ab", "prompt"),), 1, 2),
        ({"prompt": ["a", "é"]}, (user("a", "prompt", 0), user("é", "prompt", 1)), 2, 3),
        ({"prompt": "a", "suffix": "z"}, (user("a", "prompt"), user("z", "suffix")), 1, 2),
        ({"prompt": "a", "suffix": ""}, (user("a", "prompt"),), 1, 1),
        ({}, (), 1, 0),
        ({"prompt": None, "n": 3}, (), 3, 0),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 5}, (user("a", "prompt", 0), user("b", "prompt", 1)), 10, 2),
        ({"prompt": "a", "n": 4, "best_of": 1, "echo": True}, (user("a", "prompt"),), 4, 1),
        ({"prompt": "a", "best_of": 0}, (user("a", "prompt"),), 1, 1),
        ({"prompt": "a", "grammar": "g"}, (user("a", "prompt"),), 1, 1 + len('{"grammar":"g"}')),
    ],
)  # fmt: skip
def test_prompts_become_items_and_every_candidate_a_choice(
    fields: dict[str, Any], items: tuple[Item, ...], choices: int, size: int
) -> None:
    step = parse(**fields)
    assert (step.items, step.choices, step.text_bytes) == (items, choices, size)
    assert (step.surface, step.model, step.tools) == (Surface.COMPLETIONS, MODEL, ())


def test_token_ids_are_no_text() -> None:
    step = parse(prompt=[[1, 2, 3], [4]], n=2)
    assert [(item.texts, item.media[0].kind, item.media[0].size) for item in step.items] == [
        ((), "other", 7),
        ((), "other", 3),
    ]
    assert (step.choices, step.text_bytes) == (4, 0)


@pytest.mark.parametrize(("given", "limit"), [({}, 16), ({"max_tokens": None}, 16), ({"max_tokens": 0}, 0),
                                              ({"max_tokens": 700}, 700)])  # fmt: skip
def test_the_apis_own_limit_holds_where_the_caller_sets_none(given: dict[str, Any], limit: int) -> None:
    step = parse(prompt="a", **given)
    assert step.output_limit == limit
    assert orjson.loads(forward(step))["max_tokens"] == limit


def test_a_body_with_a_limit_passes_untouched() -> None:
    raw = b'{ "model": "m", "prompt": "\\u00e9", "max_tokens": 5, "logit_bias": {"50256": -100}, "x": 1.0 }'
    step = completions.parse(raw)
    assert forward(step, model="m") is step.raw


def test_only_what_the_gateway_sets_changes_on_the_way() -> None:
    step = completions.parse(b'{ "model": "m", "prompt": "\\u00e9" }')
    assert forward(step, model="m") == b'{ "model": "m", "prompt": "\\u00e9" ,"max_tokens":16}'
    step = parse(prompt="a", max_tokens=50, stream=True, stream_options={"include_usage": False, "x": 1})
    assert orjson.loads(forward(step, model="real", output_limit=20, inject=True)) == {
        "model": "real",
        "prompt": "a",
        "max_tokens": 20,
        "stream": True,
        "stream_options": {"include_usage": True, "x": 1},
    }
    asked = parse(prompt="a", max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert asked.wants_usage
    assert forward(asked, inject=True) is asked.raw


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", None]}, "prompt[1]"),
        ({"prompt": [1, "hidden"]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"suffix": ["a"]}, "suffix"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"best_of": -1}, "best_of"),
        ({"best_of": 10**6}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"model": None}, "model"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse(**{"prompt": "a", **fields})
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    assert "hidden" not in refused.value.message


def test_a_reply_is_read_whatever_it_looks_like() -> None:
    reply = {"id": "cmpl-1", "model": "m-1", "choices": [
        {"text": "a", "index": 0, "finish_reason": "stop"}, {"text": "b", "index": 1, "finish_reason": "length"},
    ]}  # fmt: skip
    assert completions.read_answer(reply) == Answer(
        texts=("a", "b"), finish_reason="length", response_id="cmpl-1", model="m-1"
    )
    odd = {"id": 1, "model": None, "choices": [None, {"text": None}, {"text": 5, "finish_reason": 3}]}
    assert completions.read_answer(odd) == Answer(texts=("", ""))
    for nothing in ({}, {"choices": None}, {"choices": "x"}):
        assert completions.read_answer(nothing) == Answer()


def event(text: str | None, index: int = 0, finish: str | None = None, **rest: Any) -> bytes:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "cmpl-1", "object": "text_completion", "model": "m-1", "choices": [choice], **rest}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
LAST = b"data: " + orjson.dumps({"id": "cmpl-1", "choices": [], "usage": USAGE}) + b"\n\n"
DONE = b"data: [DONE]\n\n"
ANSWER = Answer(texts=("Grüße 🐉", "x"), finish_reason="length", response_id="cmpl-1", model="m-1")


def dialogue(**rest: Any) -> list[bytes]:
    return [
        event("Grü", **rest),
        b": keep-alive\n\n",
        event("x", 1, **rest),
        event("ße 🐉", **rest),
        event("", 0, "stop", **rest),
        event("", 1, "length", **rest),
    ]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_is_the_same_wherever_it_is_split(newline: bytes) -> None:
    raw = b"".join([*dialogue(), LAST, DONE]).replace(b"\n", newline)
    for cut in range(len(raw) + 1):
        stream = completions.stream(strip_usage=False)
        assert stream.feed(raw[:cut]) + stream.feed(raw[cut:]) + stream.pending == raw
        assert stream.answer() == ANSWER
        assert (stream.done, stream.clean, stream.error, stream.usage) == (
            True,
            True,
            False,
            {"usage": USAGE},
        )
        assert stream.output_bytes == len("Grüße 🐉x".encode())


@given(st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_in_pieces_of_any_size_reads_alike(sizes: list[int]) -> None:
    raw = b"".join([*dialogue(), LAST, DONE])
    stream = completions.stream(strip_usage=True)
    out = b""
    for size in [*sizes, len(raw)]:
        out += stream.feed(raw[:size]) if raw else b""
        raw = raw[size:]
    assert out == b"".join([*dialogue(), DONE])
    assert stream.answer() == ANSWER


def test_usage_that_the_client_did_not_ask_for_is_taken_out() -> None:
    stream = completions.stream(strip_usage=True)
    assert b"".join([stream.feed(e) for e in dialogue(usage=None)]) == b"".join(dialogue())
    spaced = b'data: {"choices": [], "usage": null}\n\n'
    assert stream.feed(spaced) == b'data: {"choices": []}\n\n'
    assert not stream.done
    assert stream.finished
    assert stream.feed(LAST) == b""
    assert stream.usage == {"usage": USAGE}
    assert stream.feed(DONE) == DONE


def test_a_text_that_looks_like_usage_stays() -> None:
    stream = completions.stream(strip_usage=True)
    said = event(',"usage":null')
    assert stream.feed(said) == said
    assert stream.answer().texts == (',"usage":null',)


def test_usage_beside_a_text_or_an_error_is_passed_on() -> None:
    stream = completions.stream(strip_usage=True)
    beside = event("a", usage=USAGE)
    assert stream.feed(beside) == beside
    failed = b"data: " + orjson.dumps({"error": {"message": "no"}, "choices": [], "usage": USAGE}) + b"\n\n"
    assert stream.feed(failed) == failed
    assert (stream.error, stream.clean, stream.usage) == (True, True, {"usage": USAGE})


@pytest.mark.parametrize(
    "odd",
    [
        b"data: null\n\n",
        b"data: [1]\n\n",
        b"data: {broken\n\n",
        b"event: x\n\n",
        b"data: \xff\n\n",
        b'data: {"choices":null,"id":7,"model":{}}\n\n',
        b'data: {"choices":[null,3,{"text":5,"index":"a"},{"index":0}]}\n\n',
        b'data: {"choices":[{"text":"\\ud800"}]}\n\n',
        b'data: {"usage":0,"choices":[{}]}\n\n',
    ],
)
def test_oddities_pass_and_harm_nothing(odd: bytes) -> None:
    stream = completions.stream(strip_usage=True)
    assert stream.feed(odd) == odd
    assert stream.answer().texts in ((), ("",))
    assert (stream.output_bytes, stream.done, stream.finished) == (0, False, False)
    assert stream.feed(event("a", 0, "stop")) == event("a", 0, "stop")
    assert stream.answer().texts[-1] == "a"


def test_an_end_without_a_finish_is_not_clean() -> None:
    stream = completions.stream(strip_usage=False)
    assert not stream.clean
    stream.feed(event("a") + event("b", 1, "stop"))
    assert (stream.finished, stream.clean) == (False, False)
    stream.feed(event("", 0, "length"))
    assert (stream.finished, stream.clean) == (True, True)
    stream.feed(b'data: {"choi')
    assert (stream.clean, stream.pending) == (False, b'data: {"choi')


def test_an_error_after_the_first_byte_is_an_event_and_the_terminator() -> None:
    error = UpstreamError("upstream_stream_interrupted", "It broke off.")
    context = ErrorContext("req_1", "run_1", "dec_1")
    ending = completions.stream(strip_usage=False).failure(error, context, codex=False)
    assert ending == b"data: " + error_json(Surface.COMPLETIONS, error, context) + b"\n\ndata: [DONE]\n\n"
