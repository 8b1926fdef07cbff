"""What `gateway backtest` sends of a policy file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.commands.backtest import text_to_send
from gateway.policy.loading import load, load_candidate
from gateway.policy.messages import PolicyError

POLICY = """
version: 1
providers:
  openai: {dialect: openai, base_url: https://api.openai.com/v1, api_key: sk-literal-0123456789}
  other:  {dialect: openai, base_url: https://other.example/v1, api_key: "${OTHER_KEY:-sk-default-0123456789}"}
models: {gpt-4o: {provider: openai}}
keys:
  - {name: alice, key: 'gk-alice-0123456789'}  # gk-alice-0123456789 is hers
  - {name: bob, key: ${BOB_KEY}}
alerts: [{name: hook, url: "https://hooks.example/T0/secret", on: [kill]}]
"""
ENVIRONMENT = {"BOB_KEY": "gk-bob-0123456789"}


def test_no_secret_is_sent_and_lines_stay(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    text = text_to_send(file)
    for secret in ("sk-literal", "sk-default", "gk-alice", "T0/secret"):
        assert secret not in text
    assert "${BOB_KEY}" in text
    assert len(text.splitlines()) == len(POLICY.splitlines())


def test_the_same_file_is_the_same_version(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    base = load(file, ENVIRONMENT)
    candidate = load_candidate(text_to_send(file), base)
    assert candidate.version == base.version
    assert load_candidate(POLICY, base).version == base.version
    assert "sk-literal" not in repr(candidate.providers)


def test_a_folder_is_sent_as_one_text(tmp_path: Path) -> None:
    head, tail = POLICY.split("keys:")
    (tmp_path / "1.yaml").write_text(head)
    (tmp_path / "2.yaml").write_text(f"keys:{tail}")
    text = text_to_send(tmp_path)
    assert "gk-alice" not in text
    assert load_candidate(text, load(tmp_path, ENVIRONMENT)).version == load(tmp_path, ENVIRONMENT).version


@pytest.mark.parametrize("text", ["", "[]", "a: [", "a: 1\na: 2"])
def test_what_is_no_policy_is_told_here(text: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError):
        text_to_send(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        text_to_send(tmp_path / "nothing.yaml")
