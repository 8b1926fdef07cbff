"""Event-stream framing: bytes in, whole events out.

Events arrive split at any byte. Only whole ones are passed on, so that a stream which dies can still be
ended with an error event that every client can read.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""No provider's event comes near this; an endless line is cut here instead of filling the memory."""

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_BOUNDARY_BYTES = 4
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLargeError(Exception):
    """The upstream sent more than `MAX_EVENT_BYTES` without ending an event."""


class EventSplitter:
    """Cuts a byte stream into events, each with the blank line that ends it."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, in order; together they are exactly the bytes fed so far,
        less what `pending` still holds."""
        if not self._buffer and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            if chunk.count(b"\n\n") == 1:
                return [chunk]
            return [event + b"\n\n" for event in chunk[:-2].split(b"\n\n")]
        data = self._buffer + chunk
        events: list[bytes] = []
        start = 0
        # What was looked at before holds no boundary, except one that only its last bytes begin.
        for match in _BOUNDARY.finditer(data, max(0, len(self._buffer) - _BOUNDARY_BYTES)):
            if match.end() == len(data) and data.endswith(b"\r\n\r"):
                break
            events.append(data[start : match.end()])
            start = match.end()
        self._buffer = data[start:]
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        return events

    @property
    def pending(self) -> bytes:
        """Bytes of an event that is not complete."""
        return self._buffer


def data_of(event: bytes) -> bytes | None:
    """The payload of an event: its `data:` lines joined; None for comments and empty events."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n"):
        return event[6:-2]
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in _LINE_END.split(event)
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
