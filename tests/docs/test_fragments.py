"""What the documentation shows of policies, JSON, Python and TOML is valid.

A YAML block is a whole policy (it has `version`), tests of a policy (`tests`), a part of Prometheus' configuration
(`scrape_configs`), or a fragment of a policy. A fragment is loaded together with `completion.yaml`, by the loader
of `gateway serve`; variables and secret files get placeholders, as under `gateway test`.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.policy.models import Policy
from gateway.replay.policy_tests import read_suite
from gateway.replay.policy_tests import run as run_policy_tests
from gateway.replay.rehearsal import policy_to_test
from gateway.rules.route import Router
from tests.docs.blocks import PAGES, ROOT, Block, blocks, every

COMPLETION = Path(__file__).parent / "completion.yaml"
NOW = 1_790_000_000_000
LANGUAGES = {"", "console", "js", "json", "nginx", "haproxy", "python", "text", "toml", "yaml"}
"""Of these something is checked, except for plain text."""
NOT_FRAGMENTS = {
    "scrape_configs": "Prometheus' own configuration: tests/deployment has promtool look at the shipped one",
    "model_list": "LiteLLM's configuration, which a command of its page imports",
}
"""Sections that are no policy's, and why they are not loaded."""
TESTS_OF = {"docs/policy.md": "policies/support-bot.yaml"}
"""Whose tests a page shows, where no command of the page runs them."""
WARNED: dict[str, str] = {
    "no key in this file has the": "a fragment's keys may be others, or made by the admin API",
    "never happens: no budget has a warn_at": "a fragment about alerts alone",
    "never happens: no tool needs an approval": "a fragment about alerts alone",
}
"""Warnings that a fragment may have, by a part of their text, and why."""


def where(block: Block) -> str:
    return block.place


def kind_of(block: Block) -> str:
    top = re.findall(r"^(\w+):", block.text, re.MULTILINE)
    assert top, f"{block.place}: not a mapping"
    return next((key for key in ("version", "tests", *NOT_FRAGMENTS) if key in top), "fragment")


def loaded(block: Block, folder: Path) -> Policy:
    """The policy that the fragment makes. Raises `PolicyError`."""
    folder.mkdir(exist_ok=True)
    if kind_of(block) != "version":
        (folder / "10-completion.yaml").write_text(COMPLETION.read_text())
    model = folder.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text('{"id2label": {"0": "SAFE", "1": "INJECTION"}}')
    for name in ("tokenizer.json", "model.onnx"):
        (model / name).touch()
    (folder / "20-fragment.yaml").write_text(block.text.replace("/models/prompt-injection", str(model)))
    return policy_to_test(folder, {})


@pytest.mark.parametrize("block", every("yaml"), ids=where)
def test_policies_and_fragments_of_them_are_valid(block: Block, tmp_path: Path) -> None:
    kind = kind_of(block)
    if kind == "tests":
        if block.page in TESTS_OF:
            path = tmp_path / "page.test.yaml"
            path.write_text(block.text)
            assert read_suite(path, policy_to_test(ROOT / TESTS_OF[block.page], {})).cases
        else:
            assert block.file is not None, (
                "tests of a policy are run by a command of their page, or named in TESTS_OF"
            )
    elif kind not in NOT_FRAGMENTS:
        policy = loaded(block, tmp_path / "policy")
        warnings = [str(warning) for warning in policy.warnings]
        assert [text for text in warnings if not any(part in text for part in WARNED)] == []
        assert Router(policy).warm(NOW) == (), "a reader who copies this is refused with unknown_price"


@pytest.mark.slow
@pytest.mark.parametrize("page", TESTS_OF)
def test_tests_of_a_policy_that_a_page_shows_pass(page: str, tmp_path: Path) -> None:
    (block,) = [block for block in every("yaml") if block.page == page and kind_of(block) == "tests"]
    path = tmp_path / "page.test.yaml"
    path.write_text(block.text)
    outcomes = run_policy_tests(ROOT / TESTS_OF[page], {}, path)
    assert [outcome["failures"] for outcome in outcomes if not outcome["ok"]] == []


def test_a_mistake_in_a_fragment_would_be_found(tmp_path: Path) -> None:
    wrong = Block("page.md", 1, "yaml", "budgets: [{name: run, per: run, limit: 1}]\n", "")
    with pytest.raises(Exception, match="limit"):
        loaded(wrong, tmp_path / "policy")


@pytest.mark.parametrize("block", every("json"), ids=where)
def test_json_is_json(block: Block) -> None:
    try:
        json.loads(block.text)
    except ValueError:
        # One document on each line.
        for line in block.text.splitlines():
            json.loads(line)


@pytest.mark.parametrize("block", every("toml"), ids=where)
def test_toml_is_toml(block: Block) -> None:
    tomllib.loads(block.text)


@pytest.mark.parametrize("block", every("python"), ids=where)
def test_python_is_python(block: Block) -> None:
    compile(block.text, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_is_of_a_language_that_is_looked_at(path: Path) -> None:
    assert {block.language for block in blocks(path)} <= LANGUAGES
    assert path.read_text().count("\n```") % 2 == 0 or path.read_text().startswith("```")


# -- Python that is not run elsewhere ------------------------------------------------------------------


def scanned(block: Block) -> None:
    """Calls that show their result in a comment are run, and the result is what the comment says."""
    from gateway.screening import pii, secrets
    from gateway.screening.base import Finding

    text = "Mail anna@example.com, badge B-123456, card 4111 1111 1111 1111"
    names: dict[str, Any] = {"pii": pii, "secrets": secrets, "text": text, "Finding": Finding}
    tree = ast.parse(block.text)
    lines = block.text.splitlines()
    shown = 0
    for statement in tree.body:
        if isinstance(statement, ast.Expr):
            came = eval(compile(ast.Expression(statement.value), block.place, "eval"), names)
            _, has_comment, comment = lines[(statement.end_lineno or 1) - 1].partition("  # ")
            if has_comment:
                shown += 1
                assert came == eval(comment, names), f"{block.place}: {came}"
    assert shown


def genuine(block: Block) -> None:
    """The receiver's check of a webhook takes the gateway's own signature, and nothing else."""
    import time

    from gateway.alerting.delivery import signature

    names: dict[str, Any] = {}
    exec(block.text, names)
    at, body = int(time.time()), b'{"id": "evt_1"}'
    headers = {
        "x-guardrail-timestamp": str(at),
        "x-guardrail-signature": f"sha256={signature(b's3cret', str(at), body)}",
    }
    assert names["genuine"]("s3cret", headers, body)
    assert not names["genuine"]("s3cret", headers, body + b" ")
    assert not names["genuine"]("other", headers, body)
    assert not names["genuine"]("s3cret", {**headers, "x-guardrail-timestamp": str(at - 400)}, body)


RUN_HERE: dict[str, Callable[[Block], None]] = {
    "docs/alerts.md": genuine,
    "docs/pii.md": scanned,
    "docs/secrets.md": scanned,
}
RUN_ELSEWHERE = {
    "README.md": "tests/integration/test_readme.py",
    "docs/recipes.md": "tests/docs/test_recipes.py",
    "docs/simulated-provider.md": "tests/docs/test_recipes.py",
    "docs/clients.md": "constructors alone; tests/clients/test_conversations.py names runs in these ways",
}


@pytest.mark.parametrize("block", [b for b in every("python") if b.page in RUN_HERE], ids=where)
def test_python_does_what_the_page_says(block: Block) -> None:
    RUN_HERE[block.page](block)


def test_python_of_every_page_is_run() -> None:
    assert {block.page for block in every("python")} == {*RUN_HERE, *RUN_ELSEWHERE}
