"""The policy language: every section and key of a policy file, as frozen values.

The docstring under a field is its documentation: the JSON Schema and the table in docs/policy.md are
made from it. What one value may look like is in `fields.py`; what must hold between values is in
`checks.py`; `loading.py` makes a `Policy` from files. Nothing here reads a file, a clock or the
environment.

Units are in the names: `_s` and `_seconds` are seconds, `_usd` are dollars (`Decimal`), `_nano` are
integer nano-dollars, `per_mtok` is per million tokens.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    SecretStr,
    Tag,
)

from gateway.domain import NANO_PER_USD, Nano, Surface
from gateway.policy.fields import (
    COUNT_TAG,
    FREE_TAG,
    LADDER_TAG,
    PRICED_TAG,
    ArgumentPath,
    BaseUrl,
    Bytes,
    Characters,
    Count,
    Days,
    EntityName,
    Factor,
    Flag,
    Host,
    Instant,
    JsonDepth,
    JsonScalar,
    Label,
    Landing,
    LimitUsd,
    Mode,
    ModelName,
    Name,
    Number,
    OneOrMore,
    OnFailure,
    OutputTokens,
    Pattern,
    Portion,
    PriceShape,
    Prose,
    ProviderKey,
    RateUsd,
    RuleShape,
    Scope,
    Seconds,
    Secret,
    SecretUrl,
    Share,
    TagMatch,
    Timezone,
    ToolLevel,
    UrlPath,
    Verb,
    Weight,
    Whole,
    Window,
    best_pattern,
    price_form,
    rule_form,
    unexpected,
    wildcard_matches,
    zone,
)


class Section(BaseModel):
    """A mapping of a policy file. Unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )


class Timeouts(Section):
    """How long a provider may take, each in seconds."""

    connect_s: Seconds = 5.0
    """Until the connection stands."""
    first_byte_s: Seconds = 300.0
    """Until the first byte of the answer; binds streams, whose first byte comes early."""
    idle_s: Seconds = 120.0
    """Between two pieces of a stream."""
    total_s: Seconds = 600.0
    """For a plain answer, from first to last byte."""


class ProviderBreaker(Section):
    """When a provider that fails, or one of its models, is left alone for a while. What it refuses (4xx) and
    what callers break off does not count."""

    error_rate: Share = 0.5
    """Share of failing calls at which it opens."""
    min_calls: Count = 10
    """Calls in the window before it can open."""
    window_s: Seconds = 30.0
    """Seconds that are looked at."""
    dead_after_s: Seconds | None = 2.0
    """It opens as well when for so long all calls fail, `min_calls` of them; `null` for the share alone."""
    open_s: Seconds = 15.0
    """Seconds that it stays open."""
    probes: Count = 3
    """Calls that are then let through, of all workers together, and must all succeed to close it."""


class Queue(Section):
    """How calls wait that a provider has no slot for. High priority comes before normal before low; inside a
    priority, principals take turns."""

    size: Whole = 100
    """Most calls that wait, in each worker; beyond that the call is refused at once, or one whose claim to a
    place is weaker."""
    wait_s: Seconds = 10.0
    """Most seconds that a call waits. One that would wait longer, as far as can be told, is refused at once;
    clients give up on their own after some minutes."""


class Provider(Section):
    """A service that runs models."""

    dialect: Literal["openai", "azure_openai", "anthropic"]
    """The wire API it speaks."""
    base_url: BaseUrl
    """Where the dialect's paths begin: for `openai` up to and with `/v1`, for `anthropic` with or without it,
    for `azure_openai` the resource, or with `/openai/v1`."""
    api_key: ProviderKey = None
    """The gateway's own credential there; `none` for a server that asks for no key."""
    timeouts: Timeouts = Timeouts()
    """How long it may take."""
    api_version: Label | None = None
    """Value of `api-version`, for `azure_openai` alone."""
    output_limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Field in which a chat request tells the output limit that the gateway sets; `null` chooses by model."""
    price_table: Label | None = None
    """Whose prices hold here, by the price table's name (`openai`, `anthropic`, `azure`), where `base_url`
    does not tell: another proxy or a mirror in front of that provider."""
    surfaces: (
        Annotated[
            tuple[Literal["chat", "responses", "messages", "embeddings", "completions", "moderations"], ...],
            Field(min_length=1),
            OneOrMore,
        ]
        | None
    ) = None
    """The wire APIs that it has; `null` means all of its dialect. A request of another one is translated
    where that is possible: chat and messages to each other, responses to either."""
    breaker: ProviderBreaker | None = ProviderBreaker()
    """When it, or one of its models, is left alone because it fails; `null` switches this off."""
    stream_usage: Flag = True
    """Ask for the usage of chat streams (`stream_options.include_usage`) when the client does not."""
    max_concurrency: Count | None = None
    """Most calls at the same time, in each worker, a stream until its end; absent means no limit."""
    queue: Queue = Queue()
    """How calls beyond `max_concurrency` wait."""


class PriceTier(Section):
    """Prices that replace the base ones for a request with more input than a bound."""

    above_input_tokens: Count
    """Applies to the whole request when its input has more tokens than this."""
    input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens; absent keeps the base price."""
    output_usd_per_mtok: RateUsd | None = None
    """Dollars per million output tokens; absent keeps the base price."""
    cached_input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens read from the provider's cache; absent keeps the base price."""
    cache_write_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens written to the provider's cache; absent keeps the base price."""


class Price(Section):
    """What a model costs. A kind of token without a price here is unknown, not free."""

    input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens."""
    output_usd_per_mtok: RateUsd | None = None
    """Dollars per million output tokens, reasoning included."""
    cached_input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens read from the provider's cache; absent means the input price."""
    cache_write_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens written to the provider's cache; absent means the input price."""
    request_usd: RateUsd | None = None
    """Dollars per request, besides its tokens."""
    tiers: tuple[PriceTier, ...] = ()
    """Prices for long inputs, by rising `above_input_tokens`."""


PriceOrFree = Annotated[
    Annotated[Price, Tag(PRICED_TAG)] | Annotated[Literal["free"], Tag(FREE_TAG)],
    Discriminator(price_form),
    PriceShape,
]


Ability = Literal["tools", "parallel_tools", "images", "files", "audio", "json_schema", "reasoning"]
"""What a step may need of a model."""


class Model(Section):
    """A model that callers may ask for."""

    provider: Name
    """Which of `providers` serves it."""
    upstream_model: Label | None = None
    """Its name there (on `azure_openai` the deployment); absent means the name asked for. Under a wildcard
    entry, `*` stands for what the wildcard matched."""
    fallbacks: tuple[ModelName, ...] = ()
    """Models to try, in this order, when the provider fails."""
    deployments: Mapping[ModelName, Weight] = {}
    """Further entries that are the same model elsewhere, each with its weight. Calls are shared among them
    and this one, and go to the others when one fails; weight 0 only stands in."""
    weight: Weight = 1
    """This entry's own weight among `deployments`."""
    balance: Literal["weight", "least_busy", "latency"] = "weight"
    """How `deployments` share: by weight, a session staying with its own for the sake of prompt caches; to
    the one with the fewest calls for its weight; or to the fastest, by time to the first byte."""
    price: PriceOrFree | None = None
    """`free`, or prices that replace the price table; absent means the table, and a model unknown there is
    refused."""
    context_window: Count | None = None
    """Tokens of input and output together."""
    max_output_tokens: Count | None = None
    """Most tokens the model can write in one answer."""
    lacks: Annotated[tuple[Ability, ...], OneOrMore] = ()
    """What it cannot do. Steps that need it are not rerouted here, and do not fall back on it."""


class Auth(Section):
    """Who may call the gateway."""

    mode: Literal["keys", "passthrough", "open"] = "keys"
    """`keys`: gateway keys. `passthrough`: the caller's own provider credential. `open`: anyone on this
    machine; served on loopback alone."""
    provider: Name | None = None
    """The one provider that `passthrough` credentials go to."""
    user_from: Literal["key", "header", "body"] = "key"
    """Where `per: user` finds its user: the key's `user`, or an end user named by the caller as well."""


class Key(Section):
    """A gateway key: a caller's credential, and what it stands for."""

    name: Name
    """What the key is called in logs, metrics and the admin API."""
    key: Secret
    """The secret that the caller sends."""
    user: Label | None = None
    """Whose `per: user` limits it counts against."""
    team: Label | None = None
    """Whose `per: team` limits it counts against."""
    models: tuple[ModelName, ...] | None = None
    """Models it may reach, by reroutes and fallbacks too; absent means all. `*` at the end is a wildcard."""
    max_tool_level: ToolLevel = "dangerous"
    """The most dangerous tools its callers may use: those of a higher `level` are withheld and not
    delivered."""
    expires_at: Instant | None = None
    """From when on it is refused."""
    priority: Literal["low", "normal", "high"] = "normal"
    """Whose calls come first where calls wait for a provider. A caller can lower it by the header
    `x-guardrail-priority`, and not raise it."""


Names = Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore]


class Match(Section):
    """What a rule is narrowed to. Every key given must match; of a list, one entry must."""

    key: Names | None = None
    """Names of gateway keys."""
    user: Names | None = None
    """Users."""
    team: Names | None = None
    """Teams."""
    model: Annotated[tuple[ModelName, ...], Field(min_length=1), OneOrMore] | None = None
    """Models asked for; `*` at the end is a wildcard."""
    surface: Annotated[tuple[Surface, ...], Field(min_length=1), OneOrMore] | None = None
    """Wire APIs."""
    agent: Names | None = None
    """Agents: the `agent` tag, else the digest of key and tool names."""
    tag: Annotated[tuple[TagMatch, ...], Field(min_length=1), OneOrMore] | None = None
    """Tags as `name=value`."""

    def covers(
        self,
        *,
        key: str | None = None,
        user: str | None = None,
        team: str | None = None,
        model: str | None = None,
        surface: Surface | None = None,
        agent: str | None = None,
        tags: Mapping[str, str] = types.MappingProxyType({}),
    ) -> bool:
        """Whether a call with these traits is meant. What is unknown (`None`) matches no given key."""
        exact = ((self.key, key), (self.user, user), (self.team, team), (self.agent, agent))
        return (
            all(wanted is None or trait in wanted for wanted, trait in exact)
            and (self.surface is None or surface in self.surface)
            and (self.model is None or (model is not None and model_allowed(self.model, model)))
            and (self.tag is None or any(f"{name}={value}" in self.tag for name, value in tags.items()))
        )


EVERYTHING = Match()


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


Action = Literal["allow", "flag", "redact", "mask", "pseudonymise", "neutralise", "block"]


class ChannelAction(Section):
    """What is done with a finding in one channel."""

    action: Action
    """The action."""


class Screen(Section):
    """A screening of text. `user`, `tool` and `output` replace `action` for one channel."""

    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    action: Action | None = None
    """What is done with a finding; absent means `block`."""
    user: ChannelAction | None = None
    """For what users and the developer say."""
    tool: ChannelAction | None = None
    """For what tools return."""
    output: ChannelAction | None = None
    """For what the model says."""
    on_failure: OnFailure = "refuse"
    """What happens when the screening fails or overruns its time."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class CustomEntity(Section):
    """A kind of personal data of one's own."""

    pattern: Pattern
    """What it looks like, in RE2; a group, if there is one, is the value."""
    words: tuple[str, ...] = ()
    """Words of which one must stand beside it; without any it is found by itself."""
    score: Share = 0.8
    """How sure a finding is; where findings overlap, the surer one counts."""


class PiiScreen(Screen):
    """Screening for personal data."""

    entities: tuple[EntityName, ...] | None = None
    """Kinds of personal data; absent means all that are known."""
    custom: dict[EntityName, CustomEntity] = {}
    """Further kinds by name, looked for besides `entities`."""
    language_model: Label | None = None
    """A spaCy model, installed together with presidio-analyzer, by which `PERSON`, `LOCATION`, `ORGANIZATION`
    and `NRP` are found in requests; absent means that names and places are not looked for."""


def _band(value: Any) -> Any:
    scores = [_score(each) for each in value] if isinstance(value, list | tuple) else []
    if len(scores) != 2 or not 0 <= scores[0] < scores[1] <= 1:
        raise unexpected("two scores from 0 to 1, the lower one first, such as [0.2, 0.8]")
    return tuple(scores)


def _score(value: Any) -> float:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


Band = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    BeforeValidator(_band),
    Field(min_length=2, max_length=2),
]
"""Two scores: where something begins to be looked at, and where it ends, both included."""


def _directory(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 4096 and value.startswith("/") and value.isprintable():
        return value
    raise unexpected("a directory from the root on, such as /models/injection")


Directory = Annotated[str, BeforeValidator(_directory), Field(pattern="^/|\\$\\{")]


def _class(value: Any) -> Any:
    if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000:
        return value
    raise unexpected("a label or its number, such as INJECTION or 1")


Class = Annotated[int | str, BeforeValidator(_class)]
"""One of the labels that a classifier tells apart."""


class InjectionClassifier(Section):
    """A transformer classifier on this machine, for texts of which the embedded detector is not sure."""

    directory: Directory
    """Where its files are, as on the Hugging Face hub: `config.json`, `tokenizer.json`, and `model.onnx` or
    `onnx/model.onnx`; `model.safetensors` where transformers and torch are installed."""
    labels: Annotated[tuple[Class, ...], Field(min_length=1), OneOrMore] | None = None
    """Labels that mean an attack, by name or number; absent means those that `config.json` gives a name that
    says so."""
    threshold: Share = 0.5
    """The probability from which on a text is an attack."""
    uncertain: Band = (0.2, 0.8)
    """Scores of the embedded detector between which the classifier decides; 0.5 is the threshold there."""
    max_tokens: OutputTokens = 512
    """Tokens that it reads at once; longer texts are read in windows that overlap."""
    timeout_s: Seconds = 5.0
    """Seconds by which screening a request may take longer for it."""

    _pinned: Any = PrivateAttr(None)


class InjectionJudge(Section):
    """A model of this policy that is asked about texts of which the detectors before it are not sure."""

    model: ModelName
    """The model, on a provider that serves chat, messages or responses; the texts go there."""
    timeout_s: Seconds = 3.0
    """Seconds until an answer that has not come is none."""
    uncertain: Band = (0.3, 0.7)
    """Scores between which it is asked: the classifier's where that has read the text, else the embedded
    detector's; 0.5 is the threshold of both."""
    max_chars: Count = 8000
    """Characters of a text that it is shown; of a longer one, what is suspicious with the text around it."""
    max_texts: Count = 4
    """Texts of one request that it is asked about, the most suspicious first."""
    constrained: Flag = True
    """Hold its answer to a JSON schema; `false` for a model that knows no such thing."""


class InjectionScreen(Screen):
    """Screening for instructions that someone smuggles in."""

    spotlight: Flag = False
    """Tell the model, in a line before and after each tool result, that what stands there is data."""
    classifier: InjectionClassifier | None = None
    """A transformer classifier on this machine, for texts of which the embedded detector is not sure."""
    judge: InjectionJudge | None = None
    """A model that is asked about texts of which the detectors before it are not sure."""


class LinkScreen(Screen):
    """Screening of the addresses in answers."""

    allow_hosts: tuple[Host, ...] = ()
    """Hosts that may be told anything; with a leading dot, all below it."""


class Moderation(Section):
    """Judgement of answers by a moderation endpoint. Streams are held back whole for it."""

    mode: Mode = "enforce"
    """`shadow` asks and records, and never acts."""
    model: ModelName
    """A model on a provider that serves `/v1/moderations`."""
    categories: dict[Label, Share] = {}
    """Scores from which a category counts; absent means what the endpoint itself flags."""
    action: Literal["flag", "block"] = "block"
    """What is done with an answer that is over a threshold."""
    on_failure: OnFailure = "refuse"
    """What happens when the endpoint gives no verdict."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class ScreenException(Section):
    """Findings that are recorded as in `shadow` and not acted on, for somebody has looked at them. At
    least one of `channel`, `tool` and `type` is given; what is given must all be so."""

    name: Name
    """What the exception is called; say why it is there."""
    detector: Literal["injection", "pii", "secrets", "links", "leak"]
    """Whose findings."""
    channel: (
        Annotated[
            tuple[Literal["system", "user", "tool", "definition", "assistant", "output"], ...],
            Field(min_length=1),
            OneOrMore,
        ]
        | None
    ) = None
    """In which texts."""
    tool: Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore] | None = None
    """In the results, definition or arguments of which tools."""
    type: Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore] | None = None
    """Of which types, such as `EMAIL_ADDRESS`."""
    mode: Literal["enforce", "off"] = "enforce"
    """`off` keeps it without effect."""
    match: Match = EVERYTHING
    """Calls it applies to."""

    def covers(self, detector: str, channel: str, type_: str, tool: str) -> bool:
        """Whether a finding is one of these."""
        return (
            detector == self.detector
            and (self.channel is None or channel in self.channel)
            and (self.tool is None or tool in self.tool)
            and (self.type is None or type_ in self.type)
        )


class Screening(Section):
    """What is looked for in texts."""

    injection: InjectionScreen | None = None
    """Instructions that someone smuggles in."""
    pii: PiiScreen | None = None
    """Personal data."""
    secrets: Screen | None = None
    """Credentials."""
    links: LinkScreen | None = None
    """Addresses in answers that carry data away: pictures of foreign hosts whose address has more than a
    path, and links with personal data or secrets in them."""
    leak: Screen | None = None
    """Passages of the system prompt in answers, sixteen words or more in a row."""
    moderation: Moderation | None = None
    """Content of answers, judged by a moderation endpoint."""
    unscannable: Literal["allow", "flag", "block"] = "flag"
    """What is done with parts that cannot be read, such as images and stored prompts."""
    exceptions: tuple[ScreenException, ...] = ()
    """Findings that are false alarms."""

    @property
    def is_on(self) -> bool:
        """Whether anything is looked for."""
        rules = (self.injection, self.pii, self.secrets, self.links, self.leak)
        return self.unscannable == "block" or any(r is not None and r.mode != "off" for r in rules)


class Context(Section):
    """Shortens old and huge tool results before the model reads them again. Nothing else of a request is
    touched, and a result is shortened the same way on every later step, so that prompt caches hold."""

    mode: Mode = "enforce"
    """`shadow` records what would be saved, and never acts."""
    keep_results: Count = 4
    """Steps whose tool results stay whole. Older ones are cut so many steps at a time."""
    result_tokens: Whole = 400
    """Tokens that are left of an older result, at four bytes a token; 0 leaves but a line that says so."""
    clip_tokens: Count = 8000
    """Tokens over which any result loses its middle."""
    match: Match = EVERYTHING
    """Calls it applies to."""


def _temperature(value: Any) -> Any:
    try:
        # A value from the environment is a text.
        number = float(value) if isinstance(value, str) else _score(value)
    except ValueError:
        number = math.nan
    if 0 <= number <= 2:
        return number
    raise unexpected("a temperature from 0 to 2 such as 0")


class AnswerReuse(Section):
    """When an answer may be given a second time."""

    mode: Mode = "enforce"
    """`shadow` records what would have been answered so, and never acts."""
    ttl_s: Seconds = 3600.0
    """Seconds for which an answer is kept."""
    scope: Literal["user", "key", "team", "global"] = "user"
    """Who shares answers: one user of one key, all users of a key, a team, or everyone."""
    max_temperature: Annotated[float, BeforeValidator(_temperature), Field(ge=0, le=2)] = 0.0
    """The highest `temperature` of a request that is answered so. A request without one counts as 1."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class ExactCache(AnswerReuse):
    """Answers to requests that are the same but for who sends them and how they are delivered."""


class SemanticCache(AnswerReuse):
    """Answers to requests that are the same but for the wording of the user's last message."""

    model: ModelName
    """The model that makes the embeddings, on a provider that serves embeddings; the texts go there."""
    threshold: Share = 0.95
    """The cosine from which on two wordings ask the same."""
    max_entries: Count = 10_000
    """Wordings that each worker remembers."""


class Cache(Section):
    """Answers that are given again without asking the provider. What was flagged, edited or cut short is
    never kept, nor what a provider keeps or does on its own side."""

    exact: ExactCache | None = None
    """For the same request; absent means none."""
    semantic: SemanticCache | None = None
    """For the same request in other words; absent means none."""


AlertEvent = Literal[
    "approval_decided",
    "approval_requested",
    "audit_failed",
    "audit_head",
    "audit_recovered",
    "breaker_closed",
    "breaker_open",
    "budget_exceeded",
    "budget_warning",
    "claim",
    "exfiltration",
    "injection",
    "key_expiring",
    "kill",
    "leak",
    "ledger_drift",
    "limit_exceeded",
    "loop_detected",
    "moderation",
    "pii",
    "policy_reload_failed",
    "policy_reloaded",
    "policy_rolled_back",
    "policy_rollout",
    "revive",
    "routing_rule_off",
    "run_stopped",
    "secret",
    "spend_anomaly",
    "tool_drift",
    "upstream_credentials_rejected",
]


AlertFormat = Literal["generic", "slack", "pagerduty", "teams"]


class Alert(Section):
    """A webhook."""

    name: Name
    """What the alert is called in logs and metrics."""
    url: SecretUrl
    """Where it is sent; never shown, for many such URLs are credentials."""
    on: Annotated[tuple[AlertEvent, ...], Field(min_length=1), OneOrMore]
    """Events that are sent."""
    secret: Secret | None = None
    """Signs `x-guardrail-signature`; absent means a key made from the gateway's own secret."""
    mode: Mode = "enforce"
    """`shadow` records what would have been sent."""
    match: Match = EVERYTHING
    """Calls whose events are sent."""
    format: AlertFormat = "generic"
    """Whose webhook it is: what is said is the same, its form differs. `pagerduty` takes its routing key from
    `secret`."""
    retry_for_s: Seconds = 86_400.0
    """How long a receiver that cannot be reached is tried; then the delivery has failed."""


class Audit(Section):
    """What the audit log holds beside the changes that operators make, and what happens without it."""

    decisions: Literal["all", "refusals", "off"] = "all"
    """`all`: each decision about a step, and the figures of every step; `refusals`: refusals alone, and the
    figures; `off`: neither."""
    on_failure: Literal["continue", "refuse"] = "continue"
    """While it cannot be written for longer than `grace_s`: `refuse` lets no step begin."""
    grace_s: Seconds = 60.0
    """How long it may go unwritten before that is a failure. Nothing is lost meanwhile."""


class Recording(Section):
    """What is kept of steps besides their facts, encrypted, for `gateway backtest` and `gateway replay`."""

    content: Flag = False
    """Keep requests as clients sent them and answers as providers gave them. Without, rules about content
    cannot be tried on what has been, and say `unknown`."""
    retention_days: Annotated[Count, Field(le=3650)] = 30
    """Days until what is kept is deleted."""
    match: Match = EVERYTHING
    """Calls whose content is kept."""


class Tracing(Section):
    """What OpenTelemetry is told, where an OTLP endpoint is configured."""

    content: Literal["off", "redacted"] = "off"
    """`redacted` attaches what was said, arguments and results of tools included, after personal data and
    credentials in it were replaced, whatever `screening` says. `off` attaches nothing of it."""
    content_chars: Characters = 8192
    """Characters of a step's newest messages, and of its answer, that are attached."""
    match: Match = EVERYTHING
    """Calls whose content is attached."""
    sample: Portion | None = None
    """Share of runs that are traced; absent means what `OTEL_TRACES_SAMPLER` says, else all. A run that a
    rule or an operator stopped is always traced."""


class Tenant(Section):
    """Whose data a rule of `retention` is about. Every key given must match; of a list, one entry must."""

    key: Names | None = None
    """Names of gateway keys."""
    team: Names | None = None
    """Teams."""


class RetentionRule(Section):
    """How long some tenants' data is kept. Of each figure the first rule that matches and gives it counts."""

    name: Name
    """What the rule is called."""
    match: Tenant
    """Whose data is meant."""
    steps_days: Days | None = None
    """As `retention.steps_days`."""
    runs_days: Days | None = None
    """As `retention.runs_days`."""
    labels_days: Days | None = None
    """As `retention.labels_days`."""


class Retention(Section):
    """How many days the ledger keeps what happened. Absent or `forever` means without an end. Days count from
    the last that is known of a run, so that its steps go together; the sums of what is removed stay."""

    steps_days: Days | None = None
    """Steps with their decisions, findings and tool calls, refusals, approvals, and events that could not be
    read. Afterwards the run keeps its sums, and spend is known by day, key, team, user, model, provider and
    surface."""
    runs_days: Days | None = None
    """Runs, and with a run whatever is left of its steps."""
    labels_days: Days | None = None
    """Names: of the user, the end user, the session, the run and the agent, tags, and texts about them.
    Afterwards `removed` stands in their place; key, team and model stay."""
    rules: tuple[RetentionRule, ...] = ()
    """Tenants whose data is kept for another time."""


class PassthroughRoute(Section):
    """A provider path that is forwarded as it is."""

    path: UrlPath
    """The path below the gateway, such as `/v1/audio/speech`; `{name}` stands for one segment."""
    provider: Name
    """Which of `providers` serves it."""
    methods: Annotated[
        tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...], Field(min_length=1), OneOrMore
    ] = ("POST",)
    """HTTP methods that are forwarded."""
    price: PriceOrFree
    """`free`, or what a request costs; there is no default."""


class Server(Section):
    """Limits on what a client may send, and what happens when it leaves."""

    max_body_bytes: Bytes = 33_554_432
    """Most bytes of a request body as sent."""
    max_decompressed_bytes: Bytes = 33_554_432
    """Most bytes of a request body after decompression."""
    max_json_depth: JsonDepth = 128
    """Deepest nesting of a JSON body."""
    on_disconnect: Literal["abort", "drain"] = "abort"
    """When a client leaves: abort the provider's call, or read it to its end for the exact usage."""


class Profile(Section):
    """Other rules for some keys: each section that is given stands in the place of the policy's own."""

    keys: Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore]
    """Names of the keys, of the file or made by the API."""
    default_max_output_tokens: Count | None = None
    """Output limit set for a caller that gives none."""
    budgets: tuple[Budget, ...] | None = None
    """Limits in money. A budget of the same name and scope counts in the same place as the policy's own."""
    runs: Runs | None = None
    """Limits of a run; `idle_ttl_s` and `text_agent_gap_s` are always the policy's own."""
    loops: Loops | None = None
    """Loop detection."""
    rates: tuple[Rate, ...] | None = None
    """Limits in calls, tokens and runs over time."""
    tools: Mapping[Label, Tool] | None = None
    """Tool contracts."""
    approvals: Approvals | None = None
    """How long tool calls wait for an operator."""
    claims: Claims | None = None
    """Claims of actions that never happened."""
    routing: Routing | None = None
    """Which model serves a step."""
    screening: Screening | None = None
    """What is looked for in texts."""
    context: Context | None = None
    """How tool results are shortened."""
    cache: Cache | None = None
    """Answers that are given again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model name leads."""

    requested: str
    entry: str
    """The key of `models` that covers it, perhaps a wildcard."""
    model: Model
    provider_name: str
    provider: Provider | None
    """`None` exactly when `off_because` is given."""
    upstream_model: str
    off_because: str | None
    """Why the provider is switched off, such as `OPENAI_API_KEY is unset`."""


class Policy(Section):
    """A whole policy: one file, or the files of a folder merged in the order of their names."""

    model_config = ConfigDict(title="Guardrail gateway policy")

    format_version: Literal[1] = Field(alias="version")
    """Version of the policy language."""
    providers: Mapping[Name, Provider] = {}
    """Services that run models, by name. One whose `${NAME}` is unset is switched off with a warning."""
    models: Mapping[ModelName, Model] = {}
    """Models that callers may ask for, by name; `*` at the end of a name is a wildcard."""
    default_max_output_tokens: Count = 8192
    """Output limit set for a caller that gives none, unless the model or the budget allows less."""
    auth: Auth = Auth()
    """Who may call."""
    keys: tuple[Key, ...] = ()
    """Gateway keys, besides those made by the admin API."""
    budgets: tuple[Budget, ...] = ()
    """Limits in money. A call must fit into every one that applies to it."""
    runs: Runs = Runs()
    """Limits of a run, and its boundaries."""
    loops: Loops | None = None
    """Loop detection; absent means none."""
    rates: tuple[Rate, ...] = ()
    """Limits in calls, tokens and runs over time."""
    tools: Mapping[Label, Tool] = {}
    """Tool contracts by tool name; the entry `defaults` speaks for all tools. Without this section no tool
    call is judged."""
    approvals: Approvals = Approvals()
    """How long tool calls wait for an operator."""
    claims: Claims | None = None
    """Claims of actions that never happened; absent means `shadow` with the built-in verbs."""
    routing: Routing = Routing()
    """Which model serves a step."""
    screening: Screening = Screening()
    """What is looked for in texts."""
    context: Context | None = None
    """How tool results are shortened before the model reads them again; absent means not at all."""
    cache: Cache = Cache()
    """Answers that are given again without asking the provider."""
    alerts: tuple[Alert, ...] = ()
    """Webhooks. One whose `${NAME}` is unset is switched off with a warning."""
    audit: Audit = Audit()
    """The audit log."""
    recording: Recording | None = None
    """What is kept of steps besides their facts; nothing without this section."""
    tracing: Tracing = Tracing()
    """What traces tell."""
    retention: Retention = Retention()
    """How long the ledger keeps what happened; absent means for ever."""
    passthrough: tuple[PassthroughRoute, ...] = ()
    """Provider paths beyond the gateway's own that are forwarded; every other path is answered 404."""
    server: Server = Server()
    """Limits on the HTTP side."""
    profiles: Mapping[Name, Profile] = {}
    """Other rules for some keys."""

    _version: str = PrivateAttr("")
    _warnings: tuple[str, ...] = PrivateAttr(())
    _source: tuple[Path, ...] = PrivateAttr(())
    _secret_files: Mapping[Path, str] = PrivateAttr(default_factory=dict)
    _switched_off: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _switched_off_alerts: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _document: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _contracts: Mapping[str, Tool] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _: Any) -> None:
        """Merges the tool contracts once, for each call of a tool looks its own up."""
        defaults = self.tools.get("defaults", Tool())
        self._contracts = {
            name: defaults.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})
            for name, own in self.tools.items()
        }

    def under(self, profile: Profile) -> Policy:
        """The policy for the keys of a profile."""
        given = {
            name: value
            for name in profile.model_fields_set
            # Without a value there is none of what may be absent; everything else is as without the profile.
            if (value := getattr(profile, name)) is not None or name in ("loops", "context")
        }
        given.pop("keys", None)
        policy = self.model_copy(update={**given, "profiles": {}})
        policy.model_post_init(None)
        return policy

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that name the content, with no `${NAME}` or `file:` expanded."""
        return self._version

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know though the policy is valid, one sentence with its place each."""
        return self._warnings

    @property
    def source(self) -> tuple[Path, ...]:
        """The files it was read from, in the order of merging; empty when it was sent as text."""
        return self._source

    @property
    def secret_files(self) -> Mapping[Path, str]:
        """The files that `file:` values were read from, each with a digest of its content."""
        return self._secret_files

    @property
    def switched_off(self) -> Mapping[str, str]:
        """Providers that the file names and the gateway cannot use, with the reason of each."""
        return self._switched_off

    @property
    def switched_off_alerts(self) -> Mapping[str, str]:
        """Alerts that the file names and the gateway cannot send, with the reason of each."""
        return self._switched_off_alerts

    @property
    def document(self) -> Mapping[str, Any]:
        """The merged document as written, nothing expanded. It may hold literal secrets: see `shown()`."""
        return self._document

    def find_model(self, name: str) -> Target | None:
        """Where `name` leads: its own entry, else the wildcard with the longest prefix, else `None`."""
        entry = best_pattern(self.models, name)
        if entry is None:
            return None
        model = self.models[entry]
        upstream = model.upstream_model or name
        if entry.endswith("*") and model.upstream_model is not None:
            upstream = model.upstream_model.replace("*", name[len(entry) - 1 :])
        provider = self.providers.get(model.provider)
        off = None if provider else self._switched_off.get(model.provider, "its provider is not configured")
        return Target(name, entry, model, model.provider, provider, upstream, off)

    @property
    def governs_tools(self) -> bool:
        """Whether a `tools` section is written; without one no tool call is held or judged."""
        return "tools" in self.model_fields_set

    def tool(self, name: str) -> Tool:
        """The contract of a tool: `tools.defaults`, overridden by what the tool's own entry says.

        Nested sections are replaced whole. With neither defaults nor an entry it has no breaker.
        """
        return self._contracts.get(name) or self._contracts.get("defaults", NO_CONTRACT)


def model_allowed(patterns: Iterable[str], name: str) -> bool:
    """Whether a list of models, as in `keys[].models` or `match.model`, covers `name`."""
    return any(wildcard_matches(pattern, name) for pattern in patterns)


def type_at(path: Iterable[str | int]) -> Any:
    """The type that the policy language has at a path of keys and indexes; `None` where it has none.

    A section is its class, a mapping or list its generic alias, a value its plain type; of a union with
    `None` the other side, and of a union with a section that.
    """
    found: Any = Policy
    for part in path:
        kinds = _members(found)
        found = None
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                by_key = {info.alias or name: info for name, info in kind.model_fields.items()}
                if isinstance(part, str) and part in by_key:
                    found = by_key[part].annotation
            elif get_origin(kind) is tuple and isinstance(part, int):
                found = get_args(kind)[0]
            elif isinstance(part, str) and get_origin(kind) is not None and len(get_args(kind)) == 2:
                found = get_args(kind)[1]
        if found is None:
            return None
    kinds = _members(found)
    return kinds[0] if kinds else None


def _members(kind: Any) -> list[Any]:
    """A type without `Annotated`, its union spread out, sections first, `Literal` last and `None` gone."""
    origin: Any = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        spread = [member for side in get_args(kind) for member in _members(side)]
        return sorted(spread, key=_order)
    return [] if isinstance(kind, type) and issubclass(kind, types.NoneType) else [kind]


def _order(kind: Any) -> int:
    origin: Any = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, Section):
        return 0
    return 2 if origin is Literal else 1


def is_secret_at(path: Iterable[str | int]) -> bool:
    """Whether the value at a path must never be shown."""
    return type_at(path) is SecretStr


def keys_of(kind: Any) -> tuple[str, ...]:
    """The keys that a section may have, as they are written in the file."""
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        return ()
    return tuple(info.alias or name for name, info in kind.model_fields.items())
