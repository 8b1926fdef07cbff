"""Which model serves a step, and what is tried when one cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gateway.policy.fields import Flag, Mode, ModelName, Name, OneOrMore, Seconds, Share, TagMatch, Whole
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match

StepKind = Literal[
    "planning",
    "tool_selection",
    "extraction",
    "digest",
    "synthesis",
    "reflection",
    "formatting",
    "retry",
    "title",
    "other",
]
"""What a step of an agent is for, as far as its request tells."""


class Between(Section):
    """A range of whole numbers, both ends included."""

    min: Whole | None = None
    """The least."""
    max: Whole | None = None
    """The greatest."""


class When(Section):
    """The steps that a routing rule takes. Every key given must match."""

    model: Annotated[tuple[ModelName, ...], Field(min_length=1), OneOrMore] | None = None
    """Models asked for; `*` at the end is a wildcard."""
    step: Annotated[tuple[StepKind, ...], Field(min_length=1), OneOrMore] | None = None
    """Kinds of step, such as `tool_selection` or `extraction`."""
    tokens: Between | None = None
    """Input tokens, as estimated."""
    tools: Between | None = None
    """Tools that the request offers."""
    tag: Annotated[tuple[TagMatch, ...], Field(min_length=1), OneOrMore] | None = None
    """Tags as `name=value`; one of them."""
    budget_used: Share | None = None
    """The share of the run's own budget that is spent at least."""


class RoutingRule(Section):
    """Sends some steps to another model."""

    name: Name
    """What the rule is called in decisions and metrics."""
    when: When
    """The steps it takes."""
    use: ModelName
    """The model that serves them."""
    split: Mapping[ModelName, Share] = {}
    """Shares of the runs whose steps go to other models instead, for a canary or a comparison; a run stays
    with its share."""
    hold_out: Share | None = None
    """Share of the runs that are left as they are, to compare with."""
    only_if_cheaper: Flag = True
    """Leave steps where they are while `use` would cost more, prompt caches reckoned with; `false` for a rule
    that is not about money. A `split` is never held back."""
    on_bad_answer: Literal["escalate", "deliver"] = "escalate"
    """For an answer that is empty, refuses, calls a tool that there is not or with arguments that do not fit,
    or repeats the call before: ask the model that was asked for instead. Its answers are then read whole
    before they leave, so a stream begins late. `deliver`: nothing."""
    final_answers: Literal["escalate", "deliver"] = "escalate"
    """For an answer without tool calls where the request offers tools, which ends the task: let the model
    that was asked for give it instead. What was spent on it is spent. Needs `on_bad_answer: escalate`."""
    max_escalations: Share = 0.3
    """Share of bad answers, of the last hundred, above which the rule leaves steps as they are for ten
    minutes and `routing_rule_off` is raised."""
    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class Retries(Section):
    """Calls that failed before their answer began are tried again, where that may help."""

    attempts: Whole = 1
    """How often one model is tried again; its fallbacks come after that."""
    share: Share = 0.2
    """Most retries as a share of all calls, so that an outage is not made worse: each worker may always try
    so many of its own calls again, and a few more."""
    first_delay_s: Seconds = 0.25
    """Pause before the first retry, doubled for each further one, give or take a half."""
    longest_wait_s: Seconds = 5.0
    """A provider that asks for a longer pause than this (`Retry-After`) is left for a fallback; without one
    the caller is told."""


class Routing(Section):
    """Which model serves a step."""

    rules: tuple[RoutingRule, ...] = ()
    """The first rule that matches decides."""
    retries: Retries | None = Retries()
    """Calls that are tried again; `null` for none. Fallbacks are with the models."""
