"""What a wire API is to the gateway: one module each, listed in `CODECS`, pure functions over bytes and JSON.

    bytes ──parse──► Step ──forward──► bytes for a provider of the same API
    reply ──read_answer──► Answer        stream ──AnswerStream──► the same stream, and an Answer

Everything the client sent is forwarded whether it is known here or not; what is read is only what metering,
lineage and the rules need. Nothing here knows budgets, stores or sockets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from gateway.domain import Answer, Step
from gateway.errors import ErrorContext, GatewayError


class AnswerStream(Protocol):
    """One answer's event stream: fed as it comes, it gives back what the client is to receive.

    Whole events only, so that a stream which dies can still be ended with an error that every client reads.
    """

    usage: Mapping[str, Any] | None
    """What `metering.usage.read_usage` reads: the last object that carried usage, events folded where the
    surface spreads it over several. None until one came."""
    done: bool
    """The surface's terminal event has come."""
    error: bool
    """The provider itself told of an error in the stream."""
    tools_called: set[str]
    """Names of the tools called so far."""
    output_bytes: int
    """UTF-8 bytes of text, reasoning and arguments received: what was generated so far, each counted once."""
    model: str | None
    response_id: str | None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client; empty while an event is incomplete. Raises `EventTooLargeError`."""

    @property
    def finished(self) -> bool:
        """The answer is complete: what is left is usage and the terminator."""

    @property
    def clean(self) -> bool:
        """The stream has ended as the provider meant it to; an error event of its own is such an end."""

    @property
    def pending(self) -> bytes:
        """Bytes after the last whole event."""

    def answer(self) -> Answer:
        """Everything received so far, as one answer."""

    def failure(self, error: GatewayError, context: ErrorContext, *, codex: bool) -> bytes:
        """The ending that every client of this surface notices, after the first byte. `codex` is for Codex,
        which stops on a few codes alone."""


class Codec(Protocol):
    """One wire API; a module of `gateway.surfaces` is one."""

    def parse(self, raw: bytes, *, max_depth: int = ...) -> Step:
        """The step that a request body asks for, or `CallerError` naming the field that is wrong."""

    def forward(
        self,
        step: Step,
        *,
        model: str,
        limit_field: str,
        output_limit: int | None,
        inject_usage: bool,
        withheld: Collection[str] = ...,
    ) -> bytes:
        """The body to send upstream: the client's own, with the model's real name, the output limit when the
        gateway sets one (under `limit_field` where the surface has two names for it), a stream's usage asked
        for, and the definitions of `withheld` tools left out."""

    def read_answer(self, reply: Mapping[str, Any]) -> Answer:
        """What a plain reply says. Tolerant: a provider's oddity is no reason to lose an answer."""

    def stream(self, *, strip_usage: bool) -> AnswerStream:
        """The reader of one stream. `strip_usage` removes the usage that the gateway asked for and the client
        did not, on surfaces where usage has to be asked for."""
