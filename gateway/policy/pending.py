"""What the policy language has and this version only validates.

An operator who writes such a rule is warned, so that no one trusts a guard that is not there. A part that
becomes enforced leaves `NOT_YET_ENFORCED`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.policy.document import Document, KeyPath, value_at
from gateway.policy.messages import path_text


@dataclass(frozen=True, slots=True)
class Pending:
    """A path of the language, `*` for every entry; with `values` only where the value is one of them."""

    path: KeyPath
    values: frozenset[str] | None = None
    instead: str = ""


NOT_YET_ENFORCED: tuple[Pending, ...] = (
    Pending(("screening", "injection", "output")),
    Pending(("tools", "*", "idempotent")),
    Pending(("budgets", "*", "per"), frozenset({"tool"})),
    Pending(("budgets", "*", "on_failure"), frozenset({"allow"}), instead="; it acts as refuse"),
    Pending(("rates", "*", "on_failure"), frozenset({"allow"}), instead="; it acts as refuse"),
    Pending(("runs", "on_failure"), frozenset({"allow"}), instead="; it acts as refuse"),
)


def warnings(document: Document) -> Iterator[str]:
    """One sentence for each thing in the document that is not enforced; what is empty or off needs none."""
    for pending in NOT_YET_ENFORCED:
        profiles: KeyPath = ("profiles", "*", *pending.path)
        for path in (*_paths(document.data, pending.path), *_paths(document.data, profiles)):
            value, owner = document.at(path), document.at(path[:-1])
            if pending.values is None:
                meant = bool(value) and not (isinstance(value, dict) and value.get("mode") == "off")
                what = ""
            else:
                meant = value in pending.values and not (
                    isinstance(owner, dict) and owner.get("mode") == "off"
                )
                what = f"{value} is "
            if meant:
                place = document.place(path)
                yield (
                    f"{place.file}:{place.line}: {path_text(path)}: {what}validated, "
                    f"not yet enforced by this version{pending.instead}"
                )


def _paths(data: Any, pattern: KeyPath, done: KeyPath = ()) -> Iterator[KeyPath]:
    if not pattern:
        yield done
        return
    part, rest = pattern[0], pattern[1:]
    if part == "*":
        entries: Iterable[tuple[str | int, Any]] = ()
        if isinstance(data, list):
            entries = enumerate(data)
        elif isinstance(data, dict):
            entries = data.items()
        for key, value in entries:
            yield from _paths(value, rest, (*done, key))
    elif isinstance(data, dict) and value_at(data, (part,)) is not None:
        yield from _paths(data[part], rest, (*done, part))
