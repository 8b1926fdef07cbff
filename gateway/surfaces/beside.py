"""What a request says beside its conversation: names of speakers, stop sequences, the form of the answer.

Guards read such texts like all others, since they leave for the provider and the model reads many of them.
They are no turns, so that they stand together in one item in front, an aside, which lineage passes over.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gateway.domain import Item, Json, Media, Role, Text

Pointer = tuple[str | int, ...]

_MAX_WORD_CHARS = 32


class Beside:
    """Collects them while a request is read."""

    __slots__ = ("media", "texts")

    def __init__(self) -> None:
        self.texts: list[Text] = []
        self.media: list[Media] = []

    def item(self) -> tuple[Item, ...]:
        """The item to put in front; none when there is nothing to tell."""
        if not self.texts and not self.media:
            return ()
        return (Item(Role.USER, tuple(self.texts), tuple(self.media), aside=True),)

    def rest(self, source: Json, at: Pointer, known: Collection[str], but: Collection[str] = ()) -> None:
        """The texts of an object's fields but for those in `known`."""
        for name, value in source.items():
            if name not in known:
                self.read(value, (*at, name), but)

    def read(self, value: Any, at: Pointer, but: Collection[str] = ()) -> None:
        """Every text in a value, save below the keys `but` at any depth."""
        if type(value) is str:
            if value and not (at[-1] == "type" and is_word(value)):
                self.texts.append(Text(value, at))
        elif type(value) is dict:
            for key, inner in value.items():
                if key not in but:
                    self.read(inner, (*at, key), but)
        elif type(value) is list:
            for i, inner in enumerate(value):
                self.read(inner, (*at, i), but)


def is_word(text: str) -> bool:
    """Whether a `type` is one as APIs and JSON Schema have them; anything else under this name is a text."""
    return len(text) <= _MAX_WORD_CHARS and text.isidentifier()
