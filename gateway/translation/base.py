"""What a translation is: a client that speaks one wire API served by a provider that speaks another.

    client body ──request──► provider body          provider stream ──StreamTranslation──► client stream
    client reply ◄──answer── provider reply         provider error ──error──► the client's error shape

A request is carried whole or refused: what the provider's API cannot say is a `CallerError` that names the
field, unless leaving it out changes nothing that the model is told, does or costs at the provider
(docs/decisions/0007-translation.md lists what is left out, and why). What comes from a provider is read
tolerantly: an oddity is no reason to lose an answer.
"""

from __future__ import annotations

from typing import Protocol

from gateway.domain import Json, Surface
from gateway.values import frozen


@frozen
class OutputLimit:
    """How an output limit is written upstream where the client's words do not settle it."""

    tokens: int = 8192
    """For an API that demands a limit, when the client named none."""
    field: str = "max_completion_tokens"
    """What a chat provider calls it; older servers know `max_tokens` alone."""


DEFAULT_LIMIT = OutputLimit()


class StreamTranslation(Protocol):
    """One answer's stream on its way to the client."""

    def feed(self, events: bytes) -> bytes:
        """Whole events of the provider in, the client's events out; empty when there is nothing to tell yet.

        An error event of the provider becomes the client's own, and nothing follows it but `end`.
        """

    def end(self) -> bytes:
        """What the client's grammar still needs after the provider's last event: usage and the terminator.

        A stream that broke off before its answer was finished ends in an error, since clients take a plain
        end for success. A second call gives nothing.
        """


class Translation(Protocol):
    """From one client API to one provider API. Holds no state: one instance serves every call."""

    client: Surface
    upstream: Surface

    def request(self, body: Json, limit: OutputLimit = DEFAULT_LIMIT) -> Json:
        """The provider's body for a client's, which is not changed; parts of it may be shared.

        Raises `CallerError` `invalid_request` with `param` for what cannot be carried or is malformed.
        """

    def answer(self, reply: Json, request: Json, *, created: int = 0) -> Json:
        """A provider's 2xx reply as the client's, usage in the client's semantics.

        `request` is the client's own body; `created` is now, in seconds since the Unix epoch,
        which not every API tells.
        """

    def error(self, status: int, reply: bytes) -> bytes:
        """A provider's error body in the client's shape; its message, type and code where it has them."""

    def stream(self, request: Json, *, created: int = 0) -> StreamTranslation:
        """The translation of one stream; arguments as for `answer`."""
