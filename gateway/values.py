"""`frozen`: a dataclass that nobody assigns to, and whose making costs no more than that of any other class.

A frozen dataclass sets each field through `object.__setattr__`, 0.1 µs a field, and a step makes values of
some 200 fields: that alone was a tenth of what the gateway cost. Here the type checker alone forbids
assignment; everything else (`__eq__`, `__hash__`, `__slots__`, `dataclasses.replace`) is as usual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots, for what is made with every step."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
