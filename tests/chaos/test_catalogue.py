"""Every ranked fault has tests that exist, and the page tells of them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.chaos import report, results
from tests.chaos.catalogue import RANKS, Rank

TESTS = Path(__file__).parents[1]


@cache
def names_in(path: Path) -> frozenset[str]:
    """Names of the tests in a file, those of classes included."""
    tree = ast.parse(path.read_text())
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    names = {node.name for node in functions if node.name.startswith("test_")}
    # A state machine's tests are a class that hypothesis makes.
    names |= {
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }
    return frozenset(names)


def test_all_ranks_are_there() -> None:
    assert [rank.number for rank in RANKS] == list(range(1, 43))


@pytest.mark.parametrize("rank", RANKS, ids=lambda rank: f"{rank.number:02d}")
def test_every_test_that_is_named_exists(rank: Rank) -> None:
    assert rank.tests
    for name in rank.tests:
        path, _, test = name.partition("::")
        assert names_in(TESTS / path), path
        assert not test or test in names_in(TESTS / path), name
    for name in rank.scenarios:
        path, _, test = name.partition("::")
        assert test.partition("[")[0] in names_in(TESTS / "chaos" / path), name


def test_the_page_is_what_the_command_writes() -> None:
    text = report.PAGE.read_text()
    assert report.rendered(text, results.kept()) == text


def test_every_record_belongs_to_a_scenario() -> None:
    scenarios = {scenario for rank in RANKS for scenario in rank.scenarios}
    for name in results.kept():
        assert name in scenarios or name.partition("[")[0] in scenarios, name


def test_a_page_without_a_place_for_a_table_is_noticed() -> None:
    with pytest.raises(ValueError, match="no place for the table of figures"):
        report.rendered("# Reliability\n", {})
