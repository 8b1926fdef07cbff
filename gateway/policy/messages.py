"""What a person is told about a mistake in a policy file, and the error that carries all of them.

Every message is `file:line: path: got …, expected …; did you mean …?`. A value that was read from the
environment or a secret file is shown as it is written in the file, a literal secret not at all, and a
text that stands where a section belongs only as "text", for it may be a key in the wrong place.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from gateway.policy.document import Document, KeyPath
from gateway.policy.fields import COUNT_TAG, EXPECTED, FREE_TAG, LADDER_TAG, PRICED_TAG, one_of
from gateway.policy.language import is_secret_at, keys_of, type_at
from gateway.policy.sections.base import Section

_LONGEST_SHOWN = 80
"""Characters of a value in a message; the line number leads to the rest."""


MOST_GUESSES = 100
"""Guesses compare with every allowed word, so a file of nothing but mistakes gets only the first ones."""
MOST_WORDS = 2000
"""The same bound for the words; the longest list that is not the writer's own is that of time zones."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with a policy.

    `line` is 0 where the whole file is meant; `path` may be empty.
    """

    file: str
    line: int
    path: str
    problem: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.problem}" if self.path else f"{place}: {self.problem}"


class PolicyError(Exception):
    """A policy that cannot be used. `mistakes` are all that were found, by file and line; never empty."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes: tuple[Mistake, ...] = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


def path_text(path: KeyPath) -> str:
    """`budgets[2].limit_usd`; keys that would be misread are quoted: `models["gpt-4.1"].price`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_*/:@-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]"
    return text


def quoted(text: str) -> str:
    """`text` in double quotes on one line, without control characters, shortened."""
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 1] + "…"
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in escaped)


def kind_text(value: object) -> str:
    """What sort of value this is, without the value."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return "text"
        case int() | float() | Decimal():
            return "a number"
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list():
            return "a list" if value else "an empty list"
    return "something else"


def value_text(value: object) -> str:
    """A value as a message shows it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        text = str(value)
        return text if len(text) <= _LONGEST_SHOWN else "a very long number"
    return kind_text(value)


def guess(word: object, words: Sequence[str]) -> str:
    """`; did you mean "gpt-4o-mini"?` when one of `words` is close, else nothing."""
    if not isinstance(word, str) or len(words) > MOST_WORDS:
        return ""
    by_lower = {candidate.lower(): candidate for candidate in reversed(words)}
    close = difflib.get_close_matches(word.lower()[:256], by_lower, n=1, cutoff=0.6)
    return f"; did you mean {quoted(by_lower[close[0]])}?" if close else ""


def mistake_at(document: Document, path: KeyPath, problem: str) -> Mistake:
    """A mistake in the place where `path` is written, or where the nearest section around it begins."""
    place = document.place(path)
    return Mistake(place.file, place.line, path_text(path), problem)


def got_text(document: Document, path: KeyPath) -> str:
    """The value at `path` as it is written; a literal secret is hidden."""
    value = document.at(path)
    if isinstance(value, str) and is_secret_at(path):
        reference = re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}|file:[^\s]+", value)
        return quoted(value) if reference else "a hidden value"
    return value_text(value)


def from_validation(document: Document, error: ValidationError) -> Iterator[tuple[KeyPath, Mistake]]:
    """Every mistake that pydantic found, with its path, in our words: its own words may show values."""
    details = error.errors(include_url=False)
    places = [_path(document, each["loc"]) for each in details]
    for number, (each, path) in enumerate(zip(details, places, strict=True)):
        # A list whose only entry is wrong is also reported as too short.
        if each["type"] != "too_short" or document.at(path) == []:
            yield path, _translate(document, each, path, guessing=number < MOST_GUESSES)


def _path(document: Document, loc: KeyPath) -> KeyPath:
    """Pydantic's location as a path in the document."""
    path: KeyPath = ()
    for part in loc:
        # Marks of pydantic's own, unless a key of the file is really called so.
        if part not in _MARKS or (*path, part) in document.places:
            path = (*path, part)
    # A single text stands for a list of one.
    return path[:-1] if path and path[-1] == 0 and isinstance(document.at(path[:-1]), str) else path


_KEY_MARK = "[key]"
"""What pydantic puts at the end of a location when the key itself is wrong."""
_MARKS = (FREE_TAG, PRICED_TAG, COUNT_TAG, LADDER_TAG, _KEY_MARK)


def _translate(document: Document, details: Any, loc: KeyPath, *, guessing: bool) -> Mistake:
    kind, context = details["type"], details.get("ctx", {})
    if details["loc"][-1:] == (_KEY_MARK,) and loc[-1:] != (_KEY_MARK,):
        got, word = quoted(str(loc[-1])), loc[-1]
    else:
        got, word = got_text(document, loc), document.at(loc)
    hint = ""
    match kind:
        case _ if kind == EXPECTED:
            expected = context["expected"]
            got = context["got"] or got
            if guessing and not is_secret_at(loc):
                hint = guess(word, context["near"]) or _obvious(word, expected)
        case "extra_forbidden":
            siblings = keys_of(type_at(loc[:-1]))
            got, expected = "an unknown key", f"one of {', '.join(siblings)}"
            hint = guess(loc[-1], siblings) if guessing else ""
        case "missing":
            got, expected = "nothing", _meaning(loc)
        case "literal_error" | "enum":
            words = tuple(re.findall(r"'([^']*)'", context["expected"])) or (context["expected"],)
            expected = one_of(words)
            hint = guess(word, words) if guessing else ""
        case "too_short":
            expected = "at least one entry"
        case "tuple_type" | "list_type":
            got, expected = kind_text(word), "a list"
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            got, expected = kind_text(word), "a mapping"
        case _:
            # Every field type has its words, so only a shape that no test thought of comes here.
            got, expected = kind_text(word), "another kind of value"
    return mistake_at(document, loc, f"got {got}, expected {expected}{hint}")


def _obvious(value: object, expected: str) -> str:
    """The hint for a value that YAML reads as another type than the writer meant."""
    if expected == "true or false" and isinstance(value, str):
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower())
        return f"; did you mean {meant}?" if meant else ""
    if ("text" in expected or "name" in expected) and isinstance(value, int | Decimal):
        return f"; did you mean {quoted(str(value).lower())}?"
    return ""


def _meaning(path: KeyPath) -> str:
    """What a missing key would have said: the first sentence of its documentation."""
    section = type_at(path[:-1])
    if isinstance(section, type) and issubclass(section, Section):
        for name, info in section.model_fields.items():
            if (info.alias or name) == path[-1] and info.description:
                sentence = re.split(r"[.:;](?:\s|$)", info.description, maxsplit=1)[0]
                return "a value: " + sentence[0].lower() + " ".join(sentence[1:].split())
    return "a value"
