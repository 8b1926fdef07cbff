"""One line for each thing, whatever it holds, and nothing in it that must not be there."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.domain import Surface
from gateway.errors import CallerError, GatewayError, Refusal, Ruling, UpstreamError
from gateway.steps.turn import Facts, Trail
from gateway.telemetry.logs import MAX_MESSAGE, REFUSALS_PER_S, StepLog, configure, current
from gateway.telemetry.spans import run_context, span_id
from tests.support.effort import least_effort

KEY = "sk-proj-Zt8GkQ2mX4vB7nL1pR5sT9wY3cF6hJ0dA2eU4iO8"


class Lines(io.StringIO):
    """What was written, and whether it is a terminal."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal

    @property
    def all(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.all[-1])
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Lines()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    current.set(None)


def facts(**more: Any) -> Facts:
    return Facts(Surface.CHAT, "v1", "req_1", "dec_1", **more)


def test_a_line_of_json(lines: Lines) -> None:
    formatter = configure("info", "json", {}, stream=lines)
    formatter.worker = "host-1-abc"
    logging.getLogger("gateway.web").warning(
        "%s is slow", "redis", extra={"facts": {"ms": 12, "run": "run_1"}}
    )
    line = lines.last
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "gateway.web",
        "message": "redis is slow",
        "worker": "host-1-abc",
        "ms": 12,
        "run": "run_1",
    }


def test_a_line_of_text(lines: Lines) -> None:
    configure("info", "text", {}, stream=lines)
    logging.getLogger("gateway").info("a b", extra={"facts": {"n": 1, "why": 'it "is" so', "who": "me"}})
    (line,) = lines.all
    assert re.fullmatch(r"\S+Z INFO gateway: a b n=1 why=\"it \\\"is\\\" so\" who=me", line)


def test_text_on_a_terminal_and_json_elsewhere(lines: Lines) -> None:
    assert configure("info", None, {}, stream=lines).as_json
    lines.terminal = True
    assert not configure("info", None, {}, stream=lines).as_json


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "asyncio", "gateway.x"])
def test_every_logger_speaks_alike(lines: Lines, name: str) -> None:
    configure("warning", "json", {}, stream=lines)
    logging.getLogger(name).error("no")
    logging.getLogger(name).info("not this")
    assert [json.loads(line)["logger"] for line in lines.all] == [name]


def test_requests_are_not_logged_twice(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    # What uvicorn asks before it makes a line for every request.
    assert not logging.getLogger("uvicorn.access").hasHandlers()


# -- what a text cannot do -----------------------------------------------------------------------------

HOSTILE = [
    'x\n{"level":"critical","message":"forged"}',
    "x\r\n2026-01-01T00:00:00.000Z INFO gateway: forged",
    "\x1b[2J\x1b]0;title\x07 \x9b31m \x7f",
    "\u2028 forged \u2029 \u0085 \u202e desrever \u2066",
    "\x00\x01\x0b\x0c",
    "lone \udc80 surrogate \ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("where", ["message", "field", "exception"])
def test_no_text_leaves_its_line(lines: Lines, text: str, form: str, where: str) -> None:
    configure("info", form, {}, stream=lines)
    log = logging.getLogger("gateway")
    if where == "message":
        log.info("got %s", text)
    elif where == "field":
        log.info("got", extra={"facts": {"it": text}})
    else:
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("failed")
    written = lines.getvalue()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\u2066\ud800-\udfff]", written)
    first, *rest = written.rstrip("\n").split("\n")
    if form == "json":
        assert rest == []
        json.loads(first)
    else:
        assert all(line.startswith("    ") for line in rest)
        assert bool(rest) == (where == "exception")


def test_huge_texts_are_cut(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    logging.getLogger("gateway").info("x" * 10_000_000, extra={"facts": {"it": "y" * 100_000}})
    line = lines.last
    assert len(line["message"]) < MAX_MESSAGE + 50
    assert line["message"].endswith("characters)")
    assert len(line["it"]) < 600


def test_values_that_are_no_plain_ones_are_left_out(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    logging.getLogger("gateway").info("x", extra={"facts": {"a": object(), "b": [1], "c": None, "d": True}})
    assert {name: lines.last.get(name, "absent") for name in "abcd"} == {
        "a": "absent", "b": "absent", "c": None, "d": True,
    }  # fmt: skip


def test_a_mistaken_call_costs_no_line(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    logging.getLogger("gateway").info("%d of %d", "one")
    assert lines.last["message"] == "%d of %d"


def test_a_broken_stream_is_borne(lines: Lines) -> None:
    configure("info", "text", {}, stream=lines)
    lines.close()
    logging.getLogger("gateway").error("nobody hears this")


# -- what a line never holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_known_secrets_and_what_looks_like_one_are_struck_out(lines: Lines, form: str) -> None:
    environment = {"MY_PROVIDER_KEY": "plainlooking1", "SLACK_WEBHOOK_URL": "https://hooks.example/T0/B1/xyz",
        "HOME": "/root/visible", "SHORT_KEY": "abc"}  # fmt: skip
    formatter = configure("info", form, environment, ["admin-token-1"], stream=lines)
    formatter.hide("later-secret-2")
    log = logging.getLogger("gateway")
    log.info("plainlooking1 https://hooks.example/T0/B1/xyz admin-token-1 later-secret-2 abc /root/visible")
    log.info(f"{KEY} Bearer abcdefghijk AKIAIOSFODNN7EXAMPLE gk-alice-0123456789")
    log.info("x", extra={"facts": {"it": KEY}})
    try:
        raise ValueError(f"no {KEY} and plainlooking1")
    except ValueError:
        log.exception("failed")
    written = lines.getvalue()
    for secret in ("plainlooking1", "hooks.example", "admin-token-1", "later-secret", KEY[:16], "abcdefghijk", "AKIA", "alice"):  # fmt: skip
        assert secret not in written, secret
    assert "/root/visible" in written
    assert " abc " in written


def test_a_secret_on_the_edge_is_not_cut_in_two(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    for before in range(MAX_MESSAGE - 60, MAX_MESSAGE + 5):
        logging.getLogger("gateway").info("a" * (before - 1) + " " + KEY)
    assert KEY[:12] not in lines.getvalue()


# -- ids -----------------------------------------------------------------------------------------------


def test_lines_of_a_request_have_its_ids(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines, traced=True)
    current.set(about := facts(run_id="run_1", step=3, trail=Trail()))
    logging.getLogger("gateway.anything").info("x")
    line = lines.last
    assert (line["request"], line["run"], line["step"], line["decision"]) == ("req_1", "run_1", 3, "dec_1")
    assert line["trace_id"] == f"{run_context('run_1').trace:032x}"
    assert line["span_id"] == f"{span_id('step', 'dec_1'):016x}"
    assert about.trail is not None
    about.trail.end()
    logging.getLogger("gateway.anything").info("what it has begun may outlive it")
    assert "run" not in lines.last


def test_without_traces_there_is_no_trace_id(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    current.set(facts(run_id="run_1"))
    logging.getLogger("gateway").info("x")
    assert "trace_id" not in lines.last


# -- steps ---------------------------------------------------------------------------------------------


def refusal() -> Refusal:
    return Refusal(
        Ruling("run_budget_exceeded", "run", "run", 500_000_000, 600_000_000, money=True), "secret text"
    )


@pytest.mark.parametrize(
    ("error", "run", "level"),
    [
        (refusal(), "run_1", "info"),
        (UpstreamError("upstream_timeout", "slow"), "run_1", "warning"),
        (GatewayError("guardrail_unavailable", "bug"), None, "warning"),
        (CallerError("invalid_api_key", "who"), None, None),
        (CallerError("unknown_route", "where"), None, None),
        (CallerError("unknown_model", "which"), None, "info"),
    ],
)
def test_how_loudly_a_failure_is_told(
    lines: Lines, error: GatewayError, run: str | None, level: str | None
) -> None:
    configure("info", "json", {}, stream=lines)
    StepLog().request_ended(facts(run_id=run), error)
    assert [json.loads(line)["level"] for line in lines.all] == ([level] if level else [])
    assert "secret text" not in lines.getvalue()


def test_a_refusal_names_rule_limit_and_figure(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    StepLog().request_ended(facts(run_id="run_1", session="ses_1", step=4), refusal())
    line = lines.last
    told = ("message", "run", "step", "session", "code", "rule", "scope", "limit", "used", "surface")
    assert [line[name] for name in told] == [
        "refused", "run_1", 4, "ses_1", "run_budget_exceeded", "run", "run", "0.500000000", "0.600000000", "chat",
    ]  # fmt: skip


def test_a_flood_of_refusals_does_not_fill_the_disk(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("gateway.telemetry.logs.time.monotonic", lambda: now[0])
    configure("info", "json", {}, stream=lines)
    told = StepLog()
    for _ in range(1000):
        told.request_ended(facts(run_id="run_1"), refusal())
    assert len(lines.all) == REFUSALS_PER_S
    now[0] += 1
    told.request_ended(facts(run_id="run_1"), refusal())
    more, last = [json.loads(line)["message"] for line in lines.all[-2:]]
    assert (more, last) == (f"{1000 - REFUSALS_PER_S} more refusals were not logged", "refused")


def test_a_good_step_costs_next_to_nothing_where_it_is_not_logged(lines: Lines) -> None:
    configure("info", "json", {}, stream=lines)
    told, about = StepLog(), facts(run_id="run_1", trail=Trail())

    def work() -> None:
        for _ in range(10_000):
            told.request_ended(about, None)

    assert least_effort(work) < 0.05
