"""The page shows what the tables say that the tests run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import CODES
from tests.parity.controls import CONTROLS, GATEWAYS
from tests.parity.matrix import TABLES, with_tables

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run: python -m tests.parity.matrix docs/parity.md"


def test_a_page_without_a_place_for_a_table_is_noticed() -> None:
    with pytest.raises(LookupError, match="controls"):
        with_tables("")


def test_every_row_has_a_name_of_its_own_and_a_known_gateway() -> None:
    names = [control.name for control in CONTROLS]
    assert len(set(names)) == len(names)
    assert {control.gateway for control in CONTROLS} == set(GATEWAYS)


def test_every_code_of_a_row_is_one_of_the_gateways() -> None:
    assert {control.code for control in CONTROLS if control.code} <= set(CODES)
    for control in CONTROLS:
        if control.code and control.when == "before":
            assert control.status in (CODES[control.code][0], 400), control.name


def test_the_controls_table_has_a_row_for_each() -> None:
    table = TABLES["controls"]()
    assert all(f"| {control.title} |" in table for control in CONTROLS)
