"""What a loop is, and what is done about one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag

from gateway.policy.fields import (
    COUNT_TAG,
    LADDER_TAG,
    Count,
    Label,
    Landing,
    Mode,
    ModelName,
    RuleShape,
    rule_form,
)
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match


class Ladder(Section):
    """What happens as a count grows: an action for each threshold, thresholds rising in this order."""

    observe: Count | None = None
    """Record it."""
    nudge: Count | None = None
    """Tell the model, in one line."""
    downgrade: Count | None = None
    """Go on with the model named by `loops.to`."""
    wrap_up: Count | None = None
    """Admit one last step, to answer from what is known."""
    final_message: Count | None = None
    """Answer for the model that the run is over."""
    stop: Count | None = None
    """Refuse with the error."""
    kill: Count | None = None
    """Kill the run."""

    def steps(self) -> tuple[tuple[int, str], ...]:
        """Threshold and action of each step, ascending."""
        return tuple(
            (count, action) for action in Ladder.model_fields if (count := getattr(self, action)) is not None
        )


LoopRule = (
    Annotated[
        Annotated[Count, Tag(COUNT_TAG)] | Annotated[Ladder, Tag(LADDER_TAG)],
        Discriminator(rule_form),
        RuleShape,
    ]
    | None
)


class Loops(Section):
    """When a run is going in circles. A rule is a count, at which `on_detect` happens, or a ladder of actions
    such as `{nudge: 2, wrap_up: 4}`, or `null`, which switches it off."""

    same_call: LoopRule = 3
    """Equal tool calls with equal or failing results."""
    near_duplicate: LoopRule = 5
    """Calls of one tool whose arguments differ only a little, with equal or failing results."""
    cycle: LoopRule = 3
    """Repetitions of a sequence of calls."""
    no_progress: LoopRule = 3
    """Steps in a row that bring nothing new."""
    consecutive_tool_errors: LoopRule = 5
    """Tool errors in a row."""
    repeated_text: LoopRule = 3
    """Answers in which the model says the same, or nearly."""
    context_growth: LoopRule = 6
    """Steps in a row that each make the input longer and bring almost nothing new."""
    polling_tools: tuple[Label, ...] = ()
    """Tools that are called until something is ready, besides those recognised by their names."""
    ignore_tools: tuple[Label, ...] = ()
    """Tools that may be called again and again."""
    on_detect: Landing = "stop"
    """What happens at a plain count."""
    to: ModelName | None = None
    """Model to go on with, for `downgrade`."""
    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    match: Match = EVERYTHING
    """Calls it applies to."""

    def ladders(self) -> Mapping[str, tuple[tuple[int, str], ...]]:
        """Threshold and action of each step of each rule, ascending, by the rule's name.

        A plain count is a ladder of one step, `on_detect`, so an action may also be `notify`. Rules that are
        off are left out.
        """
        found: dict[str, tuple[tuple[int, str], ...]] = {}
        for name in LOOP_RULES:
            rule: int | Ladder | None = getattr(self, name)
            if rule is not None:
                found[name] = rule.steps() if isinstance(rule, Ladder) else ((rule, self.on_detect),)
        return found


LOOP_RULES = (
    "same_call",
    "near_duplicate",
    "cycle",
    "no_progress",
    "consecutive_tool_errors",
    "repeated_text",
    "context_growth",
)
"""The keys of `loops` that are rules."""
