"""What stays of a step and of a run when the person behind it is erased. Pure.

Figures, models, tools and codes stay; names become pseudonyms; everything else goes. It is a list of what
stays, not of what goes, so that a field that nobody thought of is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson

from gateway.domain import Json
from gateway.stores.ledger_events import Attempt, Event, StatusChange, clip

Rename = Callable[[str], str]

REMOVED = "removed"
"""What stands in the place of a name whose time is over: one word for all, so that nothing tells them
apart."""
PERSONAL = ("user", "end_user", "session", "name", "agent")
"""Label columns that may name a person."""
PSEUDONYM = re.compile(r"erased-[a-z2-7]{24}")

_CODE = re.compile(r"[A-Za-z0-9_.:/-]{1,80}")
_FIGURES = (
    "stream", "reserved", "latency_ms", "ttft_ms", "overhead_ms", "queued_ms", "http_status", "limit", "used",
    "money",
)  # fmt: skip
_CODES = (
    "usage_source", "cost_source", "outcome", "finish_reason", "error", "decision", "policy", "run_status",
    "code", "rule", "scope",
)  # fmt: skip
_DECISION = ("rule", "mode", "decision", "from", "to", "limit", "used", "results", "tokens")
_FINDING = ("detector", "channel", "action", "mode", "type", "score", "count")
_CALL = ("id", "name", "delivered")
_RESULT = ("call_id", "name", "status", "error_type", "ok")


def code_or_none(value: Any) -> str | None:
    """A text that is a code and no sentence; None for any other."""
    return value if type(value) is str and _CODE.fullmatch(value) else None


def scrubbed_step(row: Mapping[Any, Any], rename: Rename, also: Collection[str] = ()) -> Json:
    """A row of the steps table without its person. `also` are label columns that name it beside `PERSONAL`.

    Charges of a real attempt are left out: the caller keeps their sums. Those of a provisional one stay until
    the real one replaces it.
    """
    extra: Json = orjson.loads(row["extra"])
    kept: Json = {name: extra[name] for name in _FIGURES if _is_figure(extra.get(name))}
    kept |= {name: code for name in _CODES if (code := code_or_none(extra.get(name))) is not None}
    usage = extra.get("usage")
    if type(usage) is dict:
        kept["usage"] = {name: value for name, value in usage.items() if _is_figure(value)}
    for name, fields in (
        ("decisions", _DECISION),
        ("findings", _FINDING),
    ):
        if found := _objects(extra.get(name), fields):
            kept[name] = [
                {k: v for k, v in each.items() if _is_figure(v) or code_or_none(v)} for each in found
            ]
    # What the tool tables are the fold of stays as it is.
    for name, few in (("tool_calls", _CALL), ("tool_results", _RESULT)):
        if told := _objects(extra.get(name), few):
            kept[name] = told
    if row["provisional"] and extra.get("charges"):
        kept["charges"] = extra["charges"]
    return {**row, **_labels(row, rename, also), "extra": orjson.dumps(kept).decode()}


def scrubbed_run(row: Mapping[Any, Any], rename: Rename, also: Collection[str] = ()) -> Json:
    """A row of the runs table without its person."""
    extra: Json = orjson.loads(row["extra"])
    kept = {name: code for name in ("root",) if (code := code_or_none(extra.get(name))) is not None}
    return {
        **row,
        **_labels(row, rename, also),
        "extra": orjson.dumps(kept).decode(),
        "reason": code_or_none(row["reason"]),
    }


def names_of(row: Mapping[Any, Any], also: Collection[str] = ()) -> dict[str, bool]:
    """The names in a row of steps or runs that `scrubbed_step` and `scrubbed_run` replace, and of each
    whether it is a common one: of a tag or an agent, which other people's runs may have too."""
    tags = orjson.loads(row["tags"])
    found = dict.fromkeys((*tags, *tags.values(), row.get("agent")), True)
    found |= {row[column]: False for column in _personal(row, also) if column != "agent"}
    return {name: common for name, common in found.items() if name and not PSEUDONYM.fullmatch(name)}


def late_event(
    event: Event,
    run: Mapping[Any, Any] | None,
    rename: Rename,
    columns: Sequence[str],
    also: Collection[str] = (),
) -> Event | None:
    """What is kept of an event that arrives after its person was erased; None when nothing is.

    `run` is the run's row, whose labels it takes over; without one `rename` makes them. `columns` are those
    of the steps table.
    """
    if isinstance(event, StatusChange):
        event.meta, event.reason = _late_meta(event.meta, run, rename, also), code_or_none(event.reason)
        return event
    if not isinstance(event, Attempt):
        return None
    row = scrubbed_step(dict(zip(columns, event.row, strict=True)), rename, also)
    if run is not None:
        row |= {name: run[name] for name in (*_IDENTITY, "tags")}
    # It is charged now, and its row has to say so.
    extra = orjson.loads(row["extra"])
    extra["charges"] = [list(charge) for charge in event.charges]
    row["extra"] = orjson.dumps(extra).decode()
    event.row = tuple(row[name] for name in columns)
    event.meta = {} if run is not None else {name: row[name] for name in _IDENTITY}
    event.reason = code_or_none(event.reason)
    return event


def _late_meta(meta: Json, run: Mapping[Any, Any] | None, rename: Rename, also: Collection[str]) -> Json:
    if run is not None:
        return {}
    row = {name: clip(str(meta[name])) for name in _IDENTITY if meta.get(name)}
    return {**row, **{name: rename(row[name]) for name in _personal(row, also) if row[name]}}


_IDENTITY = ("user", "end_user", "session", "principal", "key", "team")


def _personal(row: Mapping[Any, Any], also: Collection[str]) -> list[str]:
    """The label columns of a row that name its person. A key or principal that is called like its user
    does."""
    person = {row.get("user"), row.get("end_user")} - {None}
    columns = [name for name in (*PERSONAL, *also) if name in row]
    if row.get("key") in person:
        columns.append("key")
    if row.get("principal") in person or (row.get("principal") or "").removeprefix("key:") in person:
        columns.append("principal")
    return columns


def _labels(row: Mapping[Any, Any], rename: Rename, also: Collection[str]) -> Json:
    tags = orjson.loads(row["tags"])
    renamed = {rename(name): rename(value) if value else "" for name, value in tags.items()}
    return {
        **{name: rename(row[name]) for name in _personal(row, also) if row[name]},
        "tags": orjson.dumps(renamed).decode() if REMOVED not in renamed else "{}",
    }


def _objects(value: Any, fields: Collection[str]) -> list[Json]:
    if type(value) is not list:
        return []
    return [{name: each[name] for name in fields if name in each} for each in value if type(each) is dict]


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float, bool)
