"""A chat stream put into the order that block-wise APIs need.

Chat's deltas may interleave: several tool calls by their index, text beside them. Messages and responses
tell one block after the other. So one block is open at a time and passes as it comes, and what belongs to a
later one waits until the open one can be closed: text at any time, a call when its arguments are a complete
JSON object or the answer is finished. A call is never closed half.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.domain import Json
from gateway.surfaces.chat import reasoning_in, text_in
from gateway.translation.calls import is_object, written

Kind = Literal["thinking", "text", "refusal", "call"]
Happening = Literal["opened", "added", "closed"]


@dataclass(slots=True, eq=False)
class Block:
    """One part of the answer; `index` counts blocks in the order of their opening."""

    kind: Kind
    id: str = ""
    name: str = ""
    index: int = -1
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything received so far."""
        return "".join(self.pieces)


Told = tuple[Happening, Block, str]
"""What happened to which block, and the text that was added."""


def first_choice(source: Json) -> Json | None:
    """The one choice of a chat reply or chunk: translated requests never ask for more."""
    choices = source.get("choices")
    for choice in choices if type(choices) is list else ():
        if type(choice) is dict and choice.get("index") in (None, 0):
            return choice
    return None


class BlockOrder:
    """Takes the deltas of one choice, gives back what happens to blocks, in order."""

    __slots__ = ("_by_index", "_open", "_opened", "_told", "_waiting")

    def __init__(self) -> None:
        self._open: Block | None = None
        self._waiting: list[Block] = []
        self._by_index: dict[int, Block] = {}
        self._opened = 0
        self._told: list[Told] = []

    def take(self, delta: Json) -> list[Told]:
        """What one delta makes happen."""
        if reasoning := reasoning_in(delta):
            self._add(self._speaking("thinking"), reasoning)
        if text := text_in(delta.get("content")):
            self._add(self._speaking("text"), text)
        if type(refusal := delta.get("refusal")) is str and refusal:
            self._add(self._speaking("refusal"), refusal)
        calls = delta.get("tool_calls")
        for part in calls if type(calls) is list else ():
            if type(part) is dict:
                self._call(part)
        if self._waiting:
            self._advance()
        told, self._told = self._told, []
        return told

    def finish(self) -> list[Told]:
        """The answer is complete: what waits is told whole. A call that never got a name is none."""
        self._close()
        for block in self._waiting:
            if block.kind != "call" or block.name:
                self._begin(block)
                self._close()
        self._waiting = []
        told, self._told = self._told, []
        return told

    def _speaking(self, kind: Kind) -> Block:
        if self._open is not None and self._open.kind == kind:
            return self._open
        for block in reversed(self._waiting):
            if block.kind == kind:
                return block
        return self._new(Block(kind))

    def _call(self, part: Json) -> None:
        inner = part.get("function")
        inner = inner if type(inner) is dict else {}
        index = part.get("index")
        at = index if type(index) is int else len(self._by_index)
        call_id, name, arguments = part.get("id"), inner.get("name"), inner.get("arguments")
        block = self._by_index.get(at)
        # Some servers send every whole call under index 0; a new id is a new call.
        if block is None or (type(call_id) is str and call_id and block.id and call_id != block.id):
            block = self._by_index[at] = Block("call")
            _identify(block, call_id, name)
            self._new(block)
        else:
            _identify(block, call_id, name)
        if arguments is not None and (text := arguments if type(arguments) is str else written(arguments)):
            self._add(block, text)

    def _new(self, block: Block) -> Block:
        self._waiting.append(block)
        self._advance()
        return block

    def _add(self, block: Block, text: str) -> None:
        if block is self._open:
            block.pieces.append(text)
            self._told.append(("added", block, text))
        elif block.index < 0:
            block.pieces.append(text)
        # Else it was closed, with complete arguments: nothing can belong to it.

    def _advance(self) -> None:
        while self._waiting and self._may_open(self._waiting[0]) and self._may_close():
            self._begin(self._waiting.pop(0))

    def _may_open(self, block: Block) -> bool:
        return block.kind != "call" or bool(block.id and block.name)

    def _may_close(self) -> bool:
        block = self._open
        if block is None or block.kind != "call":
            return True
        return bool(block.pieces) and block.pieces[-1].rstrip().endswith("}") and is_object(block.text)

    def _begin(self, block: Block) -> None:
        self._close()
        block.index = self._opened
        self._opened += 1
        self._open = block
        self._told.append(("opened", block, ""))
        if block.pieces:
            self._told.append(("added", block, block.text))

    def _close(self) -> None:
        if self._open is not None:
            self._told.append(("closed", self._open, ""))
            self._open = None


def _identify(block: Block, call_id: Any, name: Any) -> None:
    if not block.id and type(call_id) is str:
        block.id = call_id
    if not block.name and type(name) is str:
        block.name = name
