"""Limits in money, in steps and in calls over time, and what happens to a run that reaches one."""

from __future__ import annotations

from datetime import tzinfo
from typing import Literal

from gateway.domain import NANO_PER_USD, Nano
from gateway.policy.fields import (
    Count,
    Factor,
    Label,
    Landing,
    LimitUsd,
    Mode,
    ModelName,
    Name,
    OnFailure,
    OutputTokens,
    Prose,
    Scope,
    Seconds,
    Share,
    Timezone,
    Window,
    zone,
)
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match


class Budget(Section):
    """Money that a scope may spend."""

    name: Name
    """What the budget is called in errors, metrics and the admin API."""
    per: Scope
    """Who shares one amount: each run, session, user, key, team, model or tool, each value of a tag,
    or all."""
    window: Window | None = None
    """The period after which the amount is fresh, aligned to `timezone`; absent means the scope's life."""
    limit_usd: LimitUsd
    """Dollars, above 0 and up to 9,000,000, with at most nine decimals."""
    warn_at: Share | None = None
    """Share of the limit at which a warning is raised."""
    timezone: Timezone = "UTC"
    """Where a window's day, week or month begins."""
    on_exceed: Landing = "stop"
    """What happens at the limit."""
    to: ModelName | None = None
    """Model to go on with, for `downgrade`."""
    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    on_failure: OnFailure = "refuse"
    """What happens when the store cannot answer."""
    match: Match = EVERYTHING
    """Calls it applies to."""

    @property
    def limit_nano(self) -> Nano:
        """The limit in nano-dollars, exactly."""
        return int(self.limit_usd * NANO_PER_USD)

    @property
    def tag(self) -> str | None:
        """The tag's name in `per: tag:NAME`, else `None`."""
        return self.per[4:] if self.per.startswith("tag:") else None

    @property
    def zone(self) -> tzinfo:
        """The time zone that `window` is aligned to."""
        return zone(self.timezone)


class LandingStep(Section):
    """The last step of `wrap_up`."""

    output_tokens: OutputTokens = 1024
    """Most tokens of its answer; what it can cost is kept back inside the budget."""
    instruction: Prose = (
        "This run has reached its limit, and this is its last step. Answer now from what you already know, "
        "say what is missing or uncertain, and start nothing new."
    )
    """What the model is told, after everything else."""


class Anomaly(Section):
    """When a run's spend is unlike that of its agent's earlier runs."""

    factor: Factor = 1.75
    """How many times what the agent's runs cost otherwise."""
    min_runs: Count = 20
    """Earlier runs of the agent that are needed to tell."""


class Runs(Section):
    """Limits of a single run, and when a run is over. An absent limit is no limit."""

    max_steps: Count | None = None
    """Model calls in a run."""
    max_wall_clock_s: Seconds | None = None
    """Seconds from a run's first step; waiting for an approval does not count."""
    max_tool_calls: Count | None = None
    """Tool calls that the model makes in a run."""
    max_tokens: Count | None = None
    """Uncached input plus output tokens of a run."""
    idle_ttl_s: Seconds = 1800.0
    """Seconds without a step after which a run is abandoned."""
    text_agent_gap_s: Seconds = 10.0
    """An agent without tools stays in its run when the next user message comes within so many seconds."""
    on_exceed: Landing = "stop"
    """What happens at a limit."""
    to: ModelName | None = None
    """Model to go on with, for `downgrade`."""
    final_tools: tuple[Label, ...] = ("final_answer", "final_result")
    """Tools by which an agent gives its final answer; the last step of `wrap_up` is forced to one of them
    that the request offers."""
    landing: LandingStep = LandingStep()
    """The last step of `wrap_up`."""
    anomaly: Anomaly | None = Anomaly()
    """When a run's spend raises the alert `spend_anomaly`; nothing else happens. `null` switches this off."""
    children: Literal["share", "own"] = "share"
    """Budgets `per: run` of runs that name a parent: `share` counts them against the root run's, `own` gives
    each run its own."""
    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    on_failure: OnFailure = "refuse"
    """What happens when the store cannot answer."""


class Rate(Section):
    """How fast a scope may go. At least one of the limits is given."""

    name: Name
    """What the rule is called in errors, metrics and the admin API."""
    per: Scope
    """Who shares one allowance."""
    requests_per_minute: Count | None = None
    """Model calls a minute."""
    tokens_per_minute: Count | None = None
    """Input plus output tokens a minute."""
    max_concurrency: Count | None = None
    """Model calls at the same time."""
    new_runs_per_minute: Count | None = None
    """Runs begun a minute."""
    usd_per_minute: LimitUsd | None = None
    """Dollars spent a minute."""
    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    on_failure: OnFailure = "refuse"
    """What happens when the store cannot answer."""
    match: Match = EVERYTHING
    """Calls it applies to."""

    @property
    def nano_per_minute(self) -> Nano | None:
        """`usd_per_minute` in nano-dollars, exactly."""
        return None if self.usd_per_minute is None else int(self.usd_per_minute * NANO_PER_USD)

    @property
    def tag(self) -> str | None:
        """The tag's name in `per: tag:NAME`, else `None`."""
        return self.per[4:] if self.per.startswith("tag:") else None
