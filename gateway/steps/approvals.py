"""Tool calls that wait for an operator: the data plane's side of approvals.

    ask ──► the request is kept, or the one that stands for this call is found
              │ pending: listeners are told, the call is held
              ▼
            a decision, here at once or from another process within half a second; else it stays pending

A held call ends with its request still pending; the agent is told so and asks again with the same call,
which finds the decision. What is allowed is the very call that was shown: tool and arguments are one digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gateway.domain import Nano, ToolCall
from gateway.protocols import Clock
from gateway.steps.turn import Turn, new_id
from gateway.stores.ledger import LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_approvals import ApprovalRecord
from gateway.values import frozen

log = logging.getLogger("gateway.approvals")

POLL_S = 0.5
"""How late a decision made in another process can be seen."""
_UNREADABLE = (LedgerUnavailable, LedgerOnAnotherHost)


@frozen
class ApprovalRequest:
    """A tool call that needs a decision, and whose it is."""

    principal: str
    key: str
    user: str | None
    team: str | None
    session: str
    run: str
    tool: str
    arguments: str
    """As the model wrote them."""
    policy: str
    """Version of the policy that wants the approval; another version asks anew."""
    cost: Nano
    """What the run has cost so far."""
    expires_s: float
    about: Mapping[str, Any]
    """What else listeners are told, so that an alert can be narrowed: `Turn.meta`."""

    @classmethod
    def of(cls, turn: Turn, call: ToolCall, *, policy: str, expires_s: float) -> ApprovalRequest:
        """The request for one call of this step's answer."""
        return cls(
            principal=turn.caller.id,
            key=turn.caller.key,
            user=turn.scopes.user,
            team=turn.caller.team,
            session=turn.run.session,
            run=turn.run.run_id,
            tool=call.name,
            arguments=call.arguments,
            policy=policy,
            cost=turn.run.cost,
            expires_s=expires_s,
            about={**turn.meta(), "model": turn.step.model},
        )


@dataclass(slots=True)
class Approvals:
    """One per worker. `link` makes the address of a path of the admin API."""

    ledger: SqlLedger
    clock: Clock
    notify: Callable[[str, dict[str, Any]], None]
    link: Callable[[str], str]
    _waiting: dict[str, set[asyncio.Future[ApprovalRecord]]] = field(default_factory=dict)
    _following: asyncio.Task[None] | None = None

    async def ask(self, request: ApprovalRequest, hold_s: float) -> ApprovalRecord:
        """The decision over a call as it stands after at most `hold_s` seconds.

        An `approved` one still has to be used, by `use`, before the call is delivered. Raises
        `LedgerUnavailable`: nothing is known then, and the call must not pass. When the caller leaves or is
        killed the request stays open.
        """
        now = self.clock()
        arguments = canonical(request.arguments)
        asked = ApprovalRecord(
            id=new_id("apr"),
            created_at=now,
            expires_at=now + int(request.expires_s * 1000),
            principal=request.principal,
            key=request.key,
            user=request.user,
            team=request.team,
            session=request.session,
            run=request.run,
            tool=request.tool,
            arguments=arguments,
            truncated=False,
            digest=digest(request.tool, arguments),
            policy=request.policy,
            cost=request.cost,
        )
        try:
            record = await self.ledger.request_approval(asked)
        except LedgerOnAnotherHost as error:
            raise LedgerUnavailable(str(error)) from error
        if record.id == asked.id:
            self._tell(record, request.about)
        if record.state != "pending":
            return record
        record = await self._hold(record, hold_s)
        return record.standing(self.clock())

    async def use(self, *records: ApprovalRecord) -> bool:
        """Use up the approvals of the calls of one answer, all or none. False when another answer used one of
        them meanwhile, or one has expired: the calls must not pass. Raises `LedgerUnavailable`."""
        try:
            return await self.ledger.use_approvals([record.id for record in records], self.clock())
        except LedgerOnAnotherHost as error:
            raise LedgerUnavailable(str(error)) from error

    def decided(self, record: ApprovalRecord) -> None:
        """Wake the calls of this worker that wait for this decision."""
        for waiter in self._waiting.get(record.id, ()):
            if not waiter.done():
                waiter.set_result(record)

    async def close(self) -> None:
        """Stop looking for decisions."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def _tell(self, record: ApprovalRecord, about: Mapping[str, Any]) -> None:
        facts = {
            **about,
            "approval": record.id,
            "tool": record.tool,
            "arguments": record.arguments,
            "truncated": record.truncated,
            "run": record.run,
            "session": record.session,
            "key": record.key,
            "user": record.user,
            "team": record.team,
            "cost": record.cost,
            "expires_at": record.expires_at,
            "link": self.link(f"/approvals/{record.id}"),
        }
        self.notify("approval_requested", facts)

    async def _hold(self, record: ApprovalRecord, hold_s: float) -> ApprovalRecord:
        hold_s = min(hold_s, (record.expires_at - self.clock()) / 1000)
        if hold_s <= 0:
            return record
        waiter: asyncio.Future[ApprovalRecord] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(record.id, set())
        waiters.add(waiter)
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow(), name="approvals")
        try:
            async with asyncio.timeout(hold_s):
                return await waiter
        except TimeoutError:
            return await self._last_look(record)
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(record.id, None)

    async def _last_look(self, record: ApprovalRecord) -> ApprovalRecord:
        try:
            return await self.ledger.approval(record.id) or record
        except _UNREADABLE:
            return record

    async def _follow(self) -> None:
        """Look for decisions of other processes, once for all calls that wait here, while any does."""
        while self._waiting:
            await asyncio.sleep(POLL_S)
            try:
                decided = await self.ledger.decided_approvals(list(self._waiting))
            except _UNREADABLE as error:
                log.debug("decisions cannot be read: %s", error)
                continue
            for record in decided:
                self.decided(record)


# -- which call it is --------------------------------------------------------------------------------


def digest(tool: str, arguments: str) -> str:
    """SHA-256 of a call, hexadecimal. `arguments` are canonical."""
    parts = (part.encode("utf-8", "surrogatepass") for part in (tool, "\0", arguments))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def canonical(arguments: str) -> str:
    """Arguments with keys in order and without space, so that a model that writes them anew means the same.

    Only what every reader understands alike is rewritten. A text that is no JSON, that names a key twice or
    has a number beyond a double stays as it is: an agent might read something else than the operator saw.
    """
    try:
        value = json.loads(
            arguments, object_pairs_hook=_object, parse_float=_exact, parse_constant=_no_constant
        )
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        text.encode()
    except (ValueError, ArithmeticError, RecursionError):
        return arguments
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _exact(text: str) -> float:
    number = float(text)
    if Decimal(repr(number)) != Decimal(text):
        raise ValueError("a number that is not exactly what it says")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
