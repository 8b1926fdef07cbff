"""Every string that a request may hold, by the typed request models of the official SDKs.

A model is walked to its strings; each comes with the smallest body that the types allow and that carries a
text of the test's choice in just that place. A string that only a literal can fill carries no text and is
none of them. What a surface then shows of the text is `seen_as`.

How paths are written: `messages[user].content[text].text` names the kind of an element where there are
several (by its `type`, else its `role`, else its keys), `tool_choice(function).name` that of a value,
`stop[]` an element of which there is one kind, `metadata{}` a value and `metadata{key}` a key of a mapping.
Several strings may share a path: those of unions whose sides look alike, and values under any key of a mapping.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import orjson
import typing_extensions
from anthropic.types.beta.message_count_tokens_params import MessageCountTokensParams as BetaCountTokens
from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming as BetaMessages
from anthropic.types.message_count_tokens_params import MessageCountTokensParams as CountTokens
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as Messages
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as Chat
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as Completions
from openai.types.embedding_create_params import EmbeddingCreateParams as Embeddings
from openai.types.moderation_create_params import ModerationCreateParams as Moderations
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as Responses

from gateway.domain import Step, Surface, Text
from gateway.surfaces import CODECS, messages

Json = dict[str, Any]
Pointer = tuple[str | int, ...]
Parse = Callable[[bytes], Step]

_ALWAYS: dict[Surface, Json] = {Surface.RESPONSES: {"model": "x", "input": "x"}}
"""Fields that the types leave out because a stored prompt may have them, and that the gateway asks for."""
REQUESTS: tuple[tuple[Surface, str, Parse, Any], ...] = (
    (Surface.CHAT, "chat.completions.create", CODECS[Surface.CHAT].parse, Chat),
    (Surface.RESPONSES, "responses.create", CODECS[Surface.RESPONSES].parse, Responses),
    (Surface.MESSAGES, "messages.create", CODECS[Surface.MESSAGES].parse, Messages),
    (Surface.MESSAGES, "messages.count_tokens", messages.parse_count, CountTokens),
    (Surface.MESSAGES, "beta.messages.create", CODECS[Surface.MESSAGES].parse, BetaMessages),
    (Surface.MESSAGES, "beta.messages.count_tokens", messages.parse_count, BetaCountTokens),
    (Surface.EMBEDDINGS, "embeddings.create", CODECS[Surface.EMBEDDINGS].parse, Embeddings),
    (Surface.COMPLETIONS, "completions.create", CODECS[Surface.COMPLETIONS].parse, Completions),
    (Surface.MODERATIONS, "moderations.create", CODECS[Surface.MODERATIONS].parse, Moderations),
)
"""(surface, what the SDK calls the request, how the gateway reads it, its model)."""


@dataclass(frozen=True)
class Field:
    """One string of a request. `put` makes the smallest body that has a text there."""

    surface: Surface
    request: str
    path: str
    pointer: Pointer
    """Where it stands in that body; for a key of a mapping, where its value does but for the key."""
    is_key: bool
    parse: Parse
    put: Callable[[str], Json]


@dataclass(frozen=True)
class _Leaf:
    path: str
    pointer: Pointer
    is_key: bool
    put: Callable[[str], Any]


@cache
def fields(*, second: bool = False) -> tuple[Field, ...]:
    """Every string of every request. `second`: in every list that it stands in, there is an element before."""
    return tuple(
        Field(
            surface,
            request,
            leaf.path.removeprefix("."),
            leaf.pointer,
            leaf.is_key,
            parse,
            _put_over(_ALWAYS.get(surface, {}), leaf.put),
        )
        for surface, request, parse, model in REQUESTS
        for leaf in _leaves(model, (), second)
    )


def _put_over(always: Json, put: Callable[[str], Any]) -> Callable[[str], Json]:
    return lambda text: {**always, **put(text)}


# -- types ------------------------------------------------------------------------------------------


def _bare(kind: Any) -> tuple[Any, bool, str | None]:
    """A field's type without its qualifiers, whether it is required, and its name on the wire if another."""
    required, alias = False, None
    while True:
        origin = typing_extensions.get_origin(kind)
        if origin in (typing_extensions.Required, typing_extensions.NotRequired):
            required = origin is typing_extensions.Required
            kind = typing_extensions.get_args(kind)[0]
        elif origin is typing.Annotated:
            for note in kind.__metadata__:
                alias = getattr(note, "alias", None) or alias
            kind = typing_extensions.get_args(kind)[0]
        elif isinstance(kind, typing_extensions.TypeAliasType):
            kind = kind.__value__
        else:
            return kind, required, alias


@cache
def _keys(model: Any) -> tuple[tuple[str, Any, bool], ...]:
    """(name on the wire, type, required) of each key of a typed dict."""
    required_keys: frozenset[str] = model.__required_keys__
    found = []
    for name, hint in typing_extensions.get_type_hints(model, include_extras=True).items():
        kind, required, alias = _bare(hint)
        found.append((alias or name, kind, required or name in required_keys))
    return tuple(found)


def _members(kind: Any) -> tuple[Any, ...]:
    """The sides of a union that JSON can hold, unions inside it spread out."""
    kind = _bare(kind)[0]
    if typing_extensions.get_origin(kind) not in (typing.Union, types.UnionType):
        return (kind,)
    return tuple(inner for side in typing_extensions.get_args(kind) for inner in _members(side))


def _element(kind: Any) -> Any:
    """What a list holds; None for what is no list."""
    origin = typing_extensions.get_origin(kind)
    listed = origin in (list, tuple, collections.abc.Iterable, collections.abc.Sequence)
    if listed or getattr(origin, "__name__", "") == "SequenceNotStr":
        return typing_extensions.get_args(kind)[0]
    return None


def _is_mapping(kind: Any) -> bool:
    return typing_extensions.get_origin(kind) in (dict, collections.abc.Mapping)


def _label(model: Any) -> str:
    """What tells a typed dict from the others of its union."""
    keys = {name: (kind, required) for name, kind, required in _keys(model)}
    for name in ("type", "role"):
        kind = keys.get(name, (None, False))[0]
        if typing_extensions.get_origin(kind) is typing_extensions.Literal:
            return str(typing_extensions.get_args(kind)[0])
    return "+".join(sorted(name for name, (_, required) in keys.items() if required)) or "+".join(
        sorted(keys)
    )


_ANY_KEYS = ("a", "type", "id", "name")
"""Keys of mappings are the caller's, even those that mean something elsewhere: a text hides under none."""


# -- the walk ---------------------------------------------------------------------------------------


def _leaves(kind: Any, inside: tuple[Any, ...], second: bool) -> Iterator[_Leaf]:
    """The strings below a type. `inside` are the typed dicts around it: none is opened inside itself."""
    sides = _members(kind)
    labelled = sum(typing_extensions.is_typeddict(side) for side in sides) > 1
    for side in sides:
        if side is str or side is object or side is Any:
            yield _Leaf("", (), False, lambda text: text)
            if side is not str:
                yield _Leaf("", ("a",), False, lambda text: {"a": text})
        elif typing_extensions.is_typeddict(side):
            if side not in inside:
                name = f"({_label(side)})" if labelled else ""
                yield from _below_keys(side, name, (*inside, side), second)
        elif (element := _element(side)) is not None:
            yield from _below_list(element, inside, second)
        elif _is_mapping(side):
            yield from _below_mapping(typing_extensions.get_args(side)[1], inside, second)


def _below_keys(model: Any, name: str, inside: tuple[Any, ...], second: bool) -> Iterator[_Leaf]:
    for key, kind, _ in _keys(model):
        rest = _minimal(model, without=key)
        for leaf in _leaves(kind, inside, second):
            path = f"{name}.{key}{leaf.path}"
            yield _Leaf(path, (key, *leaf.pointer), leaf.is_key, _put_key(rest, key, leaf.put))


def _put_key(rest: Json, key: str, put: Callable[[str], Any]) -> Callable[[str], Json]:
    return lambda text: {**rest, key: put(text)}


def _below_list(element: Any, inside: tuple[Any, ...], second: bool) -> Iterator[_Leaf]:
    before = [_minimal(element)] if second else []
    for leaf in _leaves(element, inside, second):
        # An element's kind stands in the brackets: `[user]`, not `[](user)`.
        start, _, rest = leaf.path[1:].partition(")") if leaf.path.startswith("(") else ("", "", leaf.path)
        yield _Leaf(
            f"[{start}]{rest}", (len(before), *leaf.pointer), leaf.is_key, _put_element(before, leaf.put)
        )


def _put_element(before: list[Any], put: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [*before, put(text)]


def _below_mapping(value: Any, inside: tuple[Any, ...], second: bool) -> Iterator[_Leaf]:
    filling = _minimal(value)
    yield _Leaf("{key}", (), True, lambda text: {text: filling})
    for leaf in _leaves(value, inside, second):
        for key in _ANY_KEYS:
            yield _Leaf("{}" + leaf.path, (key, *leaf.pointer), leaf.is_key, _put_key({}, key, leaf.put))


def _minimal(kind: Any, without: str = "") -> Any:
    """The smallest value of a type; of a typed dict, `without` one of its keys."""
    side = next(side for side in _members(kind) if side is not type(None))
    if typing_extensions.is_typeddict(side):
        return {key: _minimal(inner) for key, inner, needed in _keys(side) if needed and key != without}
    if typing_extensions.get_origin(side) is typing_extensions.Literal:
        return typing_extensions.get_args(side)[0]
    if (element := _element(side)) is not None:
        return [_minimal(element)]
    if _is_mapping(side):
        return {}
    plain: dict[Any, Any] = {int: 1, float: 1.0, bool: True}
    return plain.get(side, "x")


# -- what is shown of it ----------------------------------------------------------------------------

_ONE, _OTHER = "canary-4b1e9d", "canary-c07f2a"


def read(field: Field, text: str) -> Step:
    """The step of the smallest request with that text in that field."""
    return field.parse(orjson.dumps(field.put(text)))


def seen_as(field: Field) -> frozenset[str]:
    """Where a guard meets the text of a field: `text` in an item, `call` in a tool call or its id, `tool` in a
    tool's definition, `kept` as an id of what the provider keeps, `model`, or as `media`, of which it has
    only a digest. Empty when the step does not show it."""
    step = read(field, _ONE)
    found = set(shown_in(step, _ONE))
    media = [item.media for item in step.items]
    if media != [item.media for item in read(field, _OTHER).items]:
        found.add("media")
    return frozenset(found)


def shown_in(step: Step, text: str) -> Iterator[str]:
    """Where a step shows a text, but for media."""
    if any(text in each.text for item in step.items for each in item.texts):
        yield "text"
    calls = [(call.id, call.name, call.arguments) for item in step.items for call in item.calls]
    if any(text in part for call in calls for part in call) or any(
        text in (item.call_id or "") for item in step.items
    ):
        yield "call"
    if any(
        text in part
        for tool in step.tools
        for part in (tool.name, tool.description, orjson.dumps(tool.schema).decode())
    ):
        yield "tool"
    if any(text in kept for kept in (*step.state, *step.references)):
        yield "kept"
    if text in step.model:
        yield "model"
    if any(text in thought.text for thought in thoughts(step)):
        yield "text"


def thoughts(step: Step) -> tuple[Text, ...]:
    """What guards read besides items: thoughts that come back sealed, which only messages has."""
    return tuple(messages.thinking(step.body)) if step.surface is Surface.MESSAGES else ()


def at(body: Json, pointer: Pointer) -> object:
    """The value that a pointer leads to."""
    value: Any = body
    for part in pointer:
        value = value[part]
    return cast(object, value)
