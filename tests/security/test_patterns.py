"""Every pattern of the project against texts made to keep it busy.

The detectors and the patterns of policies are RE2, which takes linear time by construction; what Python's own
`re` matches is found in the sources and in the modules, and measured. The texts are made from each pattern: its
own words and one of each kind of character, alone and in pairs, repeated, and then something that does not fit.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import gateway
from gateway.metering.prices import PriceBook, UnknownPrice
from gateway.rules import bad_answers
from gateway.screening import actions, secrets
from tests.security.sources import nodes
from tests.support.effort import Effort

_sre: Any = importlib.import_module("re._parser")
"""How `re` reads a pattern."""
CHARACTERS = [
    "a",
    "A",
    "0",
    " ",
    "\t",
    "\n",
    "-",
    "_",
    ".",
    "/",
    ":",
    "=",
    ",",
    ";",
    '"',
    "'",
    "\\",
    "{",
    "[",
    "(",
    "<",
    "@",
    "%",
    "é",
    "\0",
]
BOUND_S = 0.05
"""For one text of at most 1,500 characters: a pattern in exponential or cubic time does not stay below."""
TOO_LONG_S = 0.2
"""After this nobody waits for a longer one."""
_CALLS = frozenset({"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"})


def in_sources() -> Iterator[tuple[str, str | bytes, int]]:
    """(place, pattern, flags) of each literal pattern that is given to `re`."""
    for file, node in nodes(r"\bre\.[a-z]+\("):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="re"), attr=name),
                args=[ast.Constant(value=str() | bytes() as pattern), *_],
            ) if name in _CALLS:
                yield f"{file}:{node.lineno}", pattern, 0


def in_modules() -> Iterator[tuple[str, str | bytes, int]]:
    """(place, pattern, flags) of each compiled pattern that a module holds, in whatever collection."""
    for info in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:  # an extra that is not installed
            continue
        for name, value in vars(module).items():
            for found in _patterns(value, 3):
                yield f"{info.name}.{name}", found.pattern, found.flags


def _patterns(value: Any, depth: int) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from _patterns(each, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _patterns(each, depth - 1)
    elif depth and type(value).__module__.startswith("gateway.") and not isinstance(value, type):
        names: Any = getattr(value, "__dict__", None) or getattr(type(value), "__slots__", ())
        for name in names:
            yield from _patterns(getattr(value, name, None), depth - 1)


def words_of(pattern: str | bytes, flags: int) -> list[str]:
    """The literal pieces of a pattern."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    found: list[str] = []

    def walk(parsed: Iterable[Any]) -> None:
        run = ""
        for op, argument in parsed:
            if str(op) == "LITERAL":
                run += chr(argument)
                continue
            if run:
                found.append(run)
            run = ""
            for part in _inside(argument):
                walk(part)
        if run:
            found.append(run)

    walk(_sre.parse(text, flags))
    return sorted(set(found), key=len, reverse=True)[:6]


def _inside(argument: Any) -> Iterator[Any]:
    if isinstance(argument, _sre.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _inside(each)


def texts(pattern: str | bytes, flags: int, length: int, *, pairs: bool) -> Iterator[str]:
    """What may keep a pattern busy."""
    words = words_of(pattern, flags)
    pumps = [*CHARACTERS, *words]
    if pairs:
        some = [*words[:3], "a", "0", " "]
        pumps += [first + second for first in some for second in [*some, "-", "."]]
    for pump in dict.fromkeys(pumps):
        body = (pump * (length // len(pump) + 1))[:length]
        yield body + "\0"
        yield "".join(words[:1]) + body + "!"


def hold_out(pattern: str | bytes, flags: int, length: int, *, pairs: bool = False) -> tuple[float, str]:
    """The longest time that a text took, and that text."""
    compiled: Any = re.compile(pattern, flags)
    worst, by = 0.0, ""
    for text in texts(pattern, flags, length, pairs=pairs):
        given: Any = text if isinstance(pattern, str) else text.encode()
        began = time.thread_time()
        compiled.search(given)
        compiled.fullmatch(given)
        spent = time.thread_time() - began
        if spent > worst:
            worst, by = spent, text
        if worst > TOO_LONG_S:
            break
    return worst, by


def busy(
    patterns: Iterable[tuple[str, str | bytes, int]], lengths: Iterable[int], *, pairs: bool
) -> list[Any]:
    """The patterns that take longer than their text allows, each with where it stands and what it took."""
    found: list[Any] = []
    once = {(pattern, int(flags) & ~int(re.UNICODE)): place for place, pattern, flags in patterns}
    for (pattern, flags), place in once.items():
        for length in lengths:
            bound = BOUND_S if length <= 200 else 3 * BOUND_S
            spent, by = hold_out(pattern, flags, length, pairs=pairs)
            if spent > bound:
                # Perhaps it was the machine: what takes long by itself takes long again.
                with Effort() as effort:
                    spent, by = hold_out(pattern, flags, length, pairs=pairs)
                if spent > bound and effort.seconds > bound and str(pattern) not in bounded():
                    found.append((place, pattern, length, round(spent, 3), by[:60]))
                    break
    return found


def bounded() -> set[str]:
    """Patterns that take quadratic time and never see a long text: those of refusals the first 700 characters of an
    answer, those of sentences 600 on either side of a finding, that of a Secret's entries one place, a line's
    start."""
    assert bad_answers.MAX_REFUSAL_CHARS == 700
    assert actions._REACH == 600
    found = (bad_answers._ENGLISH, bad_answers._OTHERS, actions._END, actions._JSON_END, secrets._ENTRY)
    return {each.pattern for each in found}


def test_no_pattern_in_the_sources_can_be_kept_busy() -> None:
    found = list(in_sources())
    assert len(found) > 120
    assert busy(found, (30,), pairs=False) == []


@pytest.mark.slow
def test_no_pattern_of_any_module_can_be_kept_busy() -> None:
    found = list(in_modules())
    assert len(found) > 120
    slow = busy([*found, *in_sources()], (30, 200, 1500), pairs=True)
    assert not slow, "\n".join(map(str, slow))


def test_a_pattern_that_can_be_kept_busy_is_told() -> None:
    """Else the tests above would show nothing."""
    for pattern, length in (
        (r"(\w+\s?)+@", 19),
        (r"(?:[-@:._]?(?:v\d+(?::\d)?|\d{2,8}|latest|beta|stable))*", 30),
    ):
        assert hold_out(pattern, 0, length)[0] > BOUND_S


def test_a_model_s_name_is_priced_at_once_however_it_is_written() -> None:
    book = PriceBook(refs={"p": "openai"})
    for name in (
        "0" * 240 + "!",
        "-v" + "1" * 230 + "x",
        "-latest" * 30 + "!",
        "-20" * 80,
        "a/" * 120,
        "1:" * 120,
    ):
        with Effort() as effort, pytest.raises(UnknownPrice):
            book.rates("p", f"gpt-4o{name}", 1_800_000_000_000)
        assert effort.seconds < 0.5


def test_patterns_of_policies_and_detectors_are_re2() -> None:
    import re2

    from gateway.policy import fields
    from gateway.screening import matching

    for module in (fields, matching):
        assert any(value is re2 for value in vars(module).values()), module.__name__
