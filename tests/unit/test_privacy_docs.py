"""docs/privacy.md tells of every place where the ledger may name a person."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary, String, Table, Text

from gateway.stores import ledger_schema as schema

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
_NAMELESS = (
    # ids that the gateway or a provider made, and other names of the gateway's own records
    "id run step call_id parent continues refusals_cut_id kill worker owner holder base credential token erasure "
    "event alert budget policy version key_id "
    # words of the gateway's own
    "kind source surface verdict status reason_status state phase scope role mode action detector channel type rule "
    "decision priority max_tool_level pseudonym waits_for counts models model requested_model provider model_mix tool "
    "value ref prev_hash hash digest steps"
)
NAMELESS = frozenset(_NAMELESS.split())
"""Text columns that name nobody, in whatever table they are."""


def row_of(table: str) -> str:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{table}`" in line.split("|")[1]]
    assert len(rows) == 1, f"docs/privacy.md has {len(rows)} rows for {table}: say what of a person it holds"
    return rows[0]


@pytest.mark.parametrize("table", schema.metadata.tables.values(), ids=lambda table: table.name)
def test_every_text_of_every_table_is_told(table: Table) -> None:
    row = row_of(table.name)
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
    told = set(re.findall(r"`(\w+)`", cells[2]))
    texts = {c.name for c in table.columns if isinstance(c.type, String | Text | LargeBinary)}
    if cells[2].startswith("nothing"):
        # Ids and words of the gateway's own, in tables that hold nothing else.
        assert texts <= NAMELESS | {"name", "call_id"}, f"{table.name}: {sorted(texts - NAMELESS)}"
        return
    missing = texts - NAMELESS - told
    assert not missing, f"{table.name}: docs/privacy.md does not say whom {sorted(missing)} may name"


def test_no_table_is_told_that_does_not_exist() -> None:
    assert set(re.findall(r"`(gw_\w+)`", PAGE)) <= set(schema.metadata.tables)
