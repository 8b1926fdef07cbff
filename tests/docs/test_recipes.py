"""The programs of docs/recipes.md run as they stand, each with the SDK that it is for; and those of the simulated
provider's page.

A recipe is run twice against what `make run` serves: it prints an answer; after a kill of the run that it names it
prints `stopped: run_killed`, and has asked once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.testing import ProviderServer, running_provider
from tests.clients.environments import EnvironmentUnavailable, node, npm_project, python_of
from tests.docs.blocks import DOCS, ROOT, Block, blocks
from tests.support.gateway import ThreadedGateway, threaded_gateway

PAGE = DOCS / "recipes.md"
HERE = "http://127.0.0.1:8080"
OWN = ""
"""The environment of the tests themselves."""
ENVIRONMENTS = {
    "OpenAI SDK for Python": OWN,
    "OpenAI SDK for Node": "node",
    "Anthropic SDK for Python": "anthropic-2",
    "Anthropic SDK for Node": "node",
    "LangChain and LangGraph": "agents",
    "OpenAI Agents SDK": "agents",
    "Pydantic AI": "agents",
    "smolagents": "agents",
    "Vercel AI SDK": "node",
    "LiteLLM SDK": "litellm",
}
"""Where each recipe's packages are: an environment of the client tests."""
ANSWERS = {"smolagents": "printer"}
"""What is in the answer, where that is an argument of the tool that gives it."""


def recipes() -> list[Block]:
    return [block for block in blocks(PAGE) if block.language in ("python", "js")]


def each() -> Iterator[object]:
    for block in recipes():
        environment = ENVIRONMENTS[block.heading]
        marks = [] if environment == OWN else [pytest.mark.slow, pytest.mark.clients]
        yield pytest.param(
            block, id=block.heading, marks=[*marks, *([pytest.mark.node] if environment == "node" else [])]
        )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    """What `make run` serves on a machine without a provider key."""
    policy = ROOT / "policies" / "default.yaml"
    with threaded_gateway(policy, tmp_path_factory.mktemp("recipes"), environment={}) as made:
        yield made


PYTHON_TWICE = """
import sys
source = open(sys.argv[1]).read()
for again in (False, True):
    if again:
        print("%s", flush=True)
        sys.stdin.readline()
    exec(compile(source, sys.argv[1], "exec"), {"__name__": "__main__"})
"""
NODE_TWICE = """
import {{ createInterface }} from "node:readline";
await import("./{name}?first");
console.log("%s");
await createInterface({{ input: process.stdin }})[Symbol.asyncIterator]().next();
await import("./{name}?again");
process.exit(0);
"""
BETWEEN = "--- once more"


def started(block: Block, gateway: ThreadedGateway, folder: Path) -> tuple[subprocess.Popen[str], list[Path]]:
    """The recipe in a process that plays it, waits for a line, and plays it again; and what is to be removed.
    Skips where its packages cannot be had."""
    source = block.text.replace(HERE, gateway.url)
    environment = ENVIRONMENTS[block.heading]
    made: list[Path] = []
    try:
        if environment == "node":
            # Node looks for packages beside the script.
            name = f"recipe-{os.getpid()}-{re.sub('[^a-z]+', '-', block.heading.lower())}.mjs"
            made = [npm_project("node") / name, npm_project("node") / f"twice-{name}"]
            made[1].write_text(NODE_TWICE.format(name=name) % BETWEEN)
            command = [node(), str(made[1])]
        else:
            made = [folder / "recipe.py"]
            python = sys.executable if environment == OWN else str(python_of(environment))
            command = [python, "-c", PYTHON_TWICE % BETWEEN, str(made[0])]
    except EnvironmentUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    made[0].write_text(source)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "LANGSMITH_TRACING": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, env={**kept, **offline}, **pipes), made  # type: ignore[call-overload]  # the pipes


def until_between(process: subprocess.Popen[str]) -> str:
    """What the recipe says until it is to be played again."""
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        if line.strip() == BETWEEN:
            return "".join(said)
        said.append(line)
    pytest.fail("the recipe ended:\n" + "".join(said))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("block", list(each()))
def test_a_recipe_answers_and_is_stopped(block: Block, gateway: ThreadedGateway, tmp_path: Path) -> None:
    named = re.search(rf"{HERE}/r/([\w-]+)", block.text)
    assert named is not None, "a recipe names its run in the address"
    process, made = started(block, gateway, tmp_path)
    try:
        assert ANSWERS.get(block.heading, "[simulated]") in until_between(process)
        (found,) = [r for r in gateway.admin("GET", "/runs?limit=500")["data"] if r["name"] == named[1]]
        assert found["session"].endswith("thread-0815")
        gateway.admin("POST", "/kills", {"scope": "run", "id": named[1], "reason": "enough"})
        before = _refused(gateway)
        said, _ = process.communicate("\n", timeout=110)
    finally:
        process.kill()
        process.wait(5)
        for path in made:
            path.unlink(missing_ok=True)
    assert said.strip().splitlines()[-1] == "stopped: run_killed", said
    assert _refused(gateway) == before + 1


def _refused(gateway: ThreadedGateway) -> float:
    """How many requests were refused because of a kill."""
    _, _, told = gateway.request("GET", "/metrics", key=None)
    lines = told.decode().splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith('gateway_refusals_total{code="run_killed"')
    )


def test_every_client_that_is_tried_has_a_recipe() -> None:
    headings = {block.heading for block in recipes()}
    assert headings == set(ENVIRONMENTS)
    sections = set(re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE))
    assert sections == headings | {"Claude Code", "Codex", "curl"}


def test_the_programs_are_configured_as_they_are_tested() -> None:
    """tests/clients/cli.py runs Claude Code and Codex with what the recipes say."""
    tested = (ROOT / "tests" / "clients" / "cli.py").read_text()
    text = PAGE.read_text()
    for word in (
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        'env_key = "GATEWAY_KEY"',
        'wire_api = "responses"',
        "[model_providers.gateway]",
    ):
        assert word in tested
        assert word in text


# -- the page of the simulated provider ----------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with running_provider(seed=1) as running:
        yield running


def test_the_scripts_of_the_simulated_providers_page_are_played(provider: ProviderServer) -> None:
    scripts, journal = [
        block for block in blocks(DOCS / "simulated-provider.md") if block.language == "python"
    ]
    names: dict[str, object] = {"recorded_bytes": b"data: [DONE]\n\n"}
    exec(compile(scripts.text, scripts.place, "exec"), names)
    # What the second one names is there, on a provider that has served something.
    for expression in re.findall(r"\b(?:provider|attempt)(?:\.\w+)+", journal.text):
        owner, *path = expression.split(".")
        assert path
        if owner == "provider":
            value: object = provider
            for part in path:
                if part == "last":
                    break
                value = getattr(value, part)
        else:
            from gateway.testing.journal import Attempt

            assert path[0] in {*Attempt.__dataclass_fields__, *vars(Attempt)}, expression
