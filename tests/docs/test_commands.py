"""Every command of the documentation is run where a reader would run it, and what is shown of its output is true.

A page is one scene: its commands are run in order. One that shows no output has to end with 0, unless its comment
speaks of `exit status 1`. What is not run is listed in `allowed.py`, with the reason.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import typer.main

from gateway.cli import app
from gateway.settings import from_environment
from gateway.testing import ProviderServer, running_provider
from tests.docs import allowed
from tests.docs.blocks import DOCS, PAGES, ROOT, Block, Command, blocks
from tests.docs.scenes import Scene, scene
from tests.docs.shown import compare

PATIENCE_S = 20.0
"""What is written behind a step, such as the ledger, may be looked for so long."""
COMMAND_S = 90.0
AT_ONCE = {"docs/howto/cap-a-user.md", "docs/quickstart.md", "docs/cli.md", "docs/howto/index.md"}
"""Pages that the default suite runs; the others are among the slow ones."""
_READS = re.compile(
    r"gateway (runs|show|spend|budgets|approvals|kills|breakers|top|alerts|audit list|policy (versions|rollout|show)|privacy status)\b"
    r"|curl -s '?http\S+( \||$)"
)


@lru_cache
def commands_of(path: Path) -> list[Command]:
    return [command for block in blocks(path) if block.language == "console" for command in block.commands()]


def pages() -> Iterator[object]:
    for path in PAGES:
        name = str(path.relative_to(ROOT))
        if any(block.language == "console" for block in blocks(path)):
            yield pytest.param(path, id=name, marks=() if name in AT_ONCE else pytest.mark.slow)


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with running_provider(seed=1) as running:
        yield running


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", list(pages()))
def test_commands_do_what_the_page_shows(path: Path, provider: ProviderServer, tmp_path: Path) -> None:
    found = list(blocks(path))
    to_run = [command for command in commands_of(path) if not _looked_at(command)]
    if not to_run:
        return
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with scene(str(path.relative_to(ROOT)), found, provider, tmp_path / "checkout") as made:
        for command in to_run:
            try_out(made, command)


def try_out(made: Scene, command: Command) -> None:
    """Run a command; it ends as it should and says what the page shows."""
    text = made.text_of(command.text)
    may_fail = "exit status 1" in command.text
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status, came = made.shell.run(text, COMMAND_S)
        ids = compare(command.shown, came) if command.shown else {}
        if ids is not None and (status == 0 or (status == 1 and may_fail)):
            made.filled.update(ids)
            return
        if not _READS.match(command.text) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    shown = "\n".join(command.shown)
    pytest.fail(
        f"{command}\nwas run as: {text}\nended with {status} and said:\n{came}\nthe page shows:\n{shown}",
        pytrace=False,
    )


def _looked_at(command: Command) -> bool:
    """Whether a command is not run, but for a look at what can be seen without."""
    if allowed.reason_for(command) is not None:
        return True
    if found := re.match(r"(?:\w+=\S* )*make ([\w-]+)", command.text):
        ensure_target(command, found[1])
        return True
    if found := re.match(
        r"(?:\w+=\S* )*(?:\.venv/bin/)?python -m (benchmarks[\w.]*|tests[\w.]*)", command.text
    ):
        assert importlib.util.find_spec(found[1]) is not None, f"{command}: there is no module {found[1]}"
        return True
    if found := re.match(r"((?:\w+=\S* )*)gateway (?:serve|demo)\b(.*)", command.text, re.DOTALL):
        ensure_served(command, found[1], found[2])
        return True
    return False


def ensure_target(command: Command, target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
        f"{command}: no such target"
    )


def ensure_served(command: Command, variables: str, options: str) -> None:
    """The options of `gateway serve` are understood and fit together."""
    given = shlex.split(options.replace("\\\n", " "), comments=True)
    parsed = typer.main.get_command(app).commands["serve"].make_context("serve", given)  # type: ignore[attr-defined]  # a group
    environment = {name: value for name, _, value in (pair.partition("=") for pair in shlex.split(variables))}
    secrets = {"GATEWAY_SECRET_KEY": "0123456789abcdef", "GATEWAY_ADMIN_TOKEN": "0123456789abcdef"}
    names = {"store": "store_url", "ledger": "ledger_url"}
    from_environment(
        {**secrets, **environment},
        **{names.get(name, name): value for name, value in parsed.params.items() if value is not None},
    )


# -- nothing is left out in silence --------------------------------------------------------------------


@pytest.mark.parametrize("left", allowed.LEFT, ids=lambda left: left.pattern)
def test_every_reason_for_not_running_a_command_is_still_needed(left: allowed.Left) -> None:
    everything = [command for path in PAGES for command in commands_of(path)]
    assert any(left.covers(command) for command in everything), f"no command needs this any more: {left}"


def test_commands_stand_in_console_blocks() -> None:
    """A command in a block of another language would not be tried."""
    astray = [
        f"{block.place}: {line}"
        for path in PAGES
        for block in blocks(path)
        if block.language != "console"
        for line in block.text.splitlines()
        if re.match(
            r"(\$ |(\.venv/bin/)?gateway (?!listens)[a-z]|curl |make [a-z]+$|docker |kubectl |helm )", line
        )
    ]
    assert astray == []


def test_pages_of_the_default_suite_are_there() -> None:
    assert {ROOT / name for name in AT_ONCE} <= set(PAGES)


# -- the tools of these tests --------------------------------------------------------------------------


def block(text: str) -> Block:
    return Block("page.md", 1, "console", text, "")


def test_a_command_goes_on_over_lines_and_is_followed_by_its_output() -> None:
    made = block(
        "$ one \\\n    two\nshown\n\n$ curl -d '{\"a\": [\n    1]}'\n$ three  # isn't it\nx\n    y\n"
    ).commands()
    assert [command.text for command in made] == [
        "one \\\ntwo",
        "curl -d '{\"a\": [\n1]}'",
        "three  # isn't it",
    ]
    assert [command.shown for command in made] == [("shown", ""), (), ("x", "    y")]


@pytest.mark.parametrize(
    ("shown", "came", "same"),
    [
        (["Killed run a: 0 streams cut."], "Killed run a: 0 streams cut.\n", True),
        (["Killed run a: 0 streams cut."], "Killed run a: 1 stream cut.\n", False),
        (["a  b"], "a b\n", True),
        (["limit $0.50"], "limit $0.51\n", False),
        (["run_0123456789ab ended"], "run_ffff456789abcdef01234567 ended\n", True),
        (["run_0123456789ab ended"], "ses_ffff456789abcdef01234567 began\n", False),
        (["first", "…", "last"], "first\nlast\n", True),
        (["first", "…", "last"], "first\n1\n2\nlast\n", True),
        (["first", "…", "last"], "first\n1\n2\n", False),
        (["took 12 ms, at 2026-01-31 12:00:00"], "took 3 ms, at 2027-02-03 01:02:03\n", True),
        (["took … ms"], "took 3 s\n", False),
        (["flagged, score 1.000", "pii  3-17  0.95"], "flagged, score 0.987\npii  3-17  0.90\n", True),
        (["flagged, score 1.000", "pii  3-17  0.95"], "flagged, score 0.987\npii  3-18  0.95\n", False),
        (["costs $12 0.95 in all"], "costs $12 0.96 in all\n", False),
        (["one"], "one\ntwo\n", False),
    ],
)
def test_outputs_are_compared(shown: list[str], came: str, same: bool) -> None:
    assert (compare(shown, came) is not None) is same


def test_ids_of_a_page_are_those_that_came() -> None:
    assert compare(["key a (key_2f6c8d3a9b1e)"], "key a (key_aaaaaaaaaaaaaaaa)") == {
        "key_2f6c8d3a9b1e": "key_aaaaaaaaaaaaaaaa"
    }


def test_docs_is_where_the_pages_are() -> None:
    assert DOCS / "index.md" in PAGES
    assert os.access(ROOT / "docs" / "howto" / "agent.py", os.R_OK)
