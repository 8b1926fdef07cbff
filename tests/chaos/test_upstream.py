"""Providers at their worst: cut anywhere, silent anywhere, dead, full of nonsense; and connections that are
given up in masses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.domain import Surface
from gateway.testing import ProviderServer, Reply, error_reply, running_provider
from gateway.testing.script import CutHow
from tests.chaos.rig import (
    LENGTH_S,
    SLACK_S,
    TEAM_BUDGET,
    Callers,
    Stop,
    balance,
    callers,
    keep_busy,
    ledger,
    memory_and_files,
    mixed,
    percentile,
    policy_for,
    request,
    serving_workers,
    site,
    tree,
)
from tests.clients.test_cuts import CALL, NOWHERE, QUERY, SDK_OF, TEXT, Heard, cut_as_asked, prompt
from tests.support.redis_server import RedisServer
from tests.support.wire import CHAT, WIRES

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_no_cut_stream_passes_for_whole(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """The providers' streams end at any byte, closed, reset or as if all were well, before the real SDKs of
    three surfaces: none takes what is left for a whole answer or a whole tool call. In random order, as many
    bytes as the time allows."""
    whole: dict[tuple[Surface, str], Heard] = {}
    cuts: dict[str, int] = {}
    failed = 0

    async def hear(client: Any, surface: Surface, at: int) -> Heard:
        heard = Heard()
        try:
            await SDK_OF[surface].stream(client, prompt(at), heard)
        except SDK_OF[surface].errors:
            heard.failed = True
        return heard

    async def run(url: str) -> None:
        nonlocal failed
        dice = random.Random(seed)
        until = time.monotonic() + 1.5 * LENGTH_S
        hows: list[CutHow] = ["fin", "clean", "rst"]
        ways = list(itertools.product(SDK_OF, ("call", "text"), hows))
        for turn, (surface, what, how) in enumerate(ways):
            cut_as_asked(provider, CALL if what == "call" else TEXT, how)
            async with SDK_OF[surface].connect(url) as client:
                if (surface, what) not in whole:
                    whole[surface, what] = await hear(client, surface, NOWHERE)
                    said = whole[surface, what].said
                    assert said == (f'{{"query":"{QUERY}"}}' if what == "call" else TEXT.text)
                await provider.wait_idle()
                await hear(client, surface, NOWHERE)
                await provider.wait_idle()
                places = list(range(provider.journal.last.body_bytes))
                dice.shuffle(places)
                ends = time.monotonic() + (until - time.monotonic()) / (len(ways) - turn)
                least = len(places) - 24
                while places and (time.monotonic() < ends or len(places) > least):
                    some, places = places[:8], places[8:]
                    for at, heard in zip(
                        some, await asyncio.gather(*(hear(client, surface, at) for at in some)), strict=True
                    ):
                        assert heard.failed or heard == whole[surface, what], (surface, what, how, at, heard)
                        failed += heard.failed
                        cuts[surface] = cuts.get(surface, 0) + 1
                await provider.wait_idle()

    with site(tmp_path, policy_for(provider, TEAM_BUDGET), None, workers="1") as alone:
        asyncio.run(run(alone.url))
        books = balance(alone.gateway, provider)
    assert failed > sum(cuts.values()) / 2
    assert set(cuts) == set(SDK_OF)
    figures |= {
        **{f"cuts on {surface}": count for surface, count in cuts.items()},
        "taken for whole": 0,
        **books.figures(),
    }


PHASES = ("head", "first_chunk", "mid_chunk", "mid_utf8", "finish", "usage", "done")


def test_a_silence_at_any_point_ends_in_time(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """Upstreams fall silent at each phase of an answer, while others are served: each caller is told within the
    limit, nothing stays reserved, and the others notice nothing."""
    for phase in PHASES:
        provider.script(f"stall-{phase}", Reply("Grüße — schöne Wörter " * 4, chunks=8, stall_at=phase))  # type: ignore[arg-type]
    provider.script("quick", Reply("quick"))
    limits = "timeouts: {connect_s: 1, first_byte_s: 1, idle_s: 1, total_s: 3}"
    waited: dict[str, float] = {}
    ends: dict[str, set[str | None]] = {}
    stalls = [0]

    async def heartbeat(many: Callers, stop: Stop) -> list[float]:
        took = []
        while not stop:
            answer = await many.ask(CHAT, request(CHAT, "quick", "beat"))
            assert answer.status == 200
            took.append(answer.took_s)
            await asyncio.sleep(0.02)
        return took

    async def run(url: str) -> tuple[list[float], list[float]]:
        async with callers(url) as many:
            quiet = Stop()
            beats = asyncio.create_task(heartbeat(many, quiet))
            await asyncio.sleep(2)
            quiet.set = True
            before = await beats
            stop = Stop()
            beats = asyncio.create_task(heartbeat(many, stop))
            until = time.monotonic() + LENGTH_S

            async def work(number: int, dice: random.Random, stop: Stop) -> None:
                phase = dice.choice([*PHASES, "connect"])
                wire = WIRES[dice.choice(list(WIRES))]
                body = request(
                    wire, f"stall-{phase}", f"{number} {dice.random()}", stream=dice.random() < 0.7
                )
                if phase == "connect":
                    body["model"] = "nowhere/x"
                answer = await many.ask(wire, body)
                stalls[0] += 1
                waited[phase] = max(waited.get(phase, 0.0), answer.took_s)
                code = answer.code
                ends.setdefault(phase, set()).add(code)
                whole = code is None and wire.read(answer.raw).clean
                assert code in (
                    "upstream_timeout",
                    "upstream_unavailable",
                    "upstream_stream_interrupted",
                ) or (whole and phase in ("usage", "done", "finish")), (
                    phase,
                    wire.name,
                    answer.status,
                    answer.raw[-300:],
                )
                if time.monotonic() > until:
                    stop.set = True

            await keep_busy(24, work, seed, stop)
            return before, await beats

    with full_backlog() as port:
        extra = TEAM_BUDGET
        policy = policy_for(provider, extra, of_provider=limits).replace(
            "models:",
            f'  nowhere: {{dialect: openai, base_url: "http://127.0.0.1:{port}/v1", api_key: none, breaker: null, {limits}}}\n'
            'models:\n  "nowhere/*": {provider: nowhere, price: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}',
            1,
        )
        with site(tmp_path, policy, None, workers="1") as alone:
            before, during = asyncio.run(run(alone.url))
            books = balance(alone.gateway, provider)
    assert max(waited.values()) < 3 + SLACK_S
    assert set(waited) == {*PHASES, "connect"}
    assert percentile(during, 0.99) < percentile(before, 0.99) + 1 + SLACK_S
    figures |= {
        "silences": stalls[0],
        "longest wait (limits 1 s, 3 s in all)": f"{max(waited.values()):.1f} s",
        "others' p99 before / meanwhile": f"{1000 * percentile(before, 0.99):.0f} / {1000 * percentile(during, 0.99):.0f} ms",
        **books.figures(),
    }


@contextlib.contextmanager
def full_backlog() -> Any:
    """A port that accepts nobody: its queue is full, and whoever dials waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_calls_given_up_in_masses_leave_no_connection_taken(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """Callers leave at random moments, twice as many at once as the provider may be asked: afterwards every call
    is served, and no slot is missing."""
    limit = 32
    provider.script("slow", Reply("a few words", chunks=4, chunk_delay_s=0.03))
    provider.script("quick", Reply("quick"))
    left = [0]

    async def run(url: str) -> list[int]:
        async with callers(url) as many:
            until = time.monotonic() + 1.5 * LENGTH_S
            stop = Stop()

            async def work(number: int, dice: random.Random, stop: Stop) -> None:
                wire, body = mixed(dice, ["slow"], f"{number} {dice.random()}")
                try:
                    await asyncio.wait_for(many.ask(wire, body), dice.uniform(0.005, 0.15))
                except TimeoutError:
                    left[0] += 1
                stop.set = time.monotonic() > until

            await keep_busy(2 * limit, work, seed, stop)
            statuses = []
            for turn in range(10):
                after = (many.ask(CHAT, request(CHAT, "quick", f"after {turn} {n}")) for n in range(limit))
                statuses += [a.status for a in await asyncio.gather(*after)]
            return statuses

    capacity = f"max_concurrency: {limit}"
    with site(tmp_path, policy_for(provider, TEAM_BUDGET, of_provider=capacity), None, workers="1") as alone:
        statuses = asyncio.run(run(alone.url))
        peak = provider.open_connections
        books = balance(alone.gateway, provider)
    assert statuses == [200] * (10 * limit)
    assert peak <= 2 * limit  # the two providers of the policy are one here
    assert left[0] > 100
    figures |= {
        "calls given up": left[0],
        "at once, of a limit of": f"{2 * limit}, {limit}",
        "served afterwards": f"{statuses.count(200)} of {len(statuses)}",
        "connections to the provider": f"{peak} of {2 * limit}",
        **books.figures(),
    }


@pytest.mark.redis
def test_a_dead_provider_is_left_alone(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """100 callers on two workers, with retries: a provider that is dead is closed off after `dead_after_s`, however
    much went well before; from then on it is asked by probes alone; then it recovers."""
    open_s, dead_after_s, probes = 2, 1, 3
    dead = threading.Event()

    def play(ask: Any) -> Reply:
        del ask
        return error_reply(503, head_delay_s=0.05) if dead.is_set() else Reply("well", head_delay_s=0.05)

    provider.script("frail", play)
    breaker = f"breaker: {{open_s: {open_s}, dead_after_s: {dead_after_s}, min_calls: 20, probes: {probes}}}"
    policy = policy_for(provider, TEAM_BUDGET + "routing: {}\n", of_provider=breaker)
    states: list[str] = []
    seen_open: list[float] = []

    async def run(url: str, watch: Any) -> tuple[float, float, float, dict[str, int]]:
        async with callers(url) as many:
            stop = Stop()

            async def work(number: int, dice: random.Random, _: Stop) -> None:
                answer = await many.ask(CHAT, request(CHAT, "frail", f"{number} {dice.random()}"))
                if answer.status != 200:
                    await asyncio.sleep(dice.uniform(0.2, 1.0))

            load = asyncio.create_task(keep_busy(100, work, seed, stop))
            await asyncio.sleep(2)
            dead.set()
            died = time.time() * 1000
            async with asyncio.timeout(60):
                while "open" not in states:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(LENGTH_S / 2)
            dead.clear()
            revived = time.time() * 1000
            async with asyncio.timeout(60):
                while await asyncio.to_thread(watch) != "closed":
                    await asyncio.sleep(0.1)
            closed = time.time() * 1000
            await asyncio.sleep(1)
            stop.set = True
            await load
            return died, revived, closed, dict(many.outcomes)

    with site(tmp_path, policy, redis) as two:
        serving_workers(two.gateway, 2)

        def watch() -> str:
            rows = {row["id"]: row["state"] for row in two.gateway.admin("GET", "/breakers")["data"]}
            return str(rows.get("provider:shared:openai", "closed"))

        ended = threading.Event()

        def note() -> None:
            while not ended.wait(0.05):
                with contextlib.suppress(OSError):
                    state = watch()
                    if not states or states[-1] != state:
                        states.append(state)
                        if state == "open":
                            seen_open.append(time.time() * 1000)

        noting = threading.Thread(target=note, daemon=True)
        noting.start()
        died, revived, closed, outcomes = asyncio.run(run(two.url, watch))
        ended.set()
        noting.join(5)
        books = balance(two.gateway, provider)
    journal = list(provider.journal)
    failed = [a for a in journal if died <= a.received_at < revived and a.status == 503]
    # Told to the store every 0.2 s, looked up every second.
    assert seen_open[0] - died < (dead_after_s + 3) * 1000
    # Who had asked before another worker's failure closed it may still be on the way.
    late = [a for a in failed if a.received_at > seen_open[0] + 500]
    trials = (revived - died) / (open_s * 1000) + 1
    assert states[0] == states[-1] == "closed"
    assert "open" in states
    illegal = set(itertools.pairwise(states)) & {("closed", "half_open")}
    assert not illegal
    assert len(late) <= probes * trials
    refused = sum(n for kind, n in outcomes.items() if kind.startswith("503"))
    figures |= {
        "callers": 100,
        "refused meanwhile": refused,
        "sent to the dead provider": len(failed),
        "closed off after": f"{(seen_open[0] - died) / 1000:.1f} s",
        "asked after that": len(late),
        "states seen": " > ".join(states),
        "closed again after": f"{(closed - revived) / 1000:.1f} s",
        **books.figures(),
    }


NONSENSE: dict[str, Reply] = {
    "an HTML page, 502": Reply(
        status=502, body=b"<html><script>alert(1)</script></html>", content_type="text/html"
    ),
    "an HTML page, 200": Reply(body=b"<html><script>alert(1)</script></html>", content_type="text/html"),
    "broken JSON": Reply(body=b'{"choices": [{"mess', content_type="application/json"),
    "an error under 200": Reply(error={"message": "sk-live-0123456789abcdef is wrong", "type": "x"}),
    "gzip unasked": Reply("hello", gzip=True),
    "a length too long": Reply("hello", content_length=100_000),
    "a length too short": Reply("hello", content_length=5),
    "a line without end": Reply(endless="line", endless_bytes=400 << 20),
    "a header without end": Reply(endless="header", endless_bytes=400 << 20),
    "no HTTP": Reply(wire=b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nothing at all": Reply(wire=b""),
    "half a head": Reply("hello", cut_head_at_byte=20),
    "chunks that lie": Reply(
        wire=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nffff\r\nhi\r\n0\r\n\r\n"
    ),
    "two lengths": Reply(
        wire=b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\ncontent-length: 50\r\n\r\nhello"
    ),
    "events that are no JSON": Reply(
        body=b"data: {oops\n\ndata: [DONE]\n\n", content_type="text/event-stream"
    ),
    "null bytes": Reply(body=b"\x00" * 4096, content_type="application/json"),
    "status 204": Reply(status=204, body=b""),
    "status 999": Reply(status=999, body=b"{}", content_type="application/json"),
    "usage that lies": Reply(
        "hello", usage={"prompt_tokens": -5, "completion_tokens": "NaN", "total_tokens": 1e308}
    ),
}


def test_nonsense_from_a_provider_harms_nobody(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """Each kind of nonsense on three surfaces, plain and streaming, many at once: an answer in the surface's
    grammar or an error, bounded memory, nothing of it reflected as markup, no credential sent elsewhere."""
    with running_provider(seed=seed + 1) as elsewhere:
        nonsense = {
            **NONSENSE,
            "elsewhere": Reply(status=307, headers=[("location", f"{elsewhere.base_url}/chat/completions")]),
        }
        for name, reply in nonsense.items():
            provider.script(name.replace(" ", "-").replace(",", ""), reply)
        provider.script("quick", Reply("quick"))
        statuses: dict[str, set[int]] = {}
        peak = [0]

        async def run(url: str, processes: Any) -> int:
            async with callers(url) as many:
                for _ in range(8):
                    await many.ask(CHAT, request(CHAT, "quick", "warm"))
                base = memory_and_files(processes)[0]
                stop = Stop()

                async def look() -> None:
                    while not stop:
                        peak[0] = max(peak[0], memory_and_files(processes)[0] - base)
                        await asyncio.sleep(0.1)

                looking = asyncio.create_task(look())
                ways = list(itertools.product(nonsense, WIRES.values(), (False, True)))
                random.Random(seed).shuffle(ways)
                until = time.monotonic() + LENGTH_S
                done = 0
                for start in range(0, len(ways), 6):
                    some = ways[start : start + 6]
                    answers = await asyncio.gather(
                        *(
                            many.ask(
                                wire,
                                request(
                                    wire,
                                    name.replace(" ", "-").replace(",", ""),
                                    f"{name} {done}",
                                    stream=stream,
                                ),
                                timeout_s=60,
                            )
                            for name, wire, stream in some
                        )
                    )
                    for (name, wire, stream), answer in zip(some, answers, strict=True):
                        what = (name, wire.name, stream, answer.status, answer.broken, answer.raw[:300])
                        assert answer.status, what
                        statuses.setdefault(name, set()).add(answer.status)
                        kind = answer.headers.get("content-type", "")
                        assert "html" not in kind, what
                        assert b"sk-live-0123456789abcdef" not in answer.raw or answer.status == 200, what
                        done += 1
                    assert (await many.ask(CHAT, request(CHAT, "quick", f"between {start}"))).status == 200
                    if time.monotonic() > until + 40:
                        raise AssertionError("it takes too long")
                stop.set = True
                await looking
                return done

        with site(tmp_path, policy_for(provider, TEAM_BUDGET), None, workers="1") as alone:
            done = asyncio.run(run(alone.url, tree(alone.gateway)))
            provider.wait_idle_blocking(timeout_s=60)
            rows = ledger(alone.gateway.data_dir)
        assert len(elsewhere.journal) == 0
    assert all(row.cost >= 0 for row in rows.values())
    assert peak[0] < 300 << 20, f"{peak[0] >> 20} MiB"
    figures |= {
        "kinds of nonsense": len(nonsense),
        "answers": done,
        "credentials sent to a redirect's target": 0,
        "most memory above idle": f"{peak[0] / (1 << 20):.0f} MiB",
    }
