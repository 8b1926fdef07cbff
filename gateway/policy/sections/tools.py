"""Contracts of tools, approvals by operators, and claims of actions that never happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gateway.policy.fields import (
    ArgumentPath,
    Count,
    Flag,
    JsonScalar,
    Label,
    Mode,
    Number,
    OneOrMore,
    Pattern,
    Seconds,
    Share,
    ToolLevel,
    Verb,
)
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match


class ArgumentRule(Section):
    """What an argument of a tool may be. Every condition that is given must hold for every value that the
    path leads to; one of another type than the condition is about does not hold."""

    values: Annotated[tuple[JsonScalar, ...], Field(min_length=1)] | None = None
    """Values that it may be, of the same type: `1` is neither `"1"` nor `true`."""
    pattern: Pattern | None = None
    """RE2 pattern that the whole text must match."""
    prefixes: Annotated[tuple[Label, ...], Field(min_length=1)] | None = None
    """How the text may begin; `..`, backslashes and their encodings do not hold. End a folder with `/`."""
    max_length: Count | None = None
    """Most characters of the text."""
    min: Number | None = None
    """The least number."""
    max: Number | None = None
    """The greatest number."""
    required: Flag = False
    """The argument must be there."""


class Breaker(Section):
    """When a tool that fails is left alone for a while. Failures of the tool itself count, not
    calls with wrong arguments."""

    error_rate: Share = 0.5
    """Share of failing calls at which it opens."""
    min_calls: Count = 5
    """Calls in the window before it can open."""
    window_s: Seconds = 60.0
    """Seconds that are looked at."""
    open_s: Seconds = 30.0
    """Seconds that it stays open."""
    probes: Count = 1
    """Calls that are then let through, and must all succeed to close it."""


class Tool(Section):
    """The contract of a tool. What it does not say, `tools.defaults` says; a section such as `breaker` is
    taken from there whole or not at all."""

    owner: Label | None = None
    """Who looks after it; alerts about it name them."""
    level: ToolLevel = "moderate"
    """How much harm it can do. `dangerous` needs approval, unless `requires_approval` is `false`."""
    side_effects: Literal["none", "internal", "external"] = "internal"
    """What a call changes: nothing, something of ours, or something outside."""
    idempotent: Flag = False
    """Calling it twice does no more than calling it once."""
    timeout_seconds: Seconds | None = None
    """How long a call may take, from the answer that asks for it to the request that brings its result,
    before it counts as failed. Only where no other tool was called in between."""
    requires_approval: Flag | None = None
    """Hold each call until an operator decides; absent means when `level` is `dangerous`."""
    allow: Flag = True
    """`false` withholds the tool from the model."""
    after: tuple[Label, ...] = ()
    """Tools that must each have succeeded earlier in the run."""
    arguments: Mapping[ArgumentPath, ArgumentRule] = {}
    """What its arguments may be, by dotted path; `*` stands for every element of a list, as in
    `orders.*.amount`."""
    max_calls_per_run: Count | None = None
    """Calls in one run."""
    max_calls_per_session: Count | None = None
    """Calls in one session."""
    max_calls_per_minute: Count | None = None
    """Calls a minute, over all runs of a key."""
    on_invalid: Literal["repair", "error", "stop", "deliver"] = "repair"
    """For a tool that the request does not offer, and for arguments that do not fit its JSON Schema there.
    `repair`: the model is told and asked again, unseen by the client. `error`: the model is told and must
    answer in text. `stop`: the error. `deliver`: nothing."""
    on_violation: Literal["error", "stop"] = "error"
    """For a call that this contract forbids: `allow`, `level`, `max_calls_…`, `after`, `arguments`. `error`:
    the model is told and may do something else; if it insists, it must answer in text. `stop`: the error."""
    breaker: Breaker | None = Breaker()
    """When it is left alone because it fails; `null` switches this off. A tool without an entry has none
    unless there are `defaults`."""
    on_open: Literal["withhold", "error"] = "withhold"
    """While the breaker is open: `withhold` takes the tool from the model, `error` answers its calls with an
    error."""
    on_drift: Literal["flag", "withhold", "stop", "allow"] = "flag"
    """When its description or schema changes within a session: raise `tool_drift`, take it from the model as
    well, refuse with the error, or nothing."""
    trusted: Flag = False
    """Nobody outside can write into its results: values in them taint nothing."""
    on_tainted: Literal["allow", "flag", "approve", "error", "stop"] = "allow"
    """When an argument carries an address, a URL, a number or another value that first appeared in the result
    of a tool that is not `trusted`, and that nobody else has said. `flag`: it is on record. `approve`: an
    operator decides. `error`: the model is told. `stop`: the error."""
    restore: Flag | None = None
    """Whether arguments get the real values back for pseudonyms; absent means unless `side_effects` is
    external."""
    shared: Flag = False
    """One breaker for all teams; it opens on failures of at least two keys."""
    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    match: Match = EVERYTHING
    """Calls it applies to."""

    @property
    def needs_approval(self) -> bool:
        """Whether its calls are held: as `requires_approval` is written, else when it is dangerous."""
        return self.level == "dangerous" if self.requires_approval is None else self.requires_approval


NO_CONTRACT = Tool(breaker=None)
"""Of a tool that a policy says nothing about, not even by `tools.defaults`."""


class Approvals(Section):
    """How long a tool call waits for an operator."""

    hold_s: Seconds = 30.0
    """Seconds that a call is held; then the agent is told `approval_pending` and may ask again."""
    expires_s: Seconds = 3600.0
    """Seconds after which nobody can decide any more, and the agent is told `approval_expired`."""


class Claims(Section):
    """Answers that claim an action whose tool never succeeded in the run."""

    mode: Mode = "shadow"
    """`shadow` decides and records, and never acts."""
    actions: Mapping[Verb, Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore]] | None = None
    """Tools that do what a verb says was done, by verb; absent means the built-in verbs."""
