"""Values to call a store with, where a test cares about only a few of their fields."""

from __future__ import annotations

from gateway.admission import (
    Admission,
    Charge,
    Evidence,
    Hold,
    Lookup,
    Rate,
    RunLimits,
    Settlement,
    Window,
)
from gateway.domain import RunSource

DAY_MS = 86_400_000
NO_LIMITS = RunLimits(enforced=True)


def lookup(
    new_run_id: str,
    *,
    session: str = "session",
    session_given: bool = False,
    name: str | None = None,
    own_run_id: str | None = None,
    principal: str = "principal",
    retry_key: str = "body",
    retry_declared: bool = False,
    evidence: tuple[Evidence, ...] = (),
    speaks_text: bool = False,
    idle_ttl_ms: int = 1_800_000,
    text_gap_ms: int = 10_000,
) -> Lookup:
    """A request by a caller; with a `name`, of the run that it names."""
    return Lookup(
        new_run_id=new_run_id,
        session=session,
        session_given=session_given,
        name=name,
        name_key=f"name:{principal}:{name}" if name is not None else None,
        named_source=RunSource.HEADER,
        own_run_id=own_run_id,
        principal=principal,
        retry_key=retry_key,
        retry_declared=retry_declared,
        evidence=evidence,
        speaks_text=speaks_text,
        idle_ttl_ms=idle_ttl_ms,
        text_gap_ms=text_gap_ms,
    )


def charge(
    counter: str,
    limit: int,
    *,
    per: str = "user",
    enforced: bool = True,
    windows: tuple[Window, ...] = (),
    warn_at: int = 0,
    ttl_ms: int = 35 * DAY_MS,
) -> Charge:
    """A budget named after its counter."""
    return Charge(f"rule-{counter}", per, counter, limit, enforced, windows, warn_at, ttl_ms)


def admission(
    attempt_id: str,
    run_id: str,
    *charges: Charge,
    cost: int = 100,
    output_rate: float = 0.0,
    tokens: int = 0,
    reserve_tokens: int | None = None,
    floor_tokens: int = 0,
    halve: bool = False,
    retry_ordinal: int = 0,
    retry_key: str = "body",
    kill_names: tuple[str, ...] = (),
    limits: RunLimits = NO_LIMITS,
    rates: tuple[Rate, ...] = (),
    input_tokens: int = 10,
    choices: int = 1,
    lease_ms: int = 60_000,
) -> Admission:
    """One attempt of `cost` nano-dollars for its input and up to `tokens` tokens of output."""
    return Admission(
        attempt_id=attempt_id,
        run_id=run_id,
        retry_ordinal=retry_ordinal,
        retry_key=retry_key,
        kill_names=kill_names,
        limits=limits,
        charges=charges,
        rates=rates,
        fixed_nano=cost,
        output_rate=output_rate,
        want_tokens=tokens,
        reserve_tokens=tokens if reserve_tokens is None else reserve_tokens,
        floor_tokens=floor_tokens,
        halve=halve,
        input_tokens=input_tokens,
        choices=choices,
        lease_ms=lease_ms,
        event=b'{"t":"run","run":"%s"}' % run_id.encode("utf-8", "replace"),
        orphan=b'{"t":"attempt","id":"%s"}' % attempt_id.encode("utf-8", "replace"),
        idle_ttl_ms=1_800_000,
    )


def settlement(
    attempt_id: str,
    run_id: str,
    cost: int,
    *,
    tokens: int = 10,
    provisional: bool = False,
    succeeded: bool = True,
    completes: bool = False,
    tool_calls: int = 0,
    links: tuple[str, ...] = (),
    head: str = "",
    retry_key: str = "body",
    index_ttl_ms: int = 3_600_000,
    holds: tuple[Hold, ...] = (),
    adopt: bool = False,
) -> Settlement:
    """The end of an attempt at `cost` nano-dollars."""
    return Settlement(
        attempt_id=attempt_id,
        run_id=run_id,
        cost=cost,
        tokens=tokens,
        provisional=provisional,
        succeeded=succeeded,
        completes=completes,
        tool_calls=tool_calls,
        links=links,
        head=head,
        retry_key=retry_key,
        index_ttl_ms=index_ttl_ms,
        holds=holds,
        adopt=adopt,
        event=b'{"t":"attempt","id":"%s","cost":%d}' % (attempt_id.encode("utf-8", "replace"), cost),
    )
