"""Claude Code and Codex, headless and unmodified, complete a task through the gateway; what stops them, and
what they make of an answer that breaks off."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.clients.cli import ANSWER, CLAUDE_CODE, CLIS, CODEX, NOTES, Cli, Desk, desk
from tests.clients.clients import CHAT, MESSAGES
from tests.clients.policy import served_cost
from tests.clients.records import runs_of
from tests.clients.tap import tapped
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ThreadedGateway, wait_until

pytestmark = [pytest.mark.clients, pytest.mark.node, pytest.mark.xdist_group("cli")]

every_cli = pytest.mark.parametrize("cli", CLIS, ids=str)
PROOF = "forty-two\n"
NO_SEARCH = 'web_search = "disabled"'
NO_AGENTS = "agents.enabled = false"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path / "desk") as made:
        yield made


@every_cli
def test_a_task_is_one_run_of_the_programs_session_at_an_exact_price(
    cli: Cli, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("task", cli.task())
    done = cli.run(gateway, place)
    assert (done.code, done.answer, done.failure) == (0, ANSWER, ""), done.output
    assert place.proof == PROOF
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2, 3]
    assert run.status == "completed"
    assert (run.session, run.source) == (done.session, "session")
    assert {attempt["surface"] for attempt in run.attempts} == {cli.surface}
    assert run.cost == served_cost(provider) > 0
    assert all(attempt.stream for attempt in provider.journal)
    assert place.strayed == []


@every_cli
def test_going_on_with_a_session_is_a_successor_in_it(
    cli: Cli, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("task", cli.task())
    session = cli.run(gateway, place).session
    assert cli.run(gateway, place, "And once more?", resume=session).failure == ""
    first, second = runs_of(gateway)
    assert (second.continues, second.session) == (first.id, session)


@every_cli
def test_a_run_named_by_url_takes_in_the_whole_task(
    cli: Cli, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("task", cli.task())
    done = cli.run(gateway, place, below="/r/nightly")
    assert done.answer == ANSWER, done.output
    (run,) = runs_of(gateway)
    assert (run.name, run.source, run.steps, run.status) == ("nightly", "url", [1, 2, 3], "running")
    assert run.session == done.session


@every_cli
def test_two_at_once_are_two_runs(
    cli: Cli, tmp_path: Path, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    play = cli.task()
    provider.script("task", lambda ask: replace(play(ask), head_delay_s=0.3))
    with desk(tmp_path / "one") as one, desk(tmp_path / "other") as other, ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda at: cli.run(gateway, at), (one, other)))
    assert [d.answer for d in done] == [ANSWER] * 2, done
    runs = runs_of(gateway)
    assert [run.steps for run in runs] == [[1, 2, 3]] * 2
    assert {run.session for run in runs} == {d.session for d in done}


def test_a_sub_agent_of_claude_code_is_a_run_of_the_same_session(
    place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    errand = "Read the notes and tell me what they say."
    ordered = {"description": "Read notes", "prompt": errand, "subagent_type": "general-purpose"}

    def play(ask: Ask) -> Reply:
        results = [turn.text for turn in ask.turns if turn.role == "tool"]
        if ask.last_user_text.endswith(errand):
            return (
                Reply(f"They say {NOTES}.")
                if results
                else Reply(tool_calls=[CLAUDE_CODE.shell("cat notes.txt")])
            )
        if not results:
            return Reply(tool_calls=[("Agent", {**ordered, "run_in_background": False})])
        return Reply(ANSWER if NOTES in results[-1] else f"I saw {results[-1]!r}.")

    provider.script("task", play)
    with tapped(gateway) as tap:
        done = CLAUDE_CODE.run(gateway, place)
    assert done.answer == ANSWER, done.output
    main, helper = runs_of(gateway)
    assert (main.steps, helper.steps) == ([1, 2], [1, 2])
    assert main.session == helper.session == done.session
    told = [request.get("x-claude-code-agent-id") for request in tap.requests]
    assert [name is not None for name in told] == [False, True, True, False]


@pytest.mark.parametrize(
    ("cli", "settings", "spoken"),
    [
        (CLAUDE_CODE, "", CHAT),
        # What Codex offers by default beside functions has no equal on the Messages API.
        (CODEX, f"{NO_SEARCH}\n{NO_AGENTS}", MESSAGES),
    ],
    ids=["claude-code", "codex"],
)
def test_a_task_on_a_model_of_another_api_comes_to_the_same_end(
    cli: Cli, settings: str, spoken: str, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("task", cli.task())
    done = cli.run(gateway, place, model=cli.other, settings=settings)
    assert (done.code, done.answer, done.failure) == (0, ANSWER, ""), done.output
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2, 3]
    assert run.status == "completed"
    assert run.cost == served_cost(provider) > 0
    assert {attempt.surface for attempt in provider.journal} == {spoken}


@every_cli
def test_an_exhausted_budget_ends_the_program(
    cli: Cli, place: Desk, provider: ProviderServer, make_gateway: MakeGateway
) -> None:
    gateway = make_gateway("budgets: [{name: run, per: run, limit_usd: 0.5}]\n")
    play = cli.task()
    provider.script("task", lambda ask: replace(play(ask), completion_tokens=40_000, ignore_limits=True))
    with tapped(gateway) as tap:
        done = cli.run(gateway, place, settings=NO_SEARCH if cli is CODEX else "")
    assert done.code == 1
    assert "run_budget_exceeded" in done.failure
    (run,) = runs_of(gateway)
    assert run.status == "stopped_budget"
    assert 1 <= len(run.attempts) == len(provider.journal) < 3
    assert len(tap.requests) == len(run.attempts) + len(run.refusals)
    # Codex asks once. Claude Code tries again without what a provider might not have understood.
    assert 1 <= len(run.refusals) <= (1 if cli is CODEX else 4)


@every_cli
def test_a_wrong_key_ends_the_program(
    cli: Cli, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    with tapped(gateway) as tap:
        done = cli.run(gateway, place, key="gk-nobody-0123456789")
    assert done.code == 1
    assert "The API key is missing or not valid" in done.failure
    assert len(tap.requests) == (1 if cli is CLAUDE_CODE else 6)
    assert len(provider.journal) == 0
    assert runs_of(gateway) == []


ENDLESS = Reply("word " * 3000, chunks=3000, chunk_delay_s=0.01, ignore_limits=True)


@pytest.mark.parametrize("scope", ["run", "session", "user"])
@every_cli
def test_a_kill_in_the_middle_of_a_stream_ends_the_program(
    cli: Cli, scope: str, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    asked = itertools.count()
    provider.script("task", lambda ask: Reply("I went on.") if next(asked) else ENDLESS)

    def kill() -> None:
        wait_until(lambda: any(attempt.chunks > 12 for attempt in provider.journal), 60, "the stream")
        (run,) = runs_of(gateway)
        name = {"run": run.id, "session": run.session, "user": "alice"}[scope]
        gateway.admin("POST", "/kills", {"scope": scope, "id": name, "reason": "enough"})

    operator = threading.Thread(target=kill)
    operator.start()
    done = cli.run(gateway, place)
    operator.join()
    assert (done.code, done.answer) == (1, ""), done.output
    # Codex has its own words for a failure that ends a turn.
    assert (f"{scope}_killed" if cli is CLAUDE_CODE else "Quota exceeded") in done.failure
    assert len(provider.journal) == 1
    assert {run.status for run in runs_of(gateway)} == {"killed"}


def cut_once(provider: ProviderServer, cli: Cli, byte: int | None) -> list[str]:
    """Let the next task's first answer break off at the byte. What its command writes, a word per line."""
    words = ["one", "two", "three"]
    play = cli.task(" && ".join(f"echo {word} >> proof.txt" for word in words))
    asked = itertools.count()

    def reply(ask: Ask) -> Reply:
        return replace(play(ask), chunks=12, cut_at_byte=None if next(asked) else byte)

    provider.journal.clear()
    provider.script("task", reply)
    return words


@every_cli
def test_a_tool_call_that_was_cut_is_never_run_by_half(
    cli: Cli, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    """The program asks again, or goes on with what came whole."""

    def play(byte: int | None) -> None:
        words = cut_once(provider, cli, byte)
        done = cli.run(gateway, place)
        assert (done.code, done.answer) == (0, ANSWER), (byte, done.output)
        assert place.proof is not None
        assert place.proof.split() == words, byte
        (place.work / "proof.txt").unlink()

    play(None)
    whole = provider.journal[0].body_bytes
    for byte in range(whole // 3, whole, whole // 7):
        play(byte)
        assert provider.journal[0].cut == "fin"


@pytest.mark.parametrize("part", [0.35, 0.6, 0.95])
@every_cli
def test_what_a_program_does_about_a_broken_answer_belongs_to_the_same_run(
    cli: Cli, part: float, place: Desk, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    cut_once(provider, cli, None)
    cli.run(gateway, place)
    whole = provider.journal[0].body_bytes
    (place.work / "proof.txt").unlink()
    cut_once(provider, cli, int(whole * part))
    assert cli.run(gateway, place).answer == ANSWER
    _, run = runs_of(gateway)
    assert run.status == "completed"
    assert [attempt["outcome"] for attempt in run.attempts].count("cut") == 1
    assert len(run.attempts) == len(provider.journal)
