"""What is known about one step while it passes through the gateway, and what it tells the caller."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.admission import RunView
from gateway.domain import Headers, Millis, Nano, Principal, Step, Surface, Verdict, usd
from gateway.errors import ErrorContext
from gateway.rules.budgets import Scopes
from gateway.rules.identity import Hints
from gateway.rules.lineage import Chain
from gateway.values import frozen

if TYPE_CHECKING:
    from gateway.steps.attempt import Attempt

_ID_BYTES = 12
_random: list[bytes] = []
"""Random bytes not yet used. Every step needs five ids, and one system call brings enough for fifty steps."""


def new_id(prefix: str) -> str:
    """A fresh identifier, 96 random bits. None holds "429": some agents take an error in whose text they find
    that for a rate limit, wait a minute and ask again, and ids stand in every refusal."""
    while True:
        if not _random:
            fresh = os.urandom(_ID_BYTES * 256)
            _random.extend(fresh[i : i + _ID_BYTES] for i in range(0, len(fresh), _ID_BYTES))
        made = _random.pop().hex()
        if "429" not in made:
            return f"{prefix}_{made}"


# Two processes must never draw from the same bytes.
os.register_at_fork(after_in_child=_random.clear)


@dataclass(slots=True)
class Trail:
    """One request as it will be told to OpenTelemetry and to the log, once it has ended."""

    turn: Turn | None = None
    attempts: list[Attempt] = field(default_factory=list)
    """Those that have ended, in this order."""
    found_at: float = 0.0
    """`time.perf_counter()` when its run was known."""
    ended: bool = False
    """The request has; what comes now is a provider's background work."""

    def found(self, turn: Turn) -> None:
        """Its run is known."""
        self.turn, self.found_at = turn, time.perf_counter()

    def end(self) -> None:
        """Hold on to nothing any more: attempts know their trail, and would keep each other alive."""
        self.ended, self.turn, self.attempts = True, None, []


@dataclass(slots=True)
class Facts:
    """What response headers say. Filled as it becomes known, read when the head of the answer is written."""

    surface: Surface
    policy: str
    request_id: str
    decision_id: str
    run_id: str | None = None
    session: str | None = None
    step: int | None = None
    source: str | None = None
    model: str | None = None
    verdict: Verdict = Verdict.ALLOW
    checks: list[str] = field(default_factory=list)
    cost: Nano | None = None
    run_cost: Nano | None = None
    run_remaining: Nano | None = None
    recorded_until: Millis = 0
    """What the step holds is recorded, and forgotten then; 0 where it is not recorded."""
    trail: Trail | None = None
    """What is kept of the request until its end, to be told then."""

    def _id_names(self) -> tuple[bytes, ...]:
        if self.surface is Surface.MESSAGES:
            return (b"x-request-id", b"request-id")
        return (b"x-request-id",)

    def context(self) -> ErrorContext:
        """The identifiers that belong into an error."""
        return ErrorContext(self.request_id, self.run_id, self.decision_id)

    def headers(self, given: Headers) -> Headers:
        """The headers of an answer: those `given`, and the gateway's own as far as known now.

        A provider's own request id is worth more to its reader than ours.
        """
        names = {name for name, _ in given}
        out: Headers = [
            *given,
            *((name, self.request_id.encode()) for name in self._id_names() if name not in names),
            (b"x-guardrail-decision-id", self.decision_id.encode()),
            (b"x-guardrail-verdict", self.verdict.value.encode()),
            (b"x-guardrail-policy", self.policy.encode()),
            (b"x-guardrail-checks", ",".join(self.checks).encode()),
        ]
        if self.run_id is not None:
            out.append((b"x-guardrail-run-id", self.run_id.encode()))
        if self.session is not None:
            out.append((b"x-guardrail-session-id", self.session.encode()))
        if self.step is not None:
            out.append((b"x-guardrail-step", b"%d" % self.step))
        if self.source is not None:
            out.append((b"x-guardrail-run-source", self.source.encode()))
        if self.model is not None:
            out.append((b"x-guardrail-model", self.model.encode("latin-1", "replace")))
        for name, value in (
            (b"x-guardrail-cost-usd", self.cost),
            (b"x-guardrail-run-cost-usd", self.run_cost),
            (b"x-guardrail-run-remaining-usd", self.run_remaining),
        ):
            if value is not None:
                out.append((name, usd(max(value, 0)).encode()))
        return out


@frozen
class Turn:
    """One step with everything that identifies it. Made once its run is known."""

    caller: Principal
    step: Step
    hints: Hints
    tags: dict[str, str]
    run: RunView
    scopes: Scopes
    chain: Chain
    retry_key: str
    policy: str
    began_at: Millis
    clock: float
    """`time.perf_counter()` when the request was read."""
    stored_tokens: int
    """Input that the provider keeps, besides what the request shows."""
    kept_at: str = ""
    """The provider that keeps the conversation which the request goes on from."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """The tool results that are new with this step: `call_id name status error_type ok`."""

    def meta(self) -> dict[str, Any]:
        """What the ledger keeps of a run besides its sums."""
        return {
            "principal": self.caller.id,
            "key": self.caller.key,
            "user": self.scopes.user,
            "team": self.caller.team,
            "end_user": self.hints.end_user,
            "session": self.run.session,
            "name": self.run.name,
            "source": self.run.source.value,
            "agent": self.scopes.agent,
            "tags": self.tags,
            "surface": self.step.surface.value,
            "policy": self.policy,
            "continues": self.run.continues,
            "parent": self.run.ancestors[0] if self.run.ancestors else None,
            "root": self.run.ancestors[-1] if self.run.ancestors else None,
            "started_at": self.run.started_at,
        }
