"""One attempt at delivering an alert: signed, sent once, and what its answer means."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from gateway.alerting.formats import written
from gateway.policy.sections.operations import Alert
from gateway.protocols import Clock
from gateway.upstreams.transport import (
    Timeouts,
    Transport,
    TransportError,
    UnsendableError,
    UpstreamReply,
    UpstreamRequest,
)

MAX_RETRY_AFTER_S = 3600.0
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0
_TIMEOUTS = Timeouts(connect_s=5, first_byte_s=10, idle_s=10, total_s=10)
_MAX_REPLY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt. `problem` is empty when it arrived; `again` says whether to try again, not
    before `wait_s` seconds."""

    problem: str
    again: bool = False
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Courier:
    """Sends deliveries. `key` signs for alerts that have no secret of their own."""

    transport: Transport
    clock: Clock
    key: bytes = field(repr=False)

    async def attempt(self, rule: Alert, kind: str, incident: str, bodies: Sequence[str]) -> Answer:
        """Send one message about the events of `bodies`, each in our own format, all of one kind and, where
        there are several, of one incident."""
        try:
            reply = await self.transport.send(self._request(rule, kind, _message(rule, incident, bodies)))
            try:
                await reply.read(_MAX_REPLY_BYTES)
            except TransportError:
                pass  # The status has come; what the receiver says beside it interests nobody.
            finally:
                await reply.aclose()
        except TransportError as error:
            return Answer(f"{error.phase}: {error.kind}", again=True)
        except UnsendableError:
            return Answer("its URL cannot be sent to")
        status = reply.status
        if 200 <= status < 300:
            return Answer("")
        # PagerDuty asks that nothing else be sent again.
        again = status == 429 or status >= 500 or (status == 408 and rule.format != "pagerduty")
        return Answer(f"HTTP {status}", again, self._retry_after(reply) if again else 0.0)

    def _request(self, rule: Alert, kind: str, body: bytes) -> UpstreamRequest:
        key = self.key
        if rule.secret is not None and rule.format != "pagerduty":
            key = rule.secret.get_secret_value().encode()
        timestamp = str(self.clock() // 1000)
        return UpstreamRequest(
            "POST",
            rule.url.get_secret_value(),
            [
                (b"content-type", b"application/json"),
                (b"user-agent", b"guardrail-gateway"),
                (b"x-guardrail-event", kind.encode()),
                (b"x-guardrail-timestamp", timestamp.encode()),
                (b"x-guardrail-signature", f"sha256={signature(key, timestamp, body)}".encode()),
            ],
            body,
            _TIMEOUTS,
        )

    def _retry_after(self, reply: UpstreamReply) -> float:
        for name, value in reply.headers:
            if name != b"retry-after":
                continue
            if value.isdigit():
                return min(float(value), MAX_RETRY_AFTER_S)
            try:
                at = parsedate_to_datetime(value.decode("latin-1"))
            except ValueError:
                return 0.0
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
            return min(max(0.0, at.timestamp() - self.clock() / 1000), MAX_RETRY_AFTER_S)
        return 0.0


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of `timestamp.body`, hexadecimal."""
    return hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def pause_s(attempts: int, first_s: float = FIRST_PAUSE_S) -> float:
    """Seconds until the next attempt after so many: three times longer each time up to five minutes, each a
    quarter more or less."""
    base: float = min(first_s * 3.0 ** min(max(attempts, 1) - 1, 20), LONGEST_PAUSE_S)
    return base * random.uniform(0.75, 1.25)


def _message(rule: Alert, incident: str, bodies: Sequence[str]) -> bytes:
    if rule.format == "generic":
        # As it was written when the event was raised: the same bytes with each attempt.
        return bodies[0].encode()
    events = [json.loads(body) for body in bodies]
    routing_key = ""
    if rule.format == "pagerduty" and rule.secret is not None:
        routing_key = rule.secret.get_secret_value()
    return written(rule.format, events, incident=incident, routing_key=routing_key)
