"""No request hides in another, and no answer reaches another request: the corpus at the gateway itself."""

from __future__ import annotations

import json
import socket

import pytest

from gateway.testing import ProviderServer, Reply
from gateway.web import connection
from tests.integration.conftest import AT_ONCE_S
from tests.security.raw import Answer, Connection, chat, chunked, head, post
from tests.security.smuggling import ATTACKS, BOB, HIDDEN, MALLORY, OPEN, Attack, Outcome
from tests.support.gateway import ThreadedGateway, wait_until

VICTIM = "words of the victim"
CANARY = post(BOB, chat("sim/echo", VICTIM), b"Connection: close")


def said(provider: ProviderServer) -> list[str]:
    """What each request that reached the provider asks, oldest first."""
    return [json.loads(attempt.body)["messages"][-1]["content"] for attempt in provider.journal]


def cuts(data: bytes) -> list[list[bytes]]:
    """The bytes in one piece, with the head apart, and in many pieces."""
    end = data.index(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else len(data) // 2
    step = max(11, len(data) // 60)
    return [[data], [data[:end], data[end:]], [data[at : at + step] for at in range(0, len(data), step)]]


def answers_to(gateway: ThreadedGateway, pieces: list[bytes]) -> list[Answer]:
    """Every answer to these bytes, and then to an honest request on the same connection."""
    found: list[Answer] = []
    with Connection(gateway.port) as line:
        line.send(*pieces, pause_s=0.02 if len(pieces) == 2 and b"pgrade" in pieces[0] else 0.0)
        while (answer := line.read_if_any()) is not None:
            found.append(answer)
            if len(found) == 1:
                line.send(CANARY)
    return found


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_is_hidden_stays_hidden(
    gateway: ThreadedGateway, provider: ProviderServer, attack: Attack
) -> None:
    for pieces in cuts(attack.data):
        provider.journal.clear()
        if attack.outcome is Outcome.UNFINISHED:
            # The victim's first bytes are taken for the end of what the attacker announced.
            with Connection(gateway.port) as line:
                line.send(*pieces, CANARY)
                assert line.read().code == "invalid_json"
            assert said(provider) == []
            continue
        answers = answers_to(gateway, pieces)
        asked = said(provider)
        match attack.outcome:
            case Outcome.REFUSED:
                assert len(answers) <= 1, answers
                assert all(400 <= a.status < 500 and a.header("connection") == "close" for a in answers)
                assert asked == []
            case Outcome.ONE:
                assert HIDDEN not in asked
                # A word about what cannot be read may follow.
                answers = [a for a in answers if a.status < 400 or a.code is not None]
                assert len(answers) == len({OPEN, VICTIM} & set(asked)) + (
                    attack.body != chat("sim/echo", OPEN)
                )
                assert all(OPEN.encode() not in answer.body for answer in answers[1:])
            case Outcome.TWO:
                # Behind an honest second request the victim's own is the third.
                assert asked == [OPEN, HIDDEN, VICTIM]
                assert [a.status for a in answers] == [200, 200, 200]
                for answer, words in zip(answers, asked, strict=True):
                    assert words.encode() in answer.body


def test_the_corpus_is_not_refused_for_another_reason(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    """Without the oddity the same bytes are served; else a refusal would show nothing."""
    for attack in (post(MALLORY, chat("sim/echo", OPEN)), head(MALLORY, b"Transfer-Encoding: chunked") + chunked(chat("sim/echo", OPEN))):  # fmt: skip
        assert [a.status for a in answers_to(gateway, [attack])] == [200, 200]


def test_a_trailer_is_no_header(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    body = head(None, b"Transfer-Encoding: chunked") + chunked(
        chat("sim/echo", OPEN), trailers=[b"Authorization: Bearer " + BOB.encode()]
    )
    for pieces in cuts(body):
        with Connection(gateway.port) as line:
            line.send(*pieces)
            assert line.read().status == 401
    sent = head(MALLORY, b"Transfer-Encoding: chunked") + chunked(
        chat("sim/echo", OPEN), trailers=[b"X-Guardrail-Run-Id: stolen", b"X-Evil: 1"]
    )
    with Connection(gateway.port) as line:
        line.send(sent)
        answer = line.read()
    assert answer.status == 200
    assert answer.header("x-guardrail-run-source") != "header"
    assert provider.journal.last.header("x-evil") is None


def test_the_body_of_a_request_that_would_upgrade_arrives_whole(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    """Java's HTTP client asks for HTTP/2 with each first request, its body included."""
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    body = chat("sim/echo", OPEN)
    for pieces in cuts(post(MALLORY, body, *lines)) + cuts(
        head(MALLORY, *lines, b"Transfer-Encoding: chunked") + chunked(body[:9], body[9:])
    ):
        provider.journal.clear()
        with Connection(gateway.port) as line:
            line.send(*pieces)
            assert OPEN.encode() in line.read().body
        assert provider.journal.last.body.startswith(body[:-1])
        assert {name.lower() for name, _ in provider.journal.last.headers}.isdisjoint(
            {"upgrade", "http2-settings"}
        )


def test_unreadable_bytes_never_take_the_place_of_an_answer(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("late", Reply("the late answer", head_delay_s=0.3))
    with Connection(gateway.port) as line:
        line.send(post(MALLORY, chat("sim/late", "x")))
        wait_until(lambda: provider.journal.active, what="dispatch")
        line.send(b"\0garbage\r\n\r\n", CANARY)
        answer = line.read()
        assert (answer.status, b"the late answer" in answer.body) == (200, True)
        assert line.left_over() == b""
    assert len(provider.journal) == 1


def test_pipelined_requests_before_unreadable_bytes_get_no_wrong_answer(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("late", Reply("the late answer", head_delay_s=0.3))
    with Connection(gateway.port) as line:
        line.send(post(MALLORY, chat("sim/late", "x")) + post(MALLORY, chat("sim/echo", "y")) + b"\0\r\n\r\n")
        assert b"400" not in line.left_over()


def test_a_head_without_end_is_cut_off(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    for before in (
        b"GET /v1/",
        b"POST /v1/models HTTP/1.1\r\nX-Long: ",
        b"POST /v1/models HTTP/1.1\r\n" + b"X: y\r\n" * 50,
        head(MALLORY, b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\nX-Trailer: ",
        head("nobody", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\nX-Trailer: ",
        head(MALLORY, b"Transfer-Encoding: chunked") + b"3;extension=",
    ):
        taken = 0
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
            sock.sendall(before)
            try:
                while taken < 8 << 20:
                    taken += sock.send(b"a" * 65536)
            except OSError:
                pass
        # What the sockets of both sides hold was taken too.
        assert taken < 8 << 20, before


def test_a_head_that_trickles_is_cut_by_a_deadline(
    gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)
    with (
        Connection(gateway.port) as silent,
        Connection(gateway.port) as slow,
        Connection(gateway.port) as used,
    ):
        slow.send(b"POST /v1/models HTTP/1.1\r\nX: ")
        used.send(head(MALLORY, method=b"GET", target=b"/v1/models"))
        assert used.read().status == 200
        used.send(b"GET /v1/models HTTP/1.1\r\n")
        assert slow.read().status == 408
        assert used.read().status == 408
        assert silent.left_over() == slow.left_over() == used.left_over() == b""
    assert AT_ONCE_S > 0.2


def test_an_answer_without_a_body_has_none(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    """One byte more would be taken for the next answer."""
    provider.script("nothing", Reply(status=204, body=b"", content_type="text/plain"))
    with Connection(gateway.port) as line:
        line.send(
            post(
                MALLORY,
                b'{"model":"tts","input":"x","voice":"alloy"}',
                b"X-Sim-Scenario: nothing",
                target=b"/v1/audio/speech",
            )
        )
        answer = line.read()
        assert (answer.status, answer.header("transfer-encoding")) == (204, None)
        line.send(CANARY)
        assert VICTIM.encode() in line.read().body
