"""What every detector of unwanted content speaks in."""

from __future__ import annotations

from typing import Literal

from gateway.values import frozen

Channel = Literal["system", "user", "tool", "definition", "assistant", "output"]
"""Where a text comes from: the operator's prompt, the user, a tool's result, a tool's description, an
earlier answer of the model, the answer being made."""


@frozen
class Finding:
    """One place where a detector saw something."""

    detector: str
    """`injection`, `pii` or `secrets`."""
    type: str
    """What was found, such as `instruction_override`, `CREDIT_CARD` or `AWS_ACCESS_KEY`."""
    start: int
    """Offsets into the original text, in characters; the range is half open."""
    end: int
    score: float
    """From 0 to 1."""
