"""The ledger's tables, the same on SQLite and Postgres.

Money columns are integer nano-dollars, times integer milliseconds since the Unix epoch. JSON is kept as text:
it is read back by us alone, and text means the same in both databases. Names carry the prefix `gw_` because a
Postgres database is often shared.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 1

metadata = MetaData()


def _big(name: str, default: int | None = 0) -> Column[int]:
    return Column(name, BigInteger, nullable=default is None, default=default)


meta = Table(
    "gw_meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about the database itself: `schema`, `audit_head`, `counters_forgotten`, and `policy_files`, the
version that was last found in the policy's files."""

revision = Table(
    "gw_revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row, moved by every change of the control plane."""

steps = Table(
    "gw_steps",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("provisional", Boolean, nullable=False),
    Column("run", String, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("session", String),
    Column("principal", String),
    Column("key", String),
    Column("user", String),
    Column("team", String),
    Column("end_user", String),
    Column("surface", String),
    Column("provider", String),
    Column("requested_model", String),
    Column("model", String),
    Column("at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
    Column("verdict", String),
    Column("tags", Text, nullable=False),
    Column("extra", Text, nullable=False),
    Index("gw_steps_run", "run", "ordinal", "at", "id"),
    Index("gw_steps_at", "at"),
)
"""One row per attempt for ever (`kind` is `attempt`), and the newest refusals of each run (`refusal`).

`run` is empty for a refusal outside of any run. `at` is when the attempt began. `extra` is the event without
what has a column of its own, unknown fields included.
"""

runs = Table(
    "gw_runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String),
    Column("principal", String),
    Column("key", String),
    Column("user", String),
    Column("team", String),
    Column("end_user", String),
    Column("session", String),
    Column("source", String),
    Column("agent", String),
    Column("surface", String),
    Column("policy", String),
    Column("continues", String),
    Column("parent", String),
    Column("tags", Text, nullable=False),
    _big("started_at"),
    Column("extra", Text, nullable=False),
    Column("status", String, nullable=False),
    _big("status_at"),
    Column("reason", Text),
    Column("reason_status", String),
    _big("reason_at"),
    _big("steps"),
    _big("attempts"),
    _big("tool_calls"),
    _big("input_tokens"),
    _big("output_tokens"),
    _big("cached_tokens"),
    _big("cost"),
    _big("saved"),
    _big("last_step_at"),
    Column("model_mix", Text, nullable=False),
    _big("refusals"),
    _big("refusals_kept"),
    _big("refusals_cut_at"),
    Column("refusals_cut_id", String, nullable=False),
    Index("gw_runs_started", "started_at", "id"),
    Index("gw_runs_name", "name", "principal"),
    Index("gw_runs_session", "session"),
    Index("gw_runs_user", "user", "started_at"),
    Index("gw_runs_key", "key", "started_at"),
    Index("gw_runs_status", "status", "started_at"),
    Index("gw_runs_parent", "parent"),
)
"""A run: who it belongs to, how it stands, and the fold of its attempts.

`reason` belongs to `reason_status`; it is shown only while that is the status. `refusals_cut_*` is the newest
refusal whose detail was dropped.
"""

tool_calls = Table(
    "gw_tool_calls",
    metadata,
    Column("run", String, primary_key=True),
    Column("call_id", String, primary_key=True),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Tool calls that models made. Some providers repeat a call id within a run, hence the long key."""

tool_failures = Table(
    "gw_tool_failures",
    metadata,
    Column("run", String, primary_key=True),
    Column("call_id", String, primary_key=True),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    Column("seen", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Failed tool results, by the step whose request brought them."""

counters = Table(
    "gw_counters",
    metadata,
    Column("counter", String, primary_key=True),
    Column("used", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("touched_at", BigInteger, nullable=False),
)
"""Budget counters by full key. `expires_at` is 0 for a counter without a window."""

rejected = Table(
    "gw_rejected",
    metadata,
    Column("digest", String, primary_key=True),
    Column("entry", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("event", Text, nullable=False),
)
"""Events that could not be written, by SHA-256 of their bytes. `event` is text, other bytes escaped."""

keys = Table(
    "gw_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("user", String),
    Column("team", String),
    Column("models", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("created_by", String, nullable=False),
)

tokens = Table(
    "gw_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("created_by", String, nullable=False),
)

kills = Table(
    "gw_kills",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("target", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revived_at", BigInteger),
    Column("revived_by", String),
    Index("gw_kills_name", "name"),
    Index("gw_kills_at", "at", "id"),
)

kill_obeyed = Table(
    "gw_kill_obeyed",
    metadata,
    Column("kill", String, primary_key=True),
    Column("worker", String, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("streams", BigInteger, nullable=False),
)

topups = Table(
    "gw_topups",
    metadata,
    Column("id", String, primary_key=True),
    Column("budget", String, nullable=False),
    Column("target", String, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("gw_topups_budget", "budget", "target"),
)

policy_versions = Table(
    "gw_policy_versions",
    metadata,
    Column("version", String, primary_key=True),
    Column("text", Text, nullable=False),
    Column("author", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("share", Float, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("activated_at", BigInteger),
    Column("activated_by", String),
)

policy_ends = Table(
    "gw_policy_ends",
    metadata,
    Column("version", String, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("by", String, nullable=False),
    Column("why", Text, nullable=False),
)
"""Versions that were rolled back and not put in force again since."""

policy_unwatched = Table(
    "gw_policy_unwatched",
    metadata,
    Column("version", String, primary_key=True),
)
"""Versions in force whose runs may fare worse than others."""

approvals = Table(
    "gw_approvals",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("principal", String, nullable=False),
    Column("key", String, nullable=False),
    Column("user", String),
    Column("team", String),
    Column("session", String, nullable=False),
    Column("run", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("digest", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("decided_by", String),
    Column("decided_at", BigInteger),
    Column("reason", Text),
    Column("used_at", BigInteger),
    Index("gw_approvals_digest", "digest", "expires_at"),
    Index("gw_approvals_created", "created_at", "id"),
    Index("gw_approvals_state", "state", "created_at", "id"),
)
"""Tool calls that needed an operator's decision. `state` is `pending`, `approved` or `denied`; that one has
expired follows from `expires_at`."""

alert_claims = Table(
    "gw_alert_claims",
    metadata,
    Column("subject", String, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Index("gw_alert_claims_expires", "expires_at"),
)
"""What alerts were lately about, by SHA-256: whoever inserts the row sends the alert."""

audit = Table(
    "gw_audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("ref", String, unique=True),
    Column("prev_hash", String, nullable=False),
    Column("hash", String, nullable=False),
)

alerts = Table(
    "gw_alerts",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("event", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("alert", String, nullable=False),
    Column("thread", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("done_at", BigInteger),
    Column("error", Text),
    Column("owner", String),
    Column("owned_until", BigInteger, nullable=False),
    Index("gw_alerts_due", "state", "alert", "next_at"),
    Index("gw_alerts_thread", "alert", "thread", "state", "seq"),
    Index("gw_alerts_state", "state", "seq"),
)
"""Deliveries to webhooks. `state` is `pending`, `sent`, `failed` or `dropped`; of one `thread` of an alert
the oldest pending one goes first. `body` is empty once a delivery is over. `owner` is the worker that is at
it until `owned_until`."""

audit_steps = Table(
    "gw_audit_steps",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("seq", BigInteger),
    Column("at", BigInteger, nullable=False),
    Column("steps", Text, nullable=False),
    Index("gw_audit_steps_seq", "seq", "id"),
)
"""Which attempts were written, batch by batch, with a digest of each one's figures. `seq` is the record of
the audit log that seals the batch; until there is one it is empty."""

former_secrets = Table(
    "gw_former_secrets",
    metadata,
    Column("digest", String, primary_key=True),
    Column("credential", String, nullable=False),
    Column("replaced_at", BigInteger, nullable=False),
    Column("valid_until", BigInteger, nullable=False),
    Index("gw_former_secrets_credential", "credential"),
)
"""Secrets that keys and admin tokens had before they were rotated; each works until `valid_until`."""

key_attributes = Table(
    "gw_key_attributes",
    metadata,
    Column("key", String, primary_key=True),
    Column("priority", String, nullable=False),
    Column("max_tool_level", String, nullable=False),
)
"""What a gateway key has beside its row, where it is not the default."""

credential_uses = Table(
    "gw_credential_uses",
    metadata,
    Column("credential", String, primary_key=True),
    Column("at", BigInteger, nullable=False),
)
"""When a key or an admin token was last used, to the minute. `credential` is its id."""

sessions = Table(
    "gw_sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("source", String, nullable=False),
    Column("token", String),
    Column("secret", String, nullable=False),
    Column("address", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("ended_by", String),
    Index("gw_sessions_expires", "expires_at"),
)
"""Operators who are or were logged in with a browser. `digest` is of the cookie's value, `secret` of what
they logged in with (`source` is `admin`, `token` or `oidc`)."""

login_states = Table(
    "gw_login_states",
    metadata,
    Column("digest", String, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Index("gw_login_states_expires", "expires_at"),
)
"""States of OIDC logins that have come back from the provider, so that none comes back twice."""

run_traces = Table(
    "gw_run_traces",
    metadata,
    Column("run", String, primary_key=True),
    Column("due_at", BigInteger, nullable=False),
    Column("taken_at", BigInteger),
    Index("gw_run_traces_due", "taken_at", "due_at"),
)
"""Runs that have ended and whose span is to be exported, while tracing is on: whoever sets `taken_at` does
it. Rows are dropped after a day."""

findings = Table(
    "gw_findings",
    metadata,
    Column("step", String, primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("run", String, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("key", String),
    Column("user", String),
    Column("team", String),
    Column("agent", String),
    Column("detector", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("action", String, nullable=False),
    Column("type", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("count", BigInteger, nullable=False),
    Index("gw_findings_at", "at", "step", "n"),
    Index("gw_findings_run", "run"),
)
"""What detectors found in a step, by what the findings have in common; never what was found. `n` is the place
in the step's list."""

finding_feedback = Table(
    "gw_finding_feedback",
    metadata,
    Column("id", String, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("verdict", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("run", String, nullable=False),
    Column("step", String, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("detector", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("type", String, nullable=False),
    Column("tool", String, nullable=False),
    Column("rule", String, nullable=False),
    Column("key", String),
    Column("user", String),
    Column("team", String),
    Column("agent", String),
    Index("gw_finding_feedback_at", "at", "id"),
    Index("gw_finding_feedback_step", "step"),
)
"""What operators say of findings. `verdict` is `false_positive` or `true_positive`; of several about the same
findings of a step the newest one stands."""

folded_spend = Table(
    "gw_folded_spend",
    metadata,
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String, primary_key=True),
    Column("team", String, primary_key=True),
    Column("user", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("surface", String, primary_key=True),
    _big("cost"),
    _big("input_tokens"),
    _big("output_tokens"),
    _big("cached_tokens"),
    _big("saved"),
    _big("steps"),
    _big("attempts"),
    sqlite_with_rowid=False,
)
"""What attempts that retention has removed add up to, by the day (UTC) on which they began. An absent label
is empty. A step that took several attempts counts once, with its last one."""

folded_runs = Table(
    "gw_folded_runs",
    metadata,
    Column("run", String, primary_key=True),
    _big("steps"),
    _big("attempts"),
    _big("tool_calls"),
    _big("input_tokens"),
    _big("output_tokens"),
    _big("cached_tokens"),
    _big("cost"),
    _big("saved"),
    _big("last_step_at"),
    Column("model_mix", Text, nullable=False),
)
"""What the removed attempts of a run add up to, as long as the run itself is kept."""

folded_counters = Table(
    "gw_folded_counters",
    metadata,
    Column("counter", String, primary_key=True),
    Column("used", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""What attempts have added to counters that say so no longer: they are removed, or their person is erased."""

removed_steps = Table(
    "gw_removed_steps",
    metadata,
    Column("id", String, primary_key=True),
    sqlite_with_rowid=False,
)
"""Ids of removed attempts and refusals, so that a late repetition is not taken for a new one."""

claims = Table(
    "gw_claims",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
)
"""Work that one process at a time does, and how far it is (JSON). A claim that has run out is anyone's."""

erasures = Table(
    "gw_erasures",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("pseudonym", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("stop", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("counts", Text, nullable=False),
    Column("waits_for", Text, nullable=False),
    Column("finished_at", BigInteger),
    Column("remembered_until", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Index("gw_erasures_state", "state", "created_at", "id"),
    Index("gw_erasures_created", "created_at", "id"),
)
"""Erasures of a person's data. While one is under way `subject` is the person's name and `secret` the key of
the pseudonyms; afterwards `subject` is the pseudonym and `secret` is empty. `digest` tells late events of
that person until `remembered_until`: an HMAC under the gateway's own secret."""

erasure_names = Table(
    "gw_erasure_names",
    metadata,
    Column("erasure", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("common", Boolean, nullable=False),
)
"""Names that an erasure under way has met in what it erased; none once it is done. `common` ones, of tags and
agents, may be other people's too."""

erased_runs = Table(
    "gw_erased_runs",
    metadata,
    Column("run", String, primary_key=True),
    Column("erasure", String, nullable=False),
    Index("gw_erased_runs_erasure", "erasure"),
)
"""Runs whose person was erased: what is told of them late is kept without names."""

recordings = Table(
    "gw_recordings",
    metadata,
    Column("id", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("base", String),
    Column("prefix", BigInteger, nullable=False),
    Column("suffix", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index("gw_recordings_run", "run"),
    Index("gw_recordings_expires", "expires_at"),
)
"""What steps held, compressed and encrypted: a `request` by the id of its decision, an `answer` by that of
its attempt. A request that begins and ends as another of its run, `base`, holds only what is between, and
the two expire together."""
