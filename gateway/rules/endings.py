"""How a run comes to its end when a rule stops it: in which status, with which words, on which rung.

An `Ending` is the rule's figures; what is done about it is a `Landing` of the policy (`stop`, `wrap_up`,
`final_message`, `downgrade`, `kill`). What a caller reads names the rule, the run, the limit and the value,
and nothing of what the run was about.
"""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.admission import Denied, Ending, RunView
from gateway.domain import Millis, RunStatus, usd, usd_about
from gateway.errors import GatewayError, Refusal, Ruling
from gateway.policy.models import Policy
from gateway.rules.kills import parse_kill_name

_STATUS = {
    "step_limit_exceeded": RunStatus.STOPPED_STEPS,
    "run_timeout": RunStatus.STOPPED_TIME,
    "token_limit_exceeded": RunStatus.STOPPED_TOKENS,
    "tool_limit_exceeded": RunStatus.STOPPED_TOOLS,
    "loop_detected": RunStatus.STOPPED_LOOP,
    "tool_not_allowed": RunStatus.BLOCKED,
    "approval_denied": RunStatus.BLOCKED,
    "approval_timeout": RunStatus.BLOCKED,
}
_UNDELIVERED = frozenset({"tool_not_allowed", "approval_denied", "approval_timeout"})
_LIMITS = frozenset({"step_limit_exceeded", "run_timeout", "token_limit_exceeded", "tool_limit_exceeded"})


def is_budget(code: str) -> bool:
    """Whether a code says that money has run out."""
    return code.endswith("_budget_exceeded")


def status_of(code: str, rule: str = "") -> RunStatus | None:
    """The status of a run that ends with this code; None for what ends no run, such as a rate."""
    if is_budget(code):
        return RunStatus.STOPPED_BUDGET
    if rule == "kill" and code != "tool_killed":
        return RunStatus.KILLED
    return _STATUS.get(code)


def ending_of(denied: Denied) -> Ending:
    """The figures of a denial, as they are kept with a run that it ends."""
    return Ending(denied.code, denied.rule, denied.per, denied.limit, denied.used)


def action_at(policy: Policy, denied: Denied) -> tuple[str, str | None]:
    """(what the policy does at this limit, the model to go on with); `stop` where it has no choice."""
    if is_budget(denied.code):
        for budget in policy.budgets:
            if budget.name == denied.rule:
                return budget.on_exceed, budget.to
    elif denied.code in _LIMITS and denied.rule.startswith("runs."):
        return policy.runs.on_exceed, policy.runs.to
    return "stop", None


def reason(ending: Ending) -> str:
    """Why a run has ended, in a sentence without its first word's capital."""
    if is_budget(ending.code):
        return (
            f"budget '{ending.rule}' of this {ending.per} has no room: limit ${usd(ending.limit)}, spent and "
            f"reserved ${usd(ending.used)}"
        )
    if ending.code in _UNDELIVERED:
        return f"it insisted on tool calls that could not be delivered ({ending.code})"
    if ending.code == "loop_detected":
        return f"rule '{ending.rule}' found a loop: limit {ending.limit}, seen {ending.used}"
    return f"limit '{ending.rule}' is reached: limit {ending.limit}, now {ending.used}"


def refusal_for(ending: Ending, run_id: str, *, landed: bool = False) -> Refusal:
    """The refusal of a step because of an ending; `landed` when the run has had its last step already."""
    why = reason(ending)
    after = " It has given its last answer and must not go on." if landed else ""
    return Refusal(
        Ruling(ending.code, ending.rule, ending.per, ending.limit, ending.used, is_budget(ending.code)),
        f"{why[0].upper()}{why[1:]} (run {run_id}).{after}",
    )


def final_text(ending: Ending, run_id: str) -> str:
    """What the gateway says in the model's place when a run ends without a last step."""
    return (
        f"This run was stopped before it was finished: {reason(ending)}. No further model or tool calls were "
        f"made, so the task may be incomplete. (Run {run_id}, {ending.code}.)"
    )


def refusal_of(denied: Denied, run: RunView, *, money: bool = False) -> GatewayError:
    """The error that a denial becomes: its message names the rule, the run, the limit and the value. `money`
    says that a rate's limit is in nano-dollars."""
    if denied.rule == "kill":
        scope, _ = parse_kill_name(denied.per if denied.per == "global" else f"{denied.per}:")
        why = f" Reason: {denied.reason}" if denied.reason else ""
        return Refusal(
            Ruling(denied.code, "kill", scope, 0, 0),
            f"An operator has stopped this {scope}; run {run.run_id} must not go on.{why}",
        )
    if run.landed and run.landed != run.retry_ordinal:
        return refusal_for(ending_of(denied), run.run_id, landed=True)
    budget = is_budget(denied.code)
    money = money or budget
    resets = _instant(denied.resets_at) if denied.resets_at else None
    ruling = Ruling(denied.code, denied.rule, denied.per, denied.limit, denied.used, money, resets)
    if budget:
        until = f" It is fresh at {resets}." if resets else ""
        message = (
            f"Budget '{denied.rule}' of this {denied.per} has no room: limit ${usd(denied.limit)}, spent and "
            f"reserved ${usd(denied.used)}, this step needs ${usd_about(denied.need)} "
            f"(run {run.run_id}).{until}"
        )
    elif denied.code in ("rate_limit_exceeded", "concurrency_limit_exceeded"):
        show = (lambda nano: f"${usd(nano)} a minute") if money else str
        message = (
            f"Rate '{denied.rule}' of this {denied.per} is used up: limit {show(denied.limit)}, now "
            f"{show(denied.used)} (run {run.run_id})."
        )
    else:
        message = (
            f"Limit '{denied.rule}' is reached: limit {denied.limit}, now {denied.used} (run {run.run_id})."
        )
    wait = denied.retry_after_ms / 1000 if denied.retry_after_ms else None
    if denied.code == "rate_limit_exceeded" and (wait is None or wait > 60):
        return Refusal(ruling, message, status=400)
    return Refusal(ruling, message, retry_after_s=wait)


def _instant(at: Millis) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat().replace("+00:00", "Z")
