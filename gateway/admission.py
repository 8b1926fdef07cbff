"""The values that pass between the pipeline and a store: finding a run, admitting a step, settling it.

A store performs each of `resolve`, `admit`, `extend` and `settle` atomically. Their meaning is written
once, in `gateway.stores.embedded`; the Redis scripts answer the same, and one test drives both with the
same random sequences.

Index and counter keys are opaque here: `gateway.rules.lineage` and `gateway.rules.budgets` make them, always
from an HMAC that includes the principal, so that no hint or hostile id reaches across principals.
"""

from __future__ import annotations

from gateway.domain import Millis, Nano, RunSource, RunStatus
from gateway.values import frozen

MAX_RETRIES = 10
RETRY_WINDOW_MS = 60_000
INDEX_WIDTH = 128
"""How many runs one index entry remembers; twins with equal transcripts share an entry."""
MAX_ANCESTORS = 8


@frozen
class Evidence:
    """One reason to think that a request continues a known run.

    `then_user` says that a new user item stands after the place that the evidence points at.
    """

    key: str
    source: RunSource
    then_user: bool


@frozen
class Lookup:
    """A question to the store: which run does this request belong to?"""

    new_run_id: str
    session: str
    """The session of a run that has to be opened, unless it continues another run."""
    session_given: bool
    """The caller named the session itself, so a successor run does not inherit another."""
    name: str | None
    name_key: str | None
    """Index key of a run that the caller names (header or URL)."""
    named_source: RunSource
    own_run_id: str | None
    """The caller's name, when it may be a run id that this gateway made."""
    principal: str
    retry_key: str
    retry_declared: bool
    evidence: tuple[Evidence, ...]
    speaks_text: bool
    """No tools are offered: the next user item may be a tool result in disguise."""
    idle_ttl_ms: int
    text_gap_ms: int
    parents: tuple[str, ...] = ()
    """Index keys that lead to the declared parent; the first that is known counts."""
    parent_run_id: str | None = None
    """The declared parent, when it may be a run id that this gateway made."""
    known_as: tuple[str, ...] = ()
    """Index keys under which children will look for this run; it becomes the latest of each."""
    tasks: tuple[str, ...] = ()
    """Index keys of what this run is told to do, should it be new: another run may have passed that on."""
    policy: str = ""
    """Version of the policy that governs the run, should it be new."""


@frozen
class RunView:
    """The store's answer to a `Lookup`."""

    run_id: str
    session: str
    source: RunSource
    is_new: bool
    explicit: bool
    """Named by the caller: ended by its idle TTL or an operator, never by an answer."""
    name: str | None
    continues: str | None
    retry_ordinal: int
    """Ordinal of the step that this request repeats; 0 when it is a step of its own."""
    merged: bool
    status: RunStatus
    started_at: Millis
    steps: int
    cost: Nano
    idle_ms: int
    """Milliseconds since its last step began or was answered, by the store's clock; 0 for a new run."""
    ancestors: tuple[str, ...] = ()
    """Ids of the declared parent, its parent and so on, at most `MAX_ANCESTORS`; the root is always last."""
    progress: bytes = b""
    """What the run has done so far, as `gateway.rules.trace` keeps it; opaque to the store."""
    landed: int = 0
    """Ordinal of the step by which the run was landed; 0 while it was not."""
    asked_by: str | None = None
    """The one run that had a tool called with what this new run is told to do. A guess, to be shown alone."""
    policy: str = ""
    """Version of the policy that it was opened under; empty when nobody said."""


@frozen
class Ending:
    """Why a run was landed: what every later step of it is refused with."""

    code: str
    rule: str
    per: str
    limit: int
    used: int


@frozen
class Window:
    """One period of a budget. `id` is empty and `ends_at` 0 for a budget that lasts as long as its scope."""

    id: str
    ends_at: Millis


@frozen
class Charge:
    """One budget that a step has to fit into."""

    rule: str
    per: str
    counter: str
    """Counter key without its window."""
    limit: Nano
    enforced: bool
    """A shadow budget reserves and settles like a real one and never refuses."""
    windows: tuple[Window, ...]
    """The current period and the next: the store chooses by its own clock."""
    warn_at: Nano
    ttl_ms: int
    """How long a counter without a window lives after its last use."""
    kept_back: Nano = 0
    """Part of the limit that this attempt may not use, extensions included: what the run's last step, its
    landing, will need."""


@frozen
class Rate:
    """Limits per minute, and on calls in flight, of one scope; 0 means no such limit."""

    rule: str
    per: str
    counter: str
    enforced: bool
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    new_runs_per_minute: int = 0
    max_concurrency: int = 0
    nano_per_minute: Nano = 0
    """Money: reserved when a step is let in, corrected when it is settled."""


@frozen
class RunLimits:
    """Limits of a run; 0 means no such limit."""

    enforced: bool
    max_steps: int = 0
    max_wall_clock_ms: int = 0
    max_tokens: int = 0
    max_tool_calls: int = 0


@frozen
class Admission:
    """Everything that has to hold for one attempt, checked and reserved all or nothing."""

    attempt_id: str
    run_id: str
    retry_ordinal: int
    retry_key: str
    kill_names: tuple[str, ...]
    """What an operator may have killed: `global`, `run:<id>`, `<id>`, `user:<name>` …, strongest first."""
    limits: RunLimits
    charges: tuple[Charge, ...]
    rates: tuple[Rate, ...]
    fixed_nano: Nano
    """Input and request price: an upper bound of what the attempt costs before its first output token."""
    output_rate: float
    """Nano-dollars per output token, all choices together."""
    want_tokens: int
    """Output tokens per choice that the attempt may produce: an upper bound."""
    reserve_tokens: int
    """Output tokens to reserve now; less than `want_tokens` only for streams, which extend."""
    floor_tokens: int
    """The least output worth admitting."""
    halve: bool
    """The caller set no limit: take what half of the tightest remaining budget can pay."""
    input_tokens: int
    choices: int
    lease_ms: int
    event: bytes
    """Ledger event that makes the run visible; appended with the run's first attempt."""
    orphan: bytes
    """Ledger event of this attempt, should nobody live to settle it; the store adds cost and charges."""
    idle_ttl_ms: int
    landing: Ending | None = None
    """This attempt is the run's last. Limits of the run do not hold it; budgets, rates and kills do. A run
    lands once: another step's landing is refused as any later step is, a retry of the same step is not."""


@frozen
class Hold:
    """A counter that an attempt holds a reservation on, window included, and when it may be forgotten."""

    counter: str
    expires_at: Millis


@frozen
class Admitted:
    """The attempt may go upstream; `reserved` is held until it is settled or its lease runs out."""

    ordinal: int
    reserved: Nano
    output_tokens: int
    """The output limit to send upstream, per choice; below `want_tokens` when it was clamped."""
    holds: tuple[Hold, ...]
    warned: tuple[str, ...]
    """Budgets that crossed `warn_at` with this attempt."""
    shadow_denied: tuple[str, ...]
    """Shadow rules that would have refused."""
    run_remaining: Nano | None
    """What is left of the run's own budget after this reservation."""
    admitted_at: Millis


@frozen
class Denied:
    """The attempt may not go upstream. `used` includes what others have reserved."""

    code: str
    rule: str
    per: str
    limit: int
    used: int
    need: int
    resets_at: Millis
    """0 when waiting does not help."""
    retry_after_ms: int
    """0 when the denial does not pass by itself."""
    reason: str
    """An operator's own words, for kills."""


@frozen
class Settlement:
    """What an attempt came to. Applied once; only a provisional one may be replaced by the real figure."""

    attempt_id: str
    run_id: str
    cost: Nano
    tokens: int
    """What counts against the run's `max_tokens` and a scope's tokens per minute."""
    provisional: bool
    """A janitor's conservative guess, which the real figure may replace."""
    succeeded: bool
    """False when the provider failed or the caller left: an identical request is then a retry."""
    completes: bool
    """The model answered without tool calls: the run ends unless it was named."""
    tool_calls: int
    links: tuple[str, ...]
    """Index keys that lead to this run from now on."""
    head: str
    """Index key of the conversation as it stands after this answer; empty when there was none."""
    retry_key: str
    index_ttl_ms: int
    holds: tuple[Hold, ...]
    """As admitted: what to charge when the store has lost the attempt."""
    adopt: bool
    """Apply even if the store has lost the attempt; only after the ledger was asked that it lacks it."""
    event: bytes
    """Ledger event, appended in the same atomic step."""
    ends_as: str = ""
    """Status that the run has from now on, whatever else is open in it; empty leaves it to `completes`."""
    ends_because: str = ""
    """The reason shown beside that status."""
    progress: bytes = b""
    """Replaces the run's `RunView.progress`; empty leaves it."""
    waited_ms: int = 0
    """How long the answer waited for a person, which does not count as the run's time."""


@frozen
class Settled:
    """`applied` is false for a repetition. `known` is false when the store has lost the attempt."""

    known: bool
    applied: bool
    run_cost: Nano
    run_remaining: Nano | None
    status: RunStatus


@frozen
class Kill:
    """An operator's stop. `name` is as in `Admission.kill_names`."""

    name: str
    reason: str


@frozen
class CounterState:
    """What a budget counter holds now."""

    used: Nano
    reserved: Nano


@frozen
class Quota:
    """A number of tool calls that a scope may make. `window_ms` 0 counts for the counter's life; else it is a
    sliding window, kept as two neighbouring periods, the older weighted by what is left of it.

    An `amount` of 0 asks only what is used and is never refused. A shadow quota counts whatever its limit,
    when no enforced one refuses."""

    rule: str
    per: str
    counter: str
    limit: int
    amount: int
    enforced: bool
    window_ms: int
    ttl_ms: int
    """How long a counter without a window lives after it was last asked for, in vain too."""


@frozen
class Taken:
    """The answer to a request for quotas: all were counted, or none.

    `refused` is the place of the first enforced quota without room, -1 when there was room in each; `used` is
    what each had counted before.
    """

    refused: int
    used: tuple[int, ...]


@frozen
class BreakerRule:
    """When something that fails is left alone. Times in milliseconds."""

    error_rate: float
    """Share of failures among the calls of the window at which it opens."""
    min_calls: int
    """With fewer calls than this in the window it stays closed."""
    window_ms: int
    open_ms: int
    """How long it stays open before probes are let through."""
    probes: int
    """Calls let through while half open, over all processes; as many successes close it again."""
    min_sources: int = 1
    """From how many different sources failures have to come."""
    dead_after_ms: int = 0
    """It opens as well when only failures came for so long, `min_calls` of them in the window; 0: never."""


@frozen
class BreakerState:
    """A breaker as the store has it. `state` is `closed`, `open`, or `half_open` from the moment at which it
    lets probes through; `until` is that moment while it is open, 0 otherwise. `ok` and `failed` are what was
    reported in the window that ends now."""

    key: str
    state: str
    ok: int
    failed: int
    opened_at: Millis
    until: Millis


@frozen
class Baseline:
    """What an agent's runs are usually like: exponentially weighted mean and variance of each figure."""

    runs: float
    """How many runs it rests on, old ones counting less."""
    mean: dict[str, float]
    variance: dict[str, float]
