"""The ledger's tables, the same on SQLite and Postgres.

Money columns are integer nano-dollars, times integer milliseconds since the Unix epoch. JSON is kept as text:
it is read back by us alone, and text means the same in both databases. Names carry the prefix `gw_` because a
Postgres database is often shared.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text

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
"""Facts about the database itself: `schema`, `audit_head`, `counters_forgotten`."""

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
