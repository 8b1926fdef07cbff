"""What the policy language has at a path: for messages, the schema, and what must never be shown."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr

from gateway.policy.models import Policy
from gateway.policy.sections.base import Section


def type_at(path: Iterable[str | int]) -> Any:
    """The type that the policy language has at a path of keys and indexes; `None` where it has none.

    A section is its class, a mapping or list its generic alias, a value its plain type; of a union with
    `None` the other side, and of a union with a section that.
    """
    found: Any = Policy
    for part in path:
        kinds = _members(found)
        found = None
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                by_key = {info.alias or name: info for name, info in kind.model_fields.items()}
                if isinstance(part, str) and part in by_key:
                    found = by_key[part].annotation
            elif get_origin(kind) is tuple and isinstance(part, int):
                found = get_args(kind)[0]
            elif isinstance(part, str) and get_origin(kind) is not None and len(get_args(kind)) == 2:
                found = get_args(kind)[1]
        if found is None:
            return None
    kinds = _members(found)
    return kinds[0] if kinds else None


def _members(kind: Any) -> list[Any]:
    """A type without `Annotated`, its union spread out, sections first, `Literal` last and `None` gone."""
    origin: Any = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        spread = [member for side in get_args(kind) for member in _members(side)]
        return sorted(spread, key=_order)
    return [] if isinstance(kind, type) and issubclass(kind, types.NoneType) else [kind]


def _order(kind: Any) -> int:
    origin: Any = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, Section):
        return 0
    return 2 if origin is Literal else 1


def is_secret_at(path: Iterable[str | int]) -> bool:
    """Whether the value at a path must never be shown."""
    return type_at(path) is SecretStr


def keys_of(kind: Any) -> tuple[str, ...]:
    """The keys that a section may have, as they are written in the file."""
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        return ()
    return tuple(info.alias or name for name, info in kind.model_fields.items())
