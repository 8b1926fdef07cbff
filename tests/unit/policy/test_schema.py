"""The JSON Schema and the reference are made from the models."""

from __future__ import annotations

from pathlib import Path

from gateway.policy.pending import NOT_YET_ENFORCED
from gateway.policy.schema import json_schema, key_table, keys, with_table

REFERENCE = Path(__file__).parents[3] / "docs" / "policy.md"


def test_the_reference_holds_the_table_that_the_models_make() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert with_table(text) == text, "run: python -m gateway.policy.schema docs/policy.md"


def test_the_reference_names_every_key() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert [key for _, key in keys() if f"| `{key}` |" not in text] == []


def test_every_key_says_what_it_means() -> None:
    assert [line for line in key_table().splitlines() if line.endswith("|  |")] == []
    assert [name for name, part in json_schema()["$defs"].items() if "description" not in part] == []


def test_the_reference_names_what_is_not_enforced_yet() -> None:
    text = REFERENCE.read_text(encoding="utf-8").split("## Not yet enforced")[1].split("##")[0]
    for pending in NOT_YET_ENFORCED:
        for word in pending.values or {str(part) for part in pending.path if part != "*"}:
            assert word in text


def test_the_schema_refuses_unknown_keys_and_describes_the_known() -> None:
    schema = json_schema()
    assert schema["title"] == "Guardrail gateway policy"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["version"]
    budget = schema["$defs"]["Budget"]
    assert budget["properties"]["limit_usd"]["description"].startswith("Dollars, above 0")
    assert budget["required"] == ["name", "per", "limit_usd"]
