"""Agents that play before a real gateway, and backtests over what was recorded of them."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.auth import Secrets
from gateway.domain import Surface
from gateway.policy.loading import load_candidate
from gateway.replay.backtest import Wanted, backtest
from gateway.replay.policy_tests import _HISTORY, _PATHS, Said, _definition, _read, _turn
from gateway.replay.process import callers_of
from gateway.replay.recorded import Recorded, steps_of
from gateway.shaping import SHAPERS
from gateway.stores.ledger import SqlLedger
from tests.support.gateway import ALICE, SECRET_KEY, ThreadedGateway

Result = dict[str, Any]


def ask(
    gateway: ThreadedGateway, surface: str, body: dict[str, Any], *, key: str = ALICE, **headers: str
) -> Said:
    """One request on a surface, streamed where the body says so."""
    if surface == "messages":
        headers = {"anthropic_version": "2023-06-01", **headers}
    status, told, raw = gateway.post(body, key=key, path=_PATHS[surface], **headers)
    if body.get("stream") and status == 200:
        fold = SHAPERS[Surface(surface)].fold()
        fold.feed(raw if raw.endswith(b"\n\n") else raw + b"\n\n")
        raw = json.dumps(fold.reply()).encode()
    return _read(surface, status, told, raw)


def play(
    gateway: ThreadedGateway,
    surface: str = "chat",
    *,
    model: str,
    tools: tuple[str, ...] = ("search",),
    result: str | Mapping[int, str] = "nothing found",
    user: str = "Look it up.",
    steps: int = 8,
    key: str = ALICE,
    stream: bool = False,
    limit: int | None = None,
    after_end: int = 1,
    **headers: str,
) -> list[Said]:
    """An agent that calls tools until its model makes no call, or it is refused; then it asks once more, as many
    do. What it was told at each step."""
    body: dict[str, Any] = {"model": model, _HISTORY[surface]: [{"role": "user", "content": user}]}
    if tools:
        body["tools"] = [_definition(surface, name) for name in tools]
    if surface == "messages" or limit is not None:
        name = "max_output_tokens" if surface == "responses" else "max_tokens"
        body[name] = limit or 1024
    if stream:
        body["stream"] = True
    told: list[Said] = []
    ended = 0
    for step in range(steps):
        said = ask(gateway, surface, body, key=key, **headers)
        told.append(said)
        if said.status != 200 or not said.calls:
            ended += 1
            if ended > after_end:
                break
        text = result if isinstance(result, str) else result.get(step, f"result {step}")
        if said.status == 200:
            given = dict.fromkeys([name for _, name, _ in said.calls], text)
            body = {**body, _HISTORY[surface]: [*body[_HISTORY[surface]], *_turn(surface, said, given)]}
    return told


def try_out(
    gateway: ThreadedGateway,
    policy: str,
    *,
    run: str | None = None,
    limit: int = 20_000,
    secret: str = SECRET_KEY,
    since: int = 0,
) -> Result:
    """A backtest in this process, over what the gateway has recorded until now."""

    async def settled() -> None:
        await gateway.worker.drain.flush()
        await gateway.worker.recorder.flush()

    gateway.run(settled)
    base = gateway.worker.pipeline.generation.policy
    wanted = Wanted(
        policy=load_candidate(policy, base),
        base=base,
        since=since,
        limit=limit,
        run=run,
        callers=callers_of(gateway.worker.control.keys),
        now=gateway.worker.clock(),
        time_s=60.0,
    )

    async def work() -> Result:
        ledger = SqlLedger(gateway.worker.settings.ledger_url, data_dir=gateway.data_dir)
        await ledger.start()
        try:
            with tempfile.TemporaryDirectory() as directory:
                return await backtest(wanted, ledger, Secrets.parse(secret), Path(directory))
        finally:
            await ledger.close()

    return asyncio.run(work())


def recorded(gateway: ThreadedGateway) -> list[Recorded]:
    """The steps on record."""

    async def read() -> list[Recorded]:
        await gateway.worker.drain.flush()
        ids, _ = await gateway.worker.ledger.recorded_runs(0, limit=10_000)
        rows, steps = await gateway.worker.ledger.records_of(ids)
        return [
            step for run in ids for step in steps_of(rows[run], [row for row in steps if row["run"] == run])
        ]

    found: list[Recorded] = gateway.run(read)
    return found


def policy_of(gateway: ThreadedGateway) -> str:
    """The text of the policy that a gateway was started with."""
    return gateway.policy_path.read_text()


def changes(result: Result) -> list[tuple[int, str, str, str]]:
    """(step, rule, was, now) of each step that differs."""
    return [(each["step"], each["rule"], each["was"], each["now"]) for each in result["changed"]]
