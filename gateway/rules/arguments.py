"""The policy's rules about arguments of a tool: a dotted path, and what may stand there.

A rule is there to stop a call, so what it cannot judge does not hold: a list where a mapping was expected, a
number written as text, a path with `..` in any spelling, a recipient that is no plain address. An argument
that is absent or null is judged by `required` alone.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from gateway.domain import Json
from gateway.policy.fields import fully_matches
from gateway.policy.sections.tools import ArgumentRule
from gateway.rules.schemas import listed

MAX_VALUES = 10_000
"""Values that one path may lead to; more do not hold."""


def breach(rules: Mapping[str, ArgumentRule], arguments: Json) -> str:
    """The first rule that the arguments break, in words for a model; empty when all hold.

    Values are never repeated, and of what is allowed at most five values or prefixes are told.
    """
    for path, rule in rules.items():
        if said := _breach(path, rule, arguments):
            return said
    return ""


def duplicate_keys(text: str) -> bool:
    """Whether a mapping in the JSON has a key twice, of which parsers take the first or the last. JSON that
    is too deep to be looked through counts as having one."""
    if not text.strip():
        return False
    try:
        return _marked(json.loads(text, object_pairs_hook=_noted))
    except RecursionError:
        return True


def _noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping that is marked when it, or one inside it, has a key twice."""
    out = dict(pairs)
    twice = len(out) < len(pairs) or any(_marked(value) for _, value in pairs)
    return {**out, "\x00": True} if twice else out


def _marked(value: Any) -> bool:
    if isinstance(value, list):
        return any(_marked(entry) for entry in value)
    return isinstance(value, dict) and "\x00" in value


def _breach(path: str, rule: ArgumentRule, arguments: Json) -> str:
    found = False
    for count, value in enumerate(_at(arguments, path.split("."), 0)):
        if value is _ELSEWHERE:
            return f"'{path}' does not have the structure that the policy expects."
        if count >= MAX_VALUES:
            return f"'{path}' has more than {MAX_VALUES} values."
        if value is None and not (rule.values and None in rule.values):
            continue
        found = True
        if said := _unfit(path, rule, value):
            return said
    return f"'{path}' is required by the policy." if rule.required and not found else ""


_ELSEWHERE: Any = object()


def _at(value: Any, keys: list[str], n: int) -> Iterator[Any]:
    """What stands at a path, each element of a list at its end by itself; `_ELSEWHERE` where the structure is
    another one. Nothing for what is absent."""
    if n == len(keys):
        yield from _elements(value)
    elif value is None:
        return
    elif keys[n] == "*":
        if isinstance(value, list):
            for element in value:
                yield from _at(element, keys, n + 1)
        else:
            yield _ELSEWHERE
    elif isinstance(value, dict):
        if keys[n] in value:
            yield from _at(value[keys[n]], keys, n + 1)
    else:
        yield _ELSEWHERE


def _elements(value: Any) -> Iterator[Any]:
    open_ = [value]
    while open_:
        value = open_.pop()
        if isinstance(value, list):
            open_.extend(reversed(value))
        else:
            yield value


def _unfit(path: str, rule: ArgumentRule, value: Any) -> str:
    if rule.values is not None and not _allowed(rule.values, value):
        return f"'{path}' must be one of {listed(list(rule.values))}."
    if rule.min is not None or rule.max is not None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"'{path}' must be a number."
        if rule.min is not None and value < rule.min:
            return f"'{path}' must be at least {rule.min}."
        if rule.max is not None and value > rule.max:
            return f"'{path}' must be at most {rule.max}."
    if rule.pattern is None and rule.prefixes is None and rule.max_length is None:
        return ""
    if not isinstance(value, str):
        return f"'{path}' must be a text."
    if rule.max_length is not None and len(value) > rule.max_length:
        return f"'{path}' must have at most {rule.max_length} characters."
    if rule.pattern is not None and not _matches(rule.pattern, value):
        return f"'{path}' does not have the form that the policy allows."
    if rule.prefixes is not None and not any(_below(prefix, value) for prefix in rule.prefixes):
        return f"'{path}' must begin with {listed(list(rule.prefixes))} and stay below it."
    return ""


def _allowed(options: tuple[Any, ...], value: Any) -> bool:
    if any(_same(option, value) for option in options):
        return True
    if not isinstance(value, str) or "@" not in value:
        return False
    known = {_address(option) for option in options if isinstance(option, str) and "@" in option}
    given = _recipients(value)
    return bool(known) and given is not None and all(address in known for address in given)


def _same(option: Any, value: Any) -> bool:
    """Equal as JSON has it: `1` is `1.0`, and neither `true` nor `"1"`."""
    if isinstance(option, bool) or isinstance(value, bool):
        return option is value
    return bool(option == value)


def _matches(pattern: str, value: str) -> bool:
    """A pattern about addresses holds for each recipient by itself, so that `.*@example\\.com` does not let a
    foreign one pass in front of a good one."""
    if "@" not in pattern or "@" not in value:
        return fully_matches(pattern, value)
    given = _recipients(value)
    if given is not None:
        return all(fully_matches(pattern, address) for address in given)
    several = value.count("@") > 1 and any(mark in value for mark in ",;<\r\n")
    return not several and fully_matches(pattern, value)


# --- recipients

_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}"
)
_NAMED = re.compile(r"(?:\"[^\"@<>\\\r\n]{0,200}\"|[^\"@<>,;:\\\r\n]{0,200})\s?<([^<>\s]{1,400})>")
_PIECES = re.compile(r"(?:\"[^\"]{0,200}\"|[^\",;])+")


def _recipients(value: str) -> list[str] | None:
    """The addresses of a text of recipients (`Bob <a@b.c>, d@e.f`), domains in lower case; None when any of
    them is not a plain address."""
    pieces = [piece.strip(" \t") for piece in _PIECES.findall(value)]
    pieces = [piece for piece in pieces if piece]
    out = []
    for piece in pieces:
        named = _NAMED.fullmatch(piece)
        address = named[1] if named else piece
        if not _ADDRESS.fullmatch(address):
            return None
        out.append(_address(address))
    # What the pieces leave out, such as a quote without its end, is nothing that can be judged.
    rest = _PIECES.sub("", value).replace(",", "").replace(";", "")
    return out if out and not rest else None


def _address(text: str) -> str:
    local, _, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}"


# --- paths and URLs

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+")
_ROUNDS = 3
"""How often a percent sign may hide another one; deeper nesting does not hold."""


def _below(prefix: str, value: str) -> bool:
    """Whether a text begins with the prefix and does not leave it again: no `..`, no backslash for a slash,
    encoded or not, and behind an origin such as `https://example.com` its path and nothing else."""
    if not value.startswith(prefix) or any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
        return False
    if _ORIGIN.fullmatch(prefix) and value[len(prefix) : len(prefix) + 1] not in ("", "/", "?", "#"):
        return False
    plain = value
    for _ in range(_ROUNDS):
        if _leaves(prefix, plain):
            return False
        decoded = unquote(plain, errors="replace")
        if decoded == plain:
            return True
        plain = decoded
    return False


def _leaves(prefix: str, value: str) -> bool:
    text = value if value.isascii() else unicodedata.normalize("NFKC", value)
    if "\x00" in text or ("\\" in text and "\\" not in prefix):
        return True
    segments = text.replace("\\", "/").split("/")
    return any(segment.split(";", 1)[0].strip() == ".." for segment in segments)
