"""Legacy text completions: a request into a `Step`, an answer into an `Answer`, a stream event by event.

Every prompt of a list is completed `n` times, and with `best_of` the provider generates more than it
returns; all of that is `Step.choices`. With `echo` the prompt comes back in front of what was generated and
counts as received output, which errs upward where a provider tells no usage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Answer, Item, Json, Role, Step, Surface, Text
from gateway.errors import ErrorContext, GatewayError, error_json
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.beside import Beside
from gateway.surfaces.body import parse_object, with_fields
from gateway.surfaces.embeddings import model_name, read_inputs, text_bytes, wrong
from gateway.surfaces.sse import EventSplitter, data_of

DONE = b"data: [DONE]\n\n"
MAX_CHOICES = 128
DEFAULT_MAX_TOKENS = 16
"""The API's own limit where a request sets none: https://platform.openai.com/docs/api-reference/completions/create

It is sent as a number, since some servers have no limit of their own. A larger one would change the answer,
and fails on models of 4,097 tokens, whose window has to hold the prompt and `max_tokens`."""
_NOT_READ = frozenset(
    {
        "model",
        "prompt",
        "suffix",
        "n",
        "best_of",
        "echo",
        "max_tokens",
        "stream",
        "stream_options",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "user",
    }
)
"""Fields that the model does not read as text, or that are counted by themselves."""


def parse(raw: bytes, *, max_depth: int = 128) -> Step:
    """The step that a request body asks for, or `CallerError` naming the field that is wrong."""
    body = parse_object(raw, max_depth=max_depth)
    model = model_name(body.get("model"))
    prompt = body.get("prompt")
    # Without a prompt the model begins a new document.
    prompts = read_inputs(prompt, "prompt") if prompt is not None else ()
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise wrong("stream", "true or false", stream)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise wrong("stream_options", "an object", options)
    limit = _count(body, "max_tokens", 0)
    items = (*prompts, *_suffix(body.get("suffix")))
    beside = Beside()
    for name in ("stop", "user"):
        beside.read(body.get(name), (name,))
    return Step(
        surface=Surface.COMPLETIONS,
        model=model,
        stream=bool(stream),
        body=body,
        raw=raw,
        items=(*beside.item(), *items),
        tools=(),
        output_limit=DEFAULT_MAX_TOKENS if limit is None else limit,
        choices=max(1, len(prompts)) * max(_choices(body, "n", 1), _choices(body, "best_of", 0)),
        wants_usage=bool(options and options.get("include_usage")),
        text_bytes=text_bytes(body, items, _NOT_READ),
    )


def _count(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < least):
        raise wrong(name, f"a whole number of at least {least}", value)
    return value


def _choices(body: Mapping[str, Any], name: str, least: int) -> int:
    count = _count(body, name, least)
    if count is not None and count > MAX_CHOICES:
        raise wrong(name, f"at most {MAX_CHOICES}", count)
    return 1 if count is None else count


def _suffix(value: Any) -> tuple[Item, ...]:
    if value is None or value == "":
        return ()
    if not isinstance(value, str):
        raise wrong("suffix", "a text", value)
    return (Item(Role.USER, (Text(value, ("suffix",)),)),)


def forward(
    step: Step,
    *,
    model: str,
    limit_field: str,
    output_limit: int | None,
    inject_usage: bool,
    withheld: Collection[str] = (),
) -> bytes:
    """The body to send upstream: the client's own, with the model's real name, an output limit always, and a
    stream's usage asked for. `max_tokens` is this API's only name for the limit; there are no tools."""
    del limit_field, withheld
    changes: Json = {}
    if model != step.model:
        changes["model"] = model
    if output_limit is not None:
        changes["max_tokens"] = output_limit
    elif step.body.get("max_tokens") is None:
        changes["max_tokens"] = step.output_limit
    if inject_usage and not step.wants_usage:
        changes["stream_options"] = {**(step.body.get("stream_options") or {}), "include_usage": True}
    return with_fields(step.raw, step.body, changes)


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """What a plain reply says. Tolerant: a provider's oddity is no reason to lose an answer."""
    texts: list[str] = []
    finish: str | None = None
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            text, reason = choice.get("text"), choice.get("finish_reason")
            texts.append(text if isinstance(text, str) else "")
            finish = reason if isinstance(reason, str) else finish
    response_id, model = reply.get("id"), reply.get("model")
    return Answer(
        texts=tuple(texts),
        finish_reason=finish,
        response_id=response_id if isinstance(response_id, str) else None,
        model=model if isinstance(model, str) else None,
    )


class CompletionStream:
    """One answer's stream. `feed` gives back what the client is to receive, whole events only.

    `strip_usage` removes what the gateway asked for and the client did not: the last chunk with the usage,
    and the `usage: null` of the others. Every other byte passes as it came.
    """

    __slots__ = (
        "_finishes",
        "_splitter",
        "_strip_usage",
        "_texts",
        "done",
        "error",
        "model",
        "output_bytes",
        "response_id",
        "tools_called",
        "usage",
    )

    def __init__(self, *, strip_usage: bool) -> None:
        self._splitter = EventSplitter()
        self._strip_usage = strip_usage
        self._texts: dict[int, list[str]] = {}
        """By the choice's index: every choice that began."""
        self._finishes: dict[int, str] = {}
        self.usage: Mapping[str, Any] | None = None
        self.done = False
        self.error = False
        self.tools_called: set[str] = set()
        self.output_bytes = 0
        self.model: str | None = None
        self.response_id: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client; empty while an event is incomplete."""
        return b"".join([self._event(event) for event in self._splitter.feed(chunk)])

    def _event(self, event: bytes) -> bytes:
        data = data_of(event)
        if data is None:
            return event
        if data.startswith(b"[DONE]"):
            self.done = True
            return event
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return event
        return self._chunk(chunk, event) if type(chunk) is dict else event

    def _chunk(self, chunk: Json, event: bytes) -> bytes:
        if chunk.get("error"):
            self.error = True
        if self.response_id is None:
            response_id, model = chunk.get("id"), chunk.get("model")
            self.response_id = response_id if isinstance(response_id, str) else None
            self.model = model if isinstance(model, str) else None
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if type(choice) is dict:
                self._choice(choice)
        usage = chunk.get("usage")
        if usage is not None:
            self.usage = {"usage": usage}
            # Some servers tell it with every chunk, or beside an error: only what holds nothing else goes.
            return event if choices or self.error or not self._strip_usage else b""
        if self._strip_usage and "usage" in chunk:
            # Inside a JSON string the quotes would be escaped, so this can only be the key itself.
            stripped = event.replace(b',"usage":null', b"", 1)
            return stripped if len(stripped) < len(event) else event.replace(b', "usage": null', b"", 1)
        return event

    def _choice(self, choice: Json) -> None:
        index = choice.get("index")
        index = index if type(index) is int else 0
        texts = self._texts.setdefault(index, [])
        text = choice.get("text")
        if text and type(text) is str:
            texts.append(text)
            self.output_bytes += len(text) if text.isascii() else len(text.encode())
        finish = choice.get("finish_reason")
        if finish is not None:
            self._finishes[index] = str(finish)

    @property
    def finished(self) -> bool:
        """Every choice that began has its finish reason: what is left is usage and the terminator."""
        return bool(self._texts) and len(self._finishes) == len(self._texts)

    @property
    def clean(self) -> bool:
        """The stream has ended as the provider meant it to; an error event of its own is such an end."""
        return (self.done or self.finished or self.error) and not self._splitter.pending.strip()

    @property
    def pending(self) -> bytes:
        """Bytes after the last whole event."""
        return self._splitter.pending

    def failure(self, error: GatewayError, context: ErrorContext, *, codex: bool) -> bytes:
        """An error after the first byte: the only ending that every client notices."""
        return b"data: %b\n\n%b" % (error_json(Surface.COMPLETIONS, error, context), DONE)

    def answer(self) -> Answer:
        """Everything received so far, as one answer."""
        finishes = [finish for _, finish in sorted(self._finishes.items())]
        return Answer(
            texts=tuple("".join(texts) for _, texts in sorted(self._texts.items())),
            finish_reason=finishes[-1] if finishes else None,
            response_id=self.response_id,
            model=self.model,
        )


def stream(*, strip_usage: bool) -> CompletionStream:
    """The reader of one stream; see `CompletionStream`."""
    return CompletionStream(strip_usage=strip_usage)


if TYPE_CHECKING:
    _stream: AnswerStream = CompletionStream(strip_usage=False)
