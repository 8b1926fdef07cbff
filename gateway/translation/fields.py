"""Reading a client's body strictly: every field is carried, known to mean nothing, or named in a refusal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gateway.domain import Json, Surface
from gateway.errors import CallerError

Pointer = tuple[str | int, ...]

_MAX_KEY_CHARS = 64
_SPEAKERS = {Surface.CHAT: "chat completions", Surface.MESSAGES: "the Messages API"}


def name_of(at: Pointer) -> str:
    """A pointer as users write it: `messages[3].content[0].text`."""
    out = ""
    for step in at:
        if isinstance(step, int):
            out += f"[{step}]"
        else:
            out += ("." if out else "") + step[:_MAX_KEY_CHARS]
    return out


def wrong(at: Pointer, expected: str, got: object) -> CallerError:
    """A field of the wrong type or value."""
    shown = type(got).__name__ if isinstance(got, dict | list | str) else repr(got)
    name = name_of(at)
    return CallerError("invalid_request", f"'{name}': got {shown}, expected {expected}.", param=name)


def cannot(at: Pointer, upstream: Surface, what: str = "") -> CallerError:
    """A field that the provider's API has no words for. `what` tells more, when the name alone does not."""
    name = name_of(at)
    told = f" ({what})" if what else ""
    message = f"'{name}'{told} cannot be carried to a provider that speaks {_SPEAKERS[upstream]}."
    return CallerError("invalid_request", message, param=name)


def an_object(value: object, at: Pointer) -> Json:
    """The value as an object, or `CallerError`."""
    if type(value) is not dict:
        raise wrong(at, "an object", value)
    return value


def a_list(value: object, at: Pointer) -> list[Any]:
    """The value as a list, or `CallerError`."""
    if type(value) is not list:
        raise wrong(at, "a list", value)
    return value


def a_string(value: object, at: Pointer) -> str:
    """The value as a string, or `CallerError`."""
    if type(value) is not str:
        raise wrong(at, "a string", value)
    return value


def a_flag(value: object, at: Pointer) -> bool:
    """The value as a boolean, or `CallerError`."""
    if type(value) is not bool:
        raise wrong(at, "true or false", value)
    return value


def a_number(value: object, at: Pointer) -> int | float:
    """The value as a number, or `CallerError`."""
    if type(value) is not int and type(value) is not float:
        raise wrong(at, "a number", value)
    return value


def a_count(value: object, at: Pointer) -> int:
    """The value as a positive integer, or `CallerError`."""
    if type(value) is not int or value < 1:
        raise wrong(at, "a whole number of at least 1", value)
    return value


def one_of(value: object, names: Collection[str], at: Pointer) -> str:
    """The value as one of some words, or `CallerError`."""
    if type(value) is not str or value not in names:
        raise wrong(at, "one of " + ", ".join(f'"{name}"' for name in sorted(names)), value)
    return value


def ensure_carried(
    source: Json,
    known: Collection[str],
    at: Pointer,
    upstream: Surface,
    neutral: Mapping[str, tuple[object, ...]] = {},
) -> None:
    """Refuse the first field that is not known. Null says nothing, and neither do the `neutral` values:
    those that mean the same as leaving the field away."""
    for key, value in source.items():
        if key in known or value is None:
            continue
        if key not in neutral or value not in neutral[key]:
            raise cannot((*at, key), upstream)
