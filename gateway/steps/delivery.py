"""What an answer is on its way to the caller: the connection that takes it, and who judges its tool calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.domain import Answer, Headers, Json
from gateway.errors import GatewayError
from gateway.values import frozen


class Client(Protocol):
    """The caller's connection."""

    @property
    def left(self) -> bool:
        """The caller has gone."""

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of a streamed answer."""

    async def send(self, data: bytes) -> None:
        """Send a piece of it; returns at once when the client has left."""

    async def end(self) -> None:
        """End it cleanly."""

    def cut(self) -> None:
        """Break the connection, so that what was sent is not taken for the whole."""

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves before the end."""


class ClientLeftError(GatewayError):
    """The caller closed its connection; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__("upstream_stream_interrupted", "The client closed the connection.")


@frozen
class Reply:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


@frozen
class Withheld:
    """Why the tool calls of an answer are not delivered."""

    results: tuple[str, ...]
    """What the model is told instead of a result, one for each call of the answer in its order."""
    repairable: bool
    """The model may try again with its tools; else it has to answer without them."""
    told: str = ""
    """What the client is told should the model have nothing to say about it."""
    code: str = "tool_not_allowed"
    """Why the run ends if the model insists; empty for what does not end it."""


class Gate(Protocol):
    """Judges an answer's tool calls, all together, before any of them is delivered."""

    decisions: list[Json]
    """What it found so far, for the record."""

    def may_wait(self, answer: Answer) -> bool:
        """Whether judging may have to wait for a person."""

    async def judge(self, answer: Answer) -> Withheld | None:
        """None when the calls may be delivered. Raises `Refusal` where the rule is to stop the run."""
