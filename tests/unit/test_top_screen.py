"""What `gateway top` shows, line by line, and what its keys do."""

from __future__ import annotations

import signal
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from gateway.commands.client import ClientError, Unreachable
from gateway.commands.top import REASON, Session, _live
from gateway.commands.top_screen import View, money, ordered, screen, sparkline

RUN: dict[str, Any] = {
    "id": "run_0123456789abcdef01234567", "name": None, "user": "alice", "steps": 12, "cost_usd": "0.412300000",
    "burn_usd_per_min": "0.200000000", "started_at": "2026-01-31T11:58:00.000Z",
    "model_mix": {"gpt-4o": {"attempts": 12, "cost_usd": "0.41"}},
    "nearest": {"rule": "run", "what": "usd", "ratio": 0.8246, "used": "0.41", "limit": "0.50"},
}  # fmt: skip
OTHER: dict[str, Any] = {
    **RUN, "id": "run_ffffffffffffffffffffffff", "user": "bob", "steps": 40, "cost_usd": "1.000000000",
    "burn_usd_per_min": "0.010000000", "started_at": "2026-01-31T10:00:00.000Z", "nearest": None,
}  # fmt: skip
OVERVIEW: dict[str, Any] = {
    "at": "2026-01-31T12:00:00.000Z",
    "spend": {
        "usd_per_min": "0.210000000", "before_usd_per_min": "0.001234567", "hour_usd": "3.100000000",
        "today_usd": "1234.500000000", "saved_today_usd": "0.000000000", "burn_usd_per_min": "0.21",
        "steps_today": 100, "steps_per_min": 14.2,
        "minutes": [{"cost_usd": str(n), "at": "x", "steps": 1, "refusals": 0} for n in (0, 1, 4, 8)],
    },
    "runs": {"live": 2, "data": [OTHER, RUN]},
    "budgets": [
        {"name": "user-day", "per": "user", "id": "alice", "ratio": 0.93, "remaining_usd": "0.350000000",
         "limit_usd": "5.000000000", "mode": "enforce", "runs_out_at": "2026-01-31T12:40:00.000Z"},
        {"name": "trial", "per": "global", "id": "all", "ratio": 0.1, "remaining_usd": "90", "limit_usd": "100",
         "mode": "shadow", "runs_out_at": None},
    ],
    "breakers": [
        {"id": "x", "kind": "tool", "name": "search", "scope": "team/cx", "state": "open", "ok": 1, "failed": 9}
    ],
    "failures": [
        {"provider": "openai", "model": "gpt-4o", "error": "upstream_timeout", "http_status": None, "count": 3}
    ],
    "kills": [{"scope": "user", "id": "mallory"}],
    "approvals": {"more": False, "data": [{}]},
    "happened": [
        {"at": "2026-01-31T11:59:50.000Z", "kind": "refusal", "level": "warn", "run": "run_1", "count": 4,
         "code": "run_budget_exceeded", "rule": "run", "user": "alice"},
        {"at": "2026-01-31T11:59:00.000Z", "kind": "run_stopped", "level": "bad", "run": "run_1",
         "status": "failed", "reason": "upstream", "user": "alice", "cost_usd": "0.5"},
        {"at": "2026-01-31T11:58:00.000Z", "kind": "kill.set", "level": "info", "by": "admin", "scope": "user",
         "id": "mallory", "reason": "enough"},
    ],
    "health": {"store": "ok", "worker": "w", "policy": {"version": "abc123", "healthy": True, "error": None}},
}  # fmt: skip


def texts(overview: dict[str, Any], view: View, width: int, height: int | None = None) -> list[str]:
    return [line.text for line in screen(overview, view, width, height)]


def test_a_look_tells_everything() -> None:
    assert "\n".join(texts(OVERVIEW, View(keys=False), 80)) == (
        """\
gateway top  2026-01-31 12:00:00 UTC  policy abc123
$0.21/min (before $0.0012)  hour $3.10  today $1,234  14.2 steps/min
! killed: user mallory; 1 tool call held for approval
last   4 min   ▁▄█

LIVE RUNS 2, by burn
  RUN                          USER     STEPS     COST BURN/MIN NEAREST LIMIT
  run_0123456789abcdef01234567 alice       12    $0.41    $0.20 82% run
  run_ffffffffffffffffffffffff bob         40    $1.00  $0.0100 -

BUDGETS, the fullest first
  user-day     alice        ███████░  93%  $0.35 of $5.00 left, out 12:40
  trial        all          █░░░░░░░  10%  $90.00 of $100.00 left (shadow)

NOT CLOSED
  breaker open: tool search (team/cx), 9 failed, 1 fine
  failing: openai gpt-4o x3: upstream_timeout

LATELY
  11:59:50  refused run_budget_exceeded x4 by run run_1
  11:59:00  failed run_1 $0.50 upstream
  11:58:00  kill.set user mallory enough by admin"""
    )


def test_a_wide_terminal_shows_more() -> None:
    told = texts({**OVERVIEW, "spend": {**OVERVIEW["spend"], "saved_today_usd": "3"}}, View(), 120, 30)
    assert told[1].endswith("steps/min  saved $3.00")
    assert told[6].split() == ["RUN", "USER", "MODEL", "STEPS", "COST", "BURN/MIN", "AGE", "NEAREST", "LIMIT"]
    assert told[7].startswith("> run_0123456789abcdef01234567 alice            gpt-4o")
    assert any("user-day         user    alice          ███████████████████░  93%" in line for line in told)
    assert told[-1].endswith("l limit")


@pytest.mark.parametrize("width", [20, 40, 80, 81, 109, 110, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 10, 24, 50])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    many = {**OVERVIEW, "runs": {"live": 500, "data": [dict(RUN, id=f"run_{n:024}") for n in range(100)]}}
    many["happened"] = OVERVIEW["happened"] * 20
    many["budgets"] = OVERVIEW["budgets"] * 12
    for view in (View(), View(selected=99), View(message="x" * 500), View(unicode=False)):
        lines = texts(many, view, width, height)
        assert len(lines) == height
        assert all(len(line) <= max(40, width) for line in lines)


def test_the_selected_run_stays_in_sight() -> None:
    runs = [dict(RUN, id=f"run_{n:024}", burn_usd_per_min=str(100 - n)) for n in range(100)]
    many = {**OVERVIEW, "runs": {"live": 100, "data": runs}}
    for selected in (0, 7, 50, 99):
        chosen = [line for line in texts(many, View(selected=selected), 80, 24) if line.startswith("> ")]
        assert len(chosen) == 1
        assert f"run_{selected:024}" in chosen[0]


@pytest.mark.parametrize(
    ("order", "first"), [("burn", RUN), ("cost", OTHER), ("steps", OTHER), ("age", OTHER), ("limit", RUN)]
)
def test_runs_are_sorted(order: Any, first: dict[str, Any]) -> None:
    assert ordered(OVERVIEW, order)[0] is first


def test_colours_say_nothing_that_words_do_not() -> None:
    styled = {line.style for line in screen(OVERVIEW, View(), 100, None)}
    assert {"bold red", "red", "yellow"} <= styled
    assert "! killed" in "\n".join(texts(OVERVIEW, View(), 100))


def test_trouble_is_in_the_head() -> None:
    health = {
        "store": "unavailable",
        "worker": "w",
        "policy": {"version": "a", "healthy": False, "error": "x"},
    }
    head = texts({**OVERVIEW, "health": health, "kills": []}, View(), 100)[2]
    assert head == "! the store does not answer; the policy file is refused; 1 tool call held for approval"


def test_without_unicode_it_is_ascii() -> None:
    assert "\n".join(texts(OVERVIEW, View(unicode=False), 100)).isascii()
    assert sparkline([Decimal(0), Decimal(1), Decimal(8)], unicode=False) == " .@"
    assert sparkline([], unicode=True) == ""
    assert sparkline([Decimal(0)], unicode=True) == " "


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e[red]x\r\n"


def test_nothing_of_anyones_text_reaches_the_terminal_as_a_command() -> None:
    def evil(value: Any) -> Any:
        if isinstance(value, list):
            return [evil(each) for each in value]
        if isinstance(value, dict):
            kept = ("at", "started_at", "runs_out_at", "kind", "mode")
            return {
                k: v if k in kept or k.endswith("_usd") or "usd_" in k else evil(v) for k, v in value.items()
            }
        return EVIL * 50 if isinstance(value, str) else value

    told = texts(evil(OVERVIEW), View(message=EVIL), 100)
    assert all(line.isprintable() for line in told)
    assert max(map(len, told)) <= 100
    unknown = {"at": "2026-01-31T11:59:50.000Z", "kind": EVIL, "by": EVIL, "reason": EVIL}
    assert all(line.isprintable() for line in texts({**OVERVIEW, "happened": [unknown]}, View(), 100))


@pytest.mark.parametrize(
    ("amount", "told"),
    [("0", "$0.00"), ("0.000412", "$0.0004"), ("0.5", "$0.50"), ("12.345", "$12.34"), ("12345.6", "$12,346")],
)
def test_money_is_short(amount: str, told: str) -> None:
    assert money(amount) == told


# -- keys ----------------------------------------------------------------------------------------------


class Gateway:
    """An admin API that answers with the overview, or with what it was told to raise."""

    def __init__(self) -> None:
        self.overview = OVERVIEW
        self.error: ClientError | None = None
        self.killed: list[tuple[str, Any]] = []

    def get(self, path: str, **_query: Any) -> Any:
        assert path == "/overview"
        if self.error is not None:
            raise self.error
        return self.overview

    def post(self, path: str, body: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.killed.append((path, body))
        return {
            "scope": "run", "id": path.split("/")[2], "streams": 1, "workers": [], "recorded": True,
            "at": "2026-01-31T12:00:00.000Z",
        }  # fmt: skip


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def session(gateway: Gateway) -> Session:
    session = Session(gateway, View())  # type: ignore[arg-type]  # as much of it as is used
    session.look()
    return session


def test_a_run_is_killed_only_after_a_yes(gateway: Gateway, session: Session) -> None:
    session.press("down")
    session.press("k")
    assert session.view.message == f"Kill {OTHER['id']} of bob? y kills, any other key does not."
    session.look()
    assert session.view.message.startswith("Kill ")
    session.press("q")
    assert (session.left, session.view.message, gateway.killed) == (False, "Not killed.", [])
    session.press("k")
    session.press("y")
    assert gateway.killed == [(f"/runs/{OTHER['id']}/kill", {"reason": REASON})]
    assert session.view.message.startswith(f"Killed run {OTHER['id']}: 1 stream cut.")
    session.press("q")
    assert session.left


def test_the_run_that_is_asked_about_is_the_one_that_is_killed(gateway: Gateway, session: Session) -> None:
    session.press("k")
    # The order changes while the operator thinks.
    gateway.overview = {**OVERVIEW, "runs": {"live": 2, "data": [{**OTHER, "burn_usd_per_min": "9"}, RUN]}}
    session.look()
    session.press("y")
    assert gateway.killed[0][0] == f"/runs/{RUN['id']}/kill"
    assert session.view.selected == 1


def test_the_selection_stays_on_its_run(gateway: Gateway, session: Session) -> None:
    session.press("down")
    session.press("c")
    assert (session.view.order, session.view.selected) == ("cost", 0)
    for _ in range(5):
        session.press("down")
    assert session.view.selected == 1
    for _ in range(5):
        session.press("up")
    assert session.view.selected == 0
    gateway.overview = {**OVERVIEW, "runs": {"live": 0, "data": []}}
    session.look()
    session.press("k")
    session.press("down")
    assert session.view.message == "There is no live run."


def test_trouble_is_told_and_the_old_picture_stays(gateway: Gateway, session: Session) -> None:
    gateway.error = Unreachable("No gateway answers at http://x (refused). Start one.")
    session.look()
    assert session.view.message == "No gateway answers at http://x (refused)"
    assert session.overview is OVERVIEW
    session.press("k")
    session.press("y")
    assert session.view.message.startswith("No gateway answers")
    gateway.error = None
    session.look()
    assert session.view.message == ""


def test_a_pause_holds_the_picture(gateway: Gateway, session: Session) -> None:
    session.press("p")
    gateway.overview = {**OVERVIEW, "at": "2026-01-31T13:00:00.000Z"}
    session.look()
    assert session.overview is OVERVIEW
    assert session.view.message == "paused; p goes on"
    session.press("p")
    session.look()
    assert session.overview is gateway.overview


def test_a_token_that_is_refused_at_the_beginning_ends_it(gateway: Gateway) -> None:
    gateway.error = ClientError("no", 401)
    with pytest.raises(ClientError):
        Session(gateway, View()).look()  # type: ignore[arg-type]  # as above


def test_an_interrupt_whose_exception_is_lost_ends_the_view() -> None:
    class Gateway:
        looks = 0

        def get(self, _path: str) -> dict[str, Any]:
            self.looks += 1
            assert self.looks < 3, "the view goes on"
            # As in an object that is finalised just then.
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise Unreachable("gone. Try again.")

    gateway, before = Gateway(), signal.getsignal(signal.SIGINT)
    _live(Session(gateway, View()), 0.2)  # type: ignore[arg-type]  # as above
    assert gateway.looks == 1
    assert signal.getsignal(signal.SIGINT) is before
