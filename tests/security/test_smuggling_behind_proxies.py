"""The corpus behind real proxies: the gateway serves what the proxy took for a request, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.domain import Headers
from gateway.testing import ProviderServer, Reply
from tests.security.proxies import HAPROXY, NGINX, Proxy, haproxy, nginx
from tests.security.raw import Answer, Connection, Ended, chat, head, post
from tests.security.smuggling import ATTACKS, BOB, HIDDEN, MALLORY
from tests.security.test_smuggling import cuts
from tests.support.gateway import ThreadedGateway, wait_until
from tests.support.ports import free_port

pytestmark = pytest.mark.slow
SETUPS = ["nginx", "nginx, unbuffered", "haproxy", "haproxy, tolerant"]


@pytest.fixture(scope="module", params=SETUPS)
def proxy(
    request: pytest.FixtureRequest, shared_gateway: ThreadedGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    setup: str = request.param
    folder = tmp_path_factory.mktemp("proxy") / "run"
    if setup.startswith("nginx"):
        if NGINX is None:
            pytest.skip("nginx is not installed: sh .ci/bootstrap.sh proxies")
        with nginx(shared_gateway.port, folder, buffering="unbuffered" not in setup) as running:
            yield running
    else:
        if HAPROXY is None:
            pytest.skip("HAProxy is not installed: sh .ci/bootstrap.sh proxies")
        with haproxy(shared_gateway.port, folder, tolerant="tolerant" in setup) as running:
            yield running


@pytest.fixture
def served(gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(credential, path) of each request that the data plane was handed, in order."""
    found: list[tuple[str, str]] = []
    plane = gateway.worker.data_plane
    respond = type(plane)._respond

    async def noted(self: object, incoming: object) -> object:
        headers: Headers = incoming.raw_headers  # type: ignore[attr-defined]
        credential = next((value for name, value in headers if name == b"authorization"), b"")
        found.append((credential.decode("latin-1"), incoming.path.decode("latin-1")))  # type: ignore[attr-defined]
        return await respond(self, incoming)  # type: ignore[arg-type]

    monkeypatch.setattr(type(plane), "_respond", noted)
    return found


def ask(proxy: Proxy, words: str, key: str = BOB) -> Answer:
    """An honest request by a connection of its own."""
    with Connection(proxy.port) as line:
        line.send(post(key, chat("sim/echo", words), b"Connection: close"))
        return line.read()


def play(proxy: Proxy, pieces: list[bytes]) -> list[Answer]:
    """Every answer to these bytes."""
    found: list[Answer] = []
    with Connection(proxy.port) as line:
        line.send(*pieces)
        line.close_sending()
        with contextlib.suppress(Ended, ValueError, IndexError):
            while True:
                found.append(line.read())
    return found


def test_the_gateway_serves_what_the_proxy_saw(
    proxy: Proxy, gateway: ThreadedGateway, provider: ProviderServer, served: list[tuple[str, str]]
) -> None:
    """One after another over the one connection that the proxy keeps: an attack, then a victim."""
    played = 0
    for number, attack in enumerate(ATTACKS):
        if len(attack.data) > 100_000:
            continue
        for cut, pieces in enumerate(cuts(attack.data)[:2]):
            provider.journal.clear()
            served.clear()
            before = len(proxy.seen())
            play(proxy, pieces)
            for turn in range(2):
                words = f"victim {number} {cut} {turn}"
                answer = ask(proxy, words)
                assert (answer.status, words.encode() in answer.body) == (200, True), (attack.name, answer)
            wait_until(lambda: gateway.worker.data_plane.active == 0, what="the end of what was asked")
            # A proxy logs what has ended, perhaps a moment later; what it never logs it never saw.
            with contextlib.suppress(TimeoutError):
                wait_until(lambda before=before: len(proxy.seen()) - before >= len(served), 5.0)  # type: ignore[misc]
            handed_on = proxy.seen()[before:]
            assert len(served) <= len(handed_on), (attack.name, served, handed_on)
            # By credential: a victim's never stands before anything but the victims' own bodies.
            asked = [json.loads(a.body)["messages"][-1]["content"] for a in provider.journal if a.surface]
            own = [words for words in asked if words.startswith("victim")]
            assert own == [f"victim {number} {cut} {turn}" for turn in range(2)], attack.name
            if HIDDEN in asked:
                # Honest pipelining: the proxy has seen that one too.
                wait_until(lambda before=before: len(proxy.seen()) - before > 3, what=attack.name)  # type: ignore[misc]
            played += 1
    assert played > 140


def test_many_callers_on_one_connection_get_their_own_answers(proxy: Proxy, provider: ProviderServer) -> None:
    """Slow and quick ones, refused and served, bodies that are not read, and upgrades that are not made."""
    provider.script("late", Reply("late", head_delay_s=0.05))
    upgrade = (b"Connection: Upgrade", b"Upgrade: h2c")
    for number in range(25):
        words = f"caller {number}"
        for raw, status in (
            (post(BOB, chat("sim/echo", words)), 200),
            (post("nobody", b"x" * 5000), 401),
            (post(MALLORY, chat("sim/echo", words), *upgrade), 200),
            (post(MALLORY, post(BOB, chat("sim/echo", "stolen")), *upgrade), 400),
            (head("nobody", b"Expect: 100-continue", b"Content-Length: 3") + b"abc", 401),
            (post(BOB, chat("sim/late", words)), 200),
        ):
            with Connection(proxy.port) as line:
                line.send(raw)
                answer = line.read()
            assert answer.status == status, (raw, answer)
            assert b"stolen" not in answer.body
            if b"sim/echo" in raw and status == 200:
                assert words.encode() in answer.body
    assert "stolen" not in [json.loads(a.body)["messages"][-1]["content"] for a in provider.journal]


def test_an_upstream_gives_no_orders_to_the_proxy(proxy: Proxy, provider: ProviderServer) -> None:
    provider.script("orders", Reply("hi", headers=[("X-Accel-Redirect", "/internal/secret")]))
    body = json.dumps({"model": "sim/orders", "messages": [{"role": "user", "content": "x"}]}).encode()
    with Connection(proxy.port) as line:
        line.send(post(BOB, body))
        answer = line.read()
    assert answer.status == 200
    assert b"internal secret" not in answer.body


@pytest.mark.skipif(NGINX is None or HAPROXY is None, reason="not installed: sh .ci/bootstrap.sh proxies")
def test_both_proxies_tell_when_there_is_no_gateway(tmp_path: Path) -> None:
    """So what they hand on above was the gateway's."""
    nobody = free_port()
    with (
        nginx(nobody, tmp_path / "nginx", buffering=True) as first,
        haproxy(nobody, tmp_path / "haproxy", tolerant=False) as second,
    ):
        assert ask(first, "x").status == 502
        assert ask(second, "x").status == 503
        wait_until(lambda: first.seen(), what="nginx's log")
