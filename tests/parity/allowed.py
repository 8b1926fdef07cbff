"""The reviewed lists of strings that a guard does not meet as a text; see allowed.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from gateway.domain import Surface

List = Literal["not_shown", "opaque"]
FILE = Path(__file__).with_name("allowed.toml")


@dataclass(frozen=True)
class Entry:
    """One path, or with a `*` in front every path that ends so."""

    list: List
    reason: str
    surface: Surface
    pattern: str

    def fits(self, path: str) -> bool:
        return path.endswith(self.pattern[1:]) if self.pattern.startswith("*") else path == self.pattern


@dataclass(frozen=True)
class Group:
    """The entries that share a reason."""

    list: List
    reason: str
    why: str
    entries: tuple[Entry, ...]


@cache
def groups() -> tuple[Group, ...]:
    """Both lists, in the order of the file."""
    read = tomllib.loads(FILE.read_text())
    found: list[Group] = []
    for name in get_args(List):
        for table in read[name]:
            reason, why = table.pop("reason"), table.pop("why")
            entries = [
                Entry(name, reason, Surface(surface), pattern)
                for surface, patterns in table.items()
                for pattern in patterns
            ]
            found.append(Group(name, reason, why, tuple(entries)))
    return tuple(found)
