"""The provider's own account of what it received and what it would bill.

It is written by the simulated provider alone and knows nothing of the gateway's ledger, so that the two can
be held against each other. Tokens are counted while they are generated: an attempt that ends early bills
the input and what was generated until the provider noticed.
"""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from gateway.domain import Json, Millis, Surface, Usage

RawHeaders = list[tuple[bytes, bytes]]


def now_ms() -> Millis:
    """The wall clock."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Attempt:
    """One request as it arrived, and all that came of it. Times are Unix milliseconds."""

    number: int
    """From 1, in order of arrival."""
    id: str
    """Minted by the provider; returned as `x-request-id`."""
    received_at: Millis
    method: str
    path: str
    """With the query."""
    raw_headers: RawHeaders = field(repr=False)
    body: bytes = field(repr=False)
    guardrail_attempt_id: str | None = None
    """The request's `x-guardrail-attempt-id`."""
    surface: Surface | None = None
    model: str | None = None
    stream: bool = False
    scenario: str | None = None
    answer_id: str | None = None
    """The id in the answer that was made, whether or not it arrived."""
    status: int = 0
    """0 if no head was sent."""
    prompt_tokens: int = 0
    """Billed input, cached tokens included; 0 unless an answer was begun."""
    cached_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    completion_tokens: int = 0
    """Generated so far, reasoning included."""
    reasoning_tokens: int = 0
    """How many of the answer's tokens are reasoning; they are generated first."""
    searches: int = 0
    """Web searches the provider ran, billed by the piece."""
    seconds: int = 0
    """Audio billed by its duration."""
    chunks: int = 0
    """Events of a stream handed to the socket whole."""
    body_bytes: int = 0
    """Body bytes handed to the socket."""
    bytes_written: int = 0
    """All bytes handed to the socket, head and framing included."""
    usage_reported: bool = False
    """A usage object went out whole."""
    cut: str | None = None
    """`fin`, `rst` or `clean` if the script broke the answer off."""
    client_left: bool = False
    client_left_at: Millis | None = None
    client_left_at_chunk: int | None = None
    finished_at: Millis | None = None
    """`None` while the provider is busy with it."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Request headers in order, names as sent."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw_headers]

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case."""
        wanted = name.lower().encode("latin-1")
        return next(
            (value.decode("latin-1") for key, value in self.raw_headers if key.lower() == wanted), None
        )

    @property
    def served(self) -> Usage:
        """What the provider would bill, in disjoint buckets."""
        cached = min(self.cached_tokens, self.prompt_tokens)
        written_5m = min(self.cache_write_5m_tokens, self.prompt_tokens - cached)
        written_1h = min(self.cache_write_1h_tokens, self.prompt_tokens - cached - written_5m)
        reasoning = min(self.reasoning_tokens, self.completion_tokens)
        return Usage(
            input_uncached=self.prompt_tokens - cached - written_5m - written_1h,
            cache_read=cached,
            cache_write_5m=written_5m,
            cache_write_1h=written_1h,
            output_text=self.completion_tokens - reasoning,
            output_reasoning=reasoning,
            tool_requests=self.searches,
            source="provider",
        )

    def as_json(self, bodies: bool = True) -> Json:
        """All fields; the body as text, or as `body_base64` where it is not UTF-8."""
        shown: Json = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("raw_headers", "body")
        }
        served = self.served
        shown["headers"] = self.headers
        shown["served"] = {
            "input_uncached": served.input_uncached,
            "cache_read": served.cache_read,
            "cache_write_5m": served.cache_write_5m,
            "cache_write_1h": served.cache_write_1h,
            "output_text": served.output_text,
            "output_reasoning": served.output_reasoning,
            "tool_requests": served.tool_requests,
        }
        if bodies:
            try:
                shown["body"] = self.body.decode()
            except UnicodeDecodeError:
                shown["body_base64"] = base64.b64encode(self.body).decode()
        return shown


@dataclass(slots=True)
class Totals:
    """Sums over finished attempts, dropped ones included."""

    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    searches: int = 0
    seconds: int = 0
    clients_left: int = 0
    bytes_written: int = 0

    def add(self, attempt: Attempt) -> None:
        """Count a finished attempt in."""
        served = attempt.served
        self.attempts += 1
        self.prompt_tokens += attempt.prompt_tokens
        self.cached_tokens += served.cache_read
        self.cache_write_tokens += served.cache_write_5m + served.cache_write_1h
        self.completion_tokens += attempt.completion_tokens
        self.reasoning_tokens += served.output_reasoning
        self.searches += attempt.searches
        self.seconds += attempt.seconds
        self.clients_left += attempt.client_left
        self.bytes_written += attempt.bytes_written


class Journal:
    """Attempts in order of arrival.

    The oldest are dropped beyond `keep` attempts or `keep_body_bytes` of request bodies: `dropped` says how
    many, and `totals` still counts them. `keep=0` keeps sums alone.
    """

    def __init__(self, keep: int = 100_000, keep_body_bytes: int = 512 << 20) -> None:
        self.keep = keep
        self.keep_body_bytes = keep_body_bytes
        self.totals = Totals()
        self.dropped = 0
        self.received = 0
        self.active = 0
        """Attempts the provider is busy with."""
        self._attempts: deque[Attempt] = deque()
        self._body_bytes = 0

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        # A copy: the server may run in another thread, and a deque may not change while it is walked.
        return iter(list(self._attempts))

    def __getitem__(self, index: int) -> Attempt:
        return self._attempts[index]

    @property
    def last(self) -> Attempt:
        """The newest attempt. Raises: `IndexError` if there is none."""
        return self._attempts[-1]

    def begin(self, attempt: Attempt) -> None:
        """Note an attempt that has arrived; every one is ended by `finish`."""
        self.received += 1
        self.active += 1
        self._attempts.append(attempt)
        self._body_bytes += len(attempt.body)
        while self._attempts and (len(self._attempts) > self.keep or self._body_bytes > self.keep_body_bytes):
            self._body_bytes -= len(self._attempts.popleft().body)
            self.dropped += 1

    def finish(self, attempt: Attempt) -> None:
        """Close the attempt; once."""
        if attempt.finished_at is None:
            attempt.finished_at = now_ms()
            self.active -= 1
            self.totals.add(attempt)

    def clear(self) -> None:
        """Forget all attempts and sums; numbers go on, and attempts under way still finish."""
        self._attempts.clear()
        self._body_bytes = 0
        self.dropped = 0
        self.totals = Totals()

    def as_json(self, since: int = 0, bodies: bool = True) -> Json:
        """Attempts with a number above `since`, and the sums."""
        chosen: Iterable[Attempt] = (attempt for attempt in self if attempt.number > since)
        totals: dict[str, Any] = {f.name: getattr(self.totals, f.name) for f in fields(self.totals)}
        return {
            "attempts": [attempt.as_json(bodies) for attempt in chosen],
            "totals": totals,
            "active": self.active,
            "received": self.received,
            "dropped": self.dropped,
        }
