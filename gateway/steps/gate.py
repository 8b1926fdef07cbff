"""What becomes of the tool calls of an answer: delivered together, or not at all.

    contracts   what the calls are: offered, allowed, in order, within their rules   (pure, at once)
    approvals   calls that need a person                                             (may wait)
    quotas      taken atomically in the store                                        (one round trip)

When one call of a turn cannot be delivered none is: the model then hears about each, and the client never
holds a call whose sibling it has not seen. A contract in shadow mode only leaves its decision on record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain import Answer, Json, ToolCall
from gateway.errors import GatewayError, Refusal, Ruling
from gateway.policy.models import Policy
from gateway.protocols import Store
from gateway.rules.contracts import Contracts, Violation, offers_all, quotas, result_json
from gateway.rules.taint import tainted
from gateway.rules.trace import Trace
from gateway.steps.approvals import ApprovalRequest, Approvals
from gateway.steps.delivery import Gate, Withheld
from gateway.steps.turn import Turn
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_approvals import ApprovalRecord

_INVALID = frozenset({"unknown_tool", "invalid_arguments"})
_DECIDED = frozenset({"approval_denied", "approval_expired", "approval_pending"})
"""There is nothing for the model to repair."""
_NAME_WIDTH = 64
_NOT_MADE = "Not made, because another call of this turn could not be. Make it again if it is needed."
_NO_MORE = "No tool can be used any more. Answer in text, from what you know."


@dataclass(slots=True)
class NoCalls:
    """For an answer that has to be text, or a call of the one tool by which its agent answers."""

    allowed: str | None = None
    gate: Gate | None = None
    """What that call has to pass all the same."""
    decisions: list[Json] = field(default_factory=list)

    def may_wait(self, answer: Answer) -> bool:
        """See `attempt.Gate`."""
        return self.gate is not None and self._is_allowed(answer) and self.gate.may_wait(answer)

    async def judge(self, answer: Answer) -> Withheld | None:
        """Every call is withheld but those of the allowed tool."""
        self.decisions.clear()
        if self._is_allowed(answer):
            if self.gate is None:
                return None
            withheld = await self.gate.judge(answer)
            self.decisions += self.gate.decisions
            return withheld
        self.decisions.append(
            {
                "rule": "tools",
                "mode": "enforce",
                "decision": "withhold",
                "why": "no tool may be used now",
            }
        )
        return Withheld(tuple(_not_executed(call, _NO_MORE) for call in answer.calls), repairable=False)

    def _is_allowed(self, answer: Answer) -> bool:
        return all(call.name == self.allowed for call in answer.calls)


@dataclass(slots=True)
class ToolGate:
    """Judges by the contracts of the policy. One per step."""

    turn: Turn
    policy: Policy
    contracts: Contracts
    """Those that hold for this step."""
    trace: Trace
    unavailable: Mapping[str, str]
    """Tools that are out of order, and what the model is told of each."""
    approvals: Approvals
    store: Store
    decisions: list[Json] = field(default_factory=list)
    _tainted: dict[ToolCall, tuple[str, ...]] = field(default_factory=dict)
    """Arguments of calls that carry values from untrusted results, as far as they were traced."""

    def may_wait(self, answer: Answer) -> bool:
        """Whether a call needs a person's approval."""
        return any(self._asks(call) for call in answer.calls)

    async def judge(self, answer: Answer) -> Withheld | None:
        """See `attempt.Gate`. It judges every round of its step; its decisions are those of the latest."""
        self.decisions.clear()
        calls = answer.calls
        violations = self._judged(calls) or self._over_run_limit(calls)
        granted: list[ApprovalRecord] = []
        if not violations:
            violations = await self._approved([call for call in calls if self._asks(call)], granted)
        if not violations:
            violations = await self._counted(calls)
        if not violations and granted:
            violations = await self._use_up(calls, granted)
        return self._withheld(calls, violations) if violations else None

    def _asks(self, call: ToolCall) -> bool:
        contract = self.contracts.tool(call.name)
        if contract.mode != "enforce":
            return False
        return contract.needs_approval or (contract.on_tainted == "approve" and bool(self._taints(call)))

    def _taints(self, call: ToolCall) -> tuple[str, ...]:
        if call not in self._tainted:
            items = self.turn.step.items
            self._tainted[call] = tainted(call, items, lambda name: self.contracts.tool(name).trusted)
        return self._tainted[call]

    def _carried(self, calls: Sequence[ToolCall]) -> list[Violation]:
        """Calls with values that an outsider may have wanted in them."""
        found = []
        for call in calls:
            action = self.contracts.tool(call.name).on_tainted
            if action == "allow" or not (paths := self._taints(call)):
                continue
            if action in ("flag", "approve"):
                self.decisions.append(
                    {
                        "rule": f"tools.{call.name[:_NAME_WIDTH]}.on_tainted",
                        "mode": self.contracts.tool(call.name).mode,
                        "decision": action,
                        "why": "tainted_argument",
                    }
                )
                continue
            shown = ", ".join(f"'{path[:_NAME_WIDTH]}'" for path in paths[:5])
            told = (
                f"Its argument {shown} holds a value that came from a tool's result and not from the user. "
                "Such values may not be used here. Ask the user, or go on without this call."
            )
            found.append(Violation(call, "tainted_argument", told, "tool_not_allowed"))
        return found

    def _judged(self, calls: Sequence[ToolCall]) -> list[Violation]:
        """What is wrong with the calls themselves, as far as it is acted on."""
        step = self.turn.step
        judged = self.contracts.examine(
            calls,
            step.tools,
            self.trace.facts,
            max_level=self.turn.caller.max_tool_level,
            counts=self.trace.counts,
            complete=offers_all(step),
        )
        found = list(judged.violations)
        found += self._carried(calls)
        found += [
            Violation(call, "tool_unavailable", self.unavailable[call.name], "tool_not_allowed")
            for call in calls
            if call.name in self.unavailable
        ]
        for name in judged.unchecked:
            self.decisions.append(
                {
                    "rule": f"tools.{name[:_NAME_WIDTH]}.on_invalid",
                    "mode": "shadow",
                    "decision": "flag",
                    "why": "its schema cannot be used",
                }
            )
        return [violation for violation in found if self._acts(violation)]

    def _acts(self, violation: Violation) -> bool:
        """Whether a violation is acted on; it is on record either way."""
        contract = self.contracts.tool(violation.call.name)
        if violation.error_type in _INVALID and contract.on_invalid == "deliver":
            return False
        self._record(violation, contract.mode)
        return contract.mode == "enforce"

    def _record(self, violation: Violation, mode: str = "enforce") -> None:
        self.decisions.append(
            {
                "rule": f"tools.{violation.call.name[:_NAME_WIDTH]}",
                "mode": mode,
                "decision": "withhold",
                "why": violation.error_type,
            }
        )

    def _over_run_limit(self, calls: Sequence[ToolCall]) -> list[Violation]:
        runs = self.policy.runs
        made = sum(calls_made for calls_made, _ in self.trace.counts.values())
        if runs.max_tool_calls is None or runs.mode != "enforce" or made + len(calls) <= runs.max_tool_calls:
            return []
        told = (
            f"This run may make {runs.max_tool_calls} tool calls and has made {made}; these are too many. "
            "Make fewer, or answer from what you know."
        )
        self.decisions.append(
            {
                "rule": "runs.max_tool_calls",
                "mode": "enforce",
                "decision": "withhold",
                "why": "quota_exceeded",
            }
        )
        return [Violation(call, "quota_exceeded", told, "tool_limit_exceeded") for call in calls]

    async def _approved(self, calls: Sequence[ToolCall], granted: list[ApprovalRecord]) -> list[Violation]:
        """Ask for each call that needs a person, one after the other. Each needs an approval of its own."""
        policy = self.policy.approvals
        for call in calls:
            request = ApprovalRequest.of(
                self.turn, call, policy=self.turn.policy, expires_s=float(policy.expires_s)
            )
            try:
                record = await self.approvals.ask(request, float(policy.hold_s))
            except LedgerUnavailable as error:
                raise GatewayError(
                    "guardrail_unavailable", "Approvals cannot be asked for; the call was not delivered."
                ) from error
            if record.state != "approved":
                return [self._unapproved(call, record.state, record.reason or "")]
            if record.id in {other.id for other in granted}:
                return [self._twice(call)]
            granted.append(record)
        return []

    def _twice(self, call: ToolCall) -> Violation:
        told = "It was made twice in one turn, and an approval lets one call through. Make it once."
        violation = Violation(call, "approval_used", told, "tool_not_allowed")
        self._record(violation)
        return violation

    async def _use_up(self, calls: Sequence[ToolCall], granted: Sequence[ApprovalRecord]) -> list[Violation]:
        """Use the approvals, all of them or none. Nothing can keep their calls from being delivered then."""
        if not await self.approvals.use(*granted):
            return [self._unapproved(call, "pending", "") for call in calls if self._asks(call)]
        for record in granted:
            self.decisions.append(
                {
                    "rule": f"tools.{record.tool[:_NAME_WIDTH]}.requires_approval",
                    "mode": "enforce",
                    "decision": "approved",
                    "approval": record.id,
                    "by": record.decided_by,
                }
            )
        return []

    def _unapproved(self, call: ToolCall, state: str, why: str) -> Violation:
        if state == "denied":
            because = f" Reason: {why}" if why else ""
            told = f"An operator has refused this call.{because} Do not make it again."
            kind, code = "approval_denied", "approval_denied"
        elif state == "expired":
            told = "Nobody decided on this call in time. Do not make it again unless the user asks for it."
            kind, code = "approval_expired", "approval_timeout"
        else:
            told = (
                "This call is pending: it waits for the approval of an operator and was not made. Tell the "
                "user; when you are asked to go on, make the very same call again to learn the decision."
            )
            kind, code = "approval_pending", "approval_timeout"
        violation = Violation(call, kind, told, code)
        self._record(violation)
        return violation

    async def _counted(self, calls: Sequence[ToolCall]) -> list[Violation]:
        wanted = quotas(calls, self.contracts, self.turn.scopes)
        if not wanted:
            return []
        taken = await self.store.take(wanted)
        for quota, used in zip(wanted, taken.used, strict=True):
            if not quota.enforced and used + quota.amount > quota.limit:
                self.decisions.append({"rule": quota.rule, "mode": "shadow", "decision": "withhold"})
        if taken.refused < 0:
            return []
        quota, used = wanted[taken.refused], taken.used[taken.refused]
        name, _, key = quota.rule.removeprefix("tools.").rpartition(".")
        per = key.removeprefix("max_calls_per_")
        told = (
            f"It may be called {quota.limit} times per {per} and was called {used} times. Go on without it."
        )
        if per == "minute":
            told = f"It may be called {quota.limit} times per minute. Wait before you call it again."
        found = [
            Violation(call, "quota_exceeded", told, "tool_limit_exceeded")
            for call in calls
            if call.name == name
        ]
        for violation in found:
            self._record(violation)
        return found

    def _withheld(self, calls: Sequence[ToolCall], violations: Sequence[Violation]) -> Withheld:
        told: dict[int, str] = {}
        repairable = True
        for violation in violations:
            contract = self.contracts.tool(violation.call.name)
            invalid = violation.error_type in _INVALID
            tainted_by = violation.error_type == "tainted_argument"
            rule = contract.on_tainted if tainted_by else contract.on_violation
            if (contract.on_invalid if invalid else rule) == "stop":
                raise self._refusal(violation)
            if (invalid and contract.on_invalid == "error") or violation.error_type in _DECIDED:
                repairable = False
            told.setdefault(id(violation.call), result_json(violation))
        first = violations[0]
        return Withheld(
            tuple(told.get(id(call)) or _not_executed(call, _NOT_MADE) for call in calls),
            repairable,
            f"The call of tool '{first.call.name[:_NAME_WIDTH]}' was not made ({first.error_type}). "
            f"{first.message}",
            "" if first.error_type == "approval_pending" else first.code,
        )

    def _refusal(self, violation: Violation) -> Refusal:
        name = violation.call.name[:_NAME_WIDTH]
        return Refusal(
            Ruling(violation.code, f"tools.{name}", "tool", 0, 0),
            f"The call of tool {name!r} was not delivered: {violation.error_type} (run "
            f"{self.turn.run.run_id}).",
        )


def _not_executed(call: ToolCall, message: str) -> str:
    return result_json(Violation(call, "not_executed", message, ""))
