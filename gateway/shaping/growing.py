"""JSON that comes in pieces, as chat deltas do: texts joined, objects merged, lists by index."""

from __future__ import annotations

from typing import Any

from gateway.domain import Json

_WHOLE = frozenset(("id", "type", "role", "index", "name", "format", "signature", "thought_signature"))
"""Texts that come whole: what is told again replaces them."""


MAX_DEPTH = 64
"""What stands deeper is left out: nothing that a provider is known to send."""


class Pieces(list[str]):
    """A text that is still growing: joining each time would copy it with every event."""


_GROWING = (Pieces, dict, list)


def grow(known: Json, more: Json, depth: int = 0) -> None:
    """Add what a delta tells to an object; both belong to it from then on. A value of another type than what
    was told before is left out."""
    if depth > MAX_DEPTH:
        return
    for name, value in more.items():
        if value is None:
            known.setdefault(name, None)
            continue
        before = known.get(name)
        if type(value) is str and name not in _WHOLE:
            if type(before) is Pieces:
                before.append(value)
            elif before is None or type(before) is str:
                known[name] = Pieces((value,) if before is None else (before, value))
        elif type(value) is dict:
            if before is None:
                before = known[name] = {}
            if type(before) is dict:
                grow(before, value, depth + 1)
        elif type(value) is list:
            if before is None:
                before = known[name] = []
            if type(before) is list:
                _extend(before, value, depth + 1)
        elif type(before) not in _GROWING:
            known[name] = value


def _extend(known: list[Any], more: list[Any], depth: int) -> None:
    for entry in more:
        if type(entry) is not dict:
            if type(entry) is not list:
                known.append(entry)
            continue
        index = entry.get("index")
        same = next(
            (e for e in known if type(index) is int and type(e) is dict and e.get("index") == index), None
        )
        if same is None:
            known.append(same := {})
        grow(same, entry, depth)


def copied(value: Any) -> Any:
    """A copy that goes on growing by itself."""
    if type(value) is Pieces:
        return Pieces(value)
    if type(value) is dict:
        return {name: copied(inner) for name, inner in value.items()}
    if type(value) is list:
        return [copied(inner) for inner in value]
    return value


def grown(value: Any) -> Any:
    """A copy in which every text is whole."""
    if type(value) is Pieces:
        return "".join(value)
    if type(value) is dict:
        return {name: grown(inner) for name, inner in value.items()}
    if type(value) is list:
        return [grown(inner) for inner in value]
    return value
