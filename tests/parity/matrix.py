"""The tables of docs/parity.md, from the same values that the tests run on: `python -m tests.parity.matrix
docs/parity.md` writes them anew between their marks."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gateway.domain import Surface
from tests.parity.allowed import Group, List, groups
from tests.parity.controls import SECTIONS, Control
from tests.parity.scene import LANES, lane_name
from tests.parity.schemas import REQUESTS, fields

_LISTS: dict[List, str] = {"not_shown": "not shown", "opaque": "opaque"}


def controls() -> str:
    """What every control does on every lane: plain, then streamed."""
    lanes = [lane_name(surface, prefix) for surface, prefix in LANES]
    lines = [_row("", "code", *lanes, ""), _row(*["---"] * (len(lanes) + 3))]
    for title, rows in SECTIONS.items():
        lines.append(_row(f"**{title}**", *[""] * (len(lanes) + 2)))
        lines += [_control(control) for control in rows]
    return "\n".join(lines)


def _control(control: Control) -> str:
    cells = [
        " / ".join(_ending(control, surface, prefix, stream) for stream in (False, True))
        for surface, prefix in LANES
    ]
    code = f"`{control.code}`" if control.code else ""
    return _row(control.title, code, *cells, control.note)


def _ending(control: Control, surface: str, prefix: str, stream: bool) -> str:
    if stream not in control.forms:
        return "–"
    if stream and control.when == "in stream":
        return "event"
    if control.name == "disconnect":
        return "gone"
    return str(control.expected(surface, prefix, stream)[0])


def seen() -> str:
    """How many strings the requests of each API have, and what becomes of them."""
    every = {
        surface: {field.path for field in fields() if field.surface is surface} for surface in _surfaces()
    }
    hidden = Counter(
        (surface, group.list)
        for group in groups()
        for surface in _surfaces()
        for path in every[surface]
        if any(entry.surface is surface and entry.fits(path) for entry in group.entries)
    )
    lines = [_row("API", "strings", "shown", *_LISTS.values()), _row(*["---"] * 5)]
    for surface, paths in every.items():
        counts = [hidden[surface, name] for name in _LISTS]
        lines.append(_row(surface.value, *map(str, (len(paths), len(paths) - sum(counts), *counts))))
    return "\n".join(lines)


def not_shown() -> str:
    """What is not shown, by the reason."""
    return _groups("not_shown")


def opaque() -> str:
    """What is shown without its text."""
    return _groups("opaque")


def _groups(name: List) -> str:
    lines = [
        _row("what", "why" if name == "not_shown" else "how a guard meets it", "where"),
        _row(*["---"] * 3),
    ]
    lines += [_row(group.reason, group.why, _places(group)) for group in groups() if group.list == name]
    return "\n".join(lines)


def _places(group: Group) -> str:
    """The fields of a group: all of them while they are few, else how many on which API."""
    if len(group.entries) <= 8:
        return ", ".join(
            f"`{entry.pattern.replace('*', '…', 1)}` ({entry.surface})" for entry in group.entries
        )
    counts = Counter(entry.surface.value for entry in group.entries)
    return ", ".join(f"{count} in {surface}" for surface, count in counts.items())


def _surfaces() -> list[Surface]:
    return list(dict.fromkeys(surface for surface, _, _, _ in REQUESTS))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


TABLES: dict[str, Callable[[], str]] = {
    "controls": controls,
    "seen": seen,
    "not shown": not_shown,
    "opaque": opaque,
}


def with_tables(text: str) -> str:
    """The page with every table made anew. Raises `LookupError` for a table that has no place."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise LookupError(f"the page has no place for the table {name!r}")
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
