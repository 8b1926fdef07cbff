"""What the embedded store holds in memory follows the load, and not how long it has been running."""

from __future__ import annotations

from dataclasses import replace

from gateway.admission import BreakerRule, Quota, Rate
from gateway.stores.embedded import EmbeddedStore
from tests.support import store_values as make

START = 1_800_000_000_000
RULE = BreakerRule(0.5, 1, 60_000, 1_000, probes=1)


def held(part: object, name: str = "store") -> dict[str, int]:
    """How many entries each table of a store has, where it has any."""
    found: dict[str, int] = {}
    for attribute, value in vars(part).items():
        if isinstance(value, dict | list):
            found[f"{name}.{attribute}"] = len(value)
        elif hasattr(value, "__dict__") and type(value).__module__.startswith("gateway.stores"):
            found |= held(value, f"{name}.{attribute}")
    return {table: count for table, count in found.items() if count}


async def a_day_of_work(store: EmbeddedStore) -> None:
    """Three hundred runs of callers that are never seen again."""
    for n in range(300):
        who = str(n)
        run = make.lookup(f"run-{who}", session=f"s-{who}", retry_key=f"body-{who}")
        await store.resolve(replace(run, known_as=(f"agent-{who}",)))
        rate = Rate(f"r-{who}", "user", f"rate-{who}", True, 100, 10**6, 10, 5, 10**9)
        admission = make.admission(
            f"a-{who}", f"run-{who}", make.charge(f"c-{who}", 1_000), retry_key=f"body-{who}", rates=(rate,)
        )
        await store.admit(admission)
        if n % 3:
            end = make.settlement(f"a-{who}", f"run-{who}", 50, retry_key=f"body-{who}", links=(f"l-{who}",))
            await store.settle(end)
        await store.take([Quota("q", "run", f"q-{who}", 9, 1, True, 0, make.DAY_MS)])
        await store.report(f"b-{who}", RULE, source=who, ok=1, failed=0)
        await store.observe(f"agent-{who}", {"steps": 1.0}, 0.95)
        await store.remember({f"kept-{who}": b"x"}, make.DAY_MS)
        await store.acknowledge_kill(f"kill-{who}", "w", 1)
    await store.confirm_events([event for event, _ in await store.take_events(10_000)])


async def test_a_store_that_has_been_idle_holds_what_an_empty_one_does() -> None:
    now = [START]
    store = EmbeddedStore(clock=lambda: now[0])
    await a_day_of_work(store)
    busy = held(store)
    assert min(busy.values()) >= 100, busy
    for _ in range(120):
        now[0] += make.DAY_MS
        await store.reap()
        await store.confirm_events([event for event, _ in await store.take_events(10_000)])
    # Who has obeyed a kill is kept for a few thousand kills.
    assert set(held(store)) <= {"store._kill_acks"}
