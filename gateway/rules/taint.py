"""Where a value in a tool's arguments comes from: the user, or the result of a tool that anyone may write
into.

A web page, a mail, a ticket can tell a model whom to write to and where to send. Whatever words it does that
with, the value it wants to be used stands in it. So a recipient, an address or a number that first appeared
in the result of an untrusted tool, and that neither the user nor the operator has said, is tainted.

What is looked at is the history in the request. Results that a provider keeps are not seen.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import re2

from gateway.domain import Item, Role, ToolCall

MAX_VALUES = 256
"""Values of one call that are traced; a call with more is tainted."""
SHORTEST = 5
"""Characters of a value that can be told from chance."""
LONGEST_WHOLE = 200
"""An argument up to so many characters is traced as a whole, besides the values in it."""

# RE2 takes linear time, whatever the text.
_VALUES = re2.compile(
    r"[^\s<>\"'(),;]+@[^\s<>\"'(),;]+"  # addresses
    r"|(?:https?://)?(?:[a-z0-9-]+\.)+[a-z]{2,}(?:[/?#][^\s<>\"')]*)?"  # hosts and URLs
    r"|\+?\d(?:[ .()/-]{0,2}\d){6,}"  # numbers of people and accounts
    r"|\w*\d\w*"  # identifiers
)
_JOINTS = re.compile(r"[\s.()/-]+")


def tainted(call: ToolCall, items: Sequence[Item], trusted: Callable[[str], bool]) -> tuple[str, ...]:
    """The arguments, by their dotted paths, that carry a value from the result of a tool that is not
    `trusted` (by name) and that nobody else has said. Values themselves are never told."""
    leaves = list(_leaves(call.arguments))
    wanted: dict[str, list[str]] = {}
    for path, text in leaves:
        wanted.setdefault(path, []).extend(_values(text))
    if len(leaves) > MAX_VALUES or sum(map(len, wanted.values())) > MAX_VALUES:
        return tuple(dict.fromkeys(path for path, _ in leaves))
    if not any(wanted.values()):
        return ()
    told, said = _texts(items, trusted)
    return tuple(
        path
        for path, values in wanted.items()
        if any(told.holds(value) and not said.holds(value) for value in values)
    )


class _Said:
    """Texts in which values are looked up."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._text = _alike("\n".join(texts))

    @cached_property
    def _joined(self) -> str:
        return _JOINTS.sub("", self._text)

    def holds(self, value: str) -> bool:
        """Whether the value stands there, numbers in any grouping."""
        if value in self._text:
            return True
        digits = _JOINTS.sub("", value).lstrip("+")
        return digits.isdigit() and digits in self._joined


def _texts(items: Sequence[Item], trusted: Callable[[str], bool]) -> tuple[_Said, _Said]:
    """(what untrusted tools told, what people said)."""
    names = {call.id: call.name for item in items for call in item.calls if call.id}
    told: list[str] = []
    said: list[str] = []
    for item in items:
        texts = [text.text for text in item.texts]
        if item.role is Role.TOOL:
            if not trusted(names.get(item.call_id or "", "")):
                told += texts
        elif item.role is not Role.ASSISTANT:
            said += texts
    return _Said(told), _Said(said)


def _values(text: str) -> list[str]:
    alike = _alike(text)
    found = [match.group().rstrip(".,;:!?") for match in _VALUES.finditer(alike)]
    whole = alike.strip()
    if SHORTEST <= len(whole) <= LONGEST_WHOLE and not _is_prose(whole):
        found.append(whole)
    return [value for value in dict.fromkeys(found) if len(value) >= SHORTEST]


def _is_prose(text: str) -> bool:
    """Words, which a model may use as it likes."""
    return all(word.isalpha() for word in text.split())


def _alike(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _leaves(arguments: str) -> Iterator[tuple[str, str]]:
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = arguments
    stack: list[tuple[str, Any]] = [("", parsed)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, str(value)
        elif isinstance(value, dict):
            stack += [(f"{path}.{key}" if path else key, inner) for key, inner in value.items()]
        elif isinstance(value, list):
            stack += [(path, inner) for inner in value]
