"""What screening adds to a step: `python -m benchmarks.screening_steps`.

A run of 200 turns over chat completions, each with a new tool result of about 2 KB, screened for
instructions, personal data and secrets with the verdicts of the turns before at hand. Processor time of the
event loop's thread; what the pool of processes takes is told apart as the time that a step waits. Medians of
nine turns.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time

import orjson

from gateway.auth import Secrets
from gateway.domain import Principal, Step
from gateway.policy.loading import load_text
from gateway.rules.budgets import scopes_of
from gateway.rules.contracts import Contracts
from gateway.rules.lineage import Lineage
from gateway.screening.pool import ScanPool
from gateway.steps.screens import Screens
from gateway.stores.embedded import EmbeddedStore
from gateway.surfaces import chat

TURNS = 200
SHOWN = (1, 10, 50, 100, 200)
POLICY = """
version: 1
screening:
  injection: {user: {action: block}, tool: {action: neutralise}}
  pii: {action: pseudonymise}
  secrets: {action: block}
"""
TEXT = (
    "the committee met on tuesday to look at plans for a new library and two members asked about costs "
    "which had risen since spring while others wanted to know when building would begin and who pays"
)
WORDS = TEXT.split()


def result(number: int) -> str:
    """About 2 KB of harmless text, of which no two are equal."""
    rng = random.Random(number)
    lines = [" ".join(rng.choices(WORDS, k=14)).capitalize() + "." for _ in range(24)]
    return f"Page {number}. {' '.join(lines)}"


def step_at(turn: int) -> Step:
    """The request of a turn, its history included."""
    messages = [
        {"role": "system", "content": "You read reports. " * 30},
        {"role": "user", "content": "Read all pages."},
    ]
    for n in range(1, turn + 1):
        call = {
            "id": f"c{n}",
            "type": "function",
            "function": {"name": "read", "arguments": f'{{"page":{n}}}'},
        }
        messages.append({"role": "assistant", "tool_calls": [call]})  # type: ignore[dict-item]
        messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": result(n)})
    return chat.parse(orjson.dumps({"model": "m", "messages": messages}))


async def measure() -> None:
    """Print the table."""
    policy = load_text(POLICY, {})
    store = EmbeddedStore(clock=lambda: int(time.time() * 1000))
    pool = ScanPool(1)
    screens = Screens(
        pool, store, Lineage(Secrets.parse("x" * 32).current), b"k" * 32, print, lambda about, found: None
    )
    await pool.warm()
    caller = Principal("p", "k")
    contracts = Contracts(policy)
    print(f"{'turn':>5} {'request, KB':>12} {'loop, ms':>9} {'waits, ms':>10}")
    taken: list[tuple[float, float]] = []
    for turn in range(1, TURNS + 1):
        step = step_at(turn)
        scopes = scopes_of(caller, step, "run", "session", True, None, {})
        wall, busy = time.perf_counter(), time.thread_time()
        await screens.request(policy, contracts, scopes, step, {})
        taken.append((time.thread_time() - busy, time.perf_counter() - wall))
        if turn in SHOWN:
            loop, waits = (statistics.median(part) * 1e3 for part in zip(*taken[-9:], strict=True))
            print(f"{turn:>5} {len(step.raw) / 1000:>12.1f} {loop:>9.2f} {waits:>10.2f}")
    await pool.close()


def main() -> int:
    """Measure on this machine as it is now."""
    asyncio.run(measure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
