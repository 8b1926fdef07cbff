"""Writes the tables of docs/reliability.md from the catalogue and from what the last runs have measured.

python -m tests.chaos.report
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.chaos.catalogue import RANKS, Rank
from tests.chaos.results import kept

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MARKS = ("figures", "tests")


def main() -> None:
    """Put the tables in their places."""
    PAGE.write_text(rendered(PAGE.read_text(), kept()))


def rendered(text: str, records: dict[str, Any]) -> str:
    """The page with its tables. Raises: `ValueError` where it has no place for one."""
    for mark, table in zip(MARKS, (figures_table(records), tests_table()), strict=True):
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{PAGE.name} has no place for the table of {mark}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def figures_table(records: dict[str, Any]) -> str:
    """A row for each rank: what is shown, and what the last run of its long tests has measured."""
    lines = ["| | fault | what is shown | last run of the long test |", "|---|---|---|---|"]
    for rank in RANKS:
        lines.append(f"| {rank.number} | {rank.title} | {rank.shows} | {measured(rank, records)} |")
    return "\n".join(lines)


def measured(rank: Rank, records: dict[str, Any]) -> str:
    """The figures of a rank's long tests, those with parameters one after another."""
    told = []
    for scenario in rank.scenarios:
        for name, record in records.items():
            if name == scenario or name.startswith(f"{scenario}["):
                told.append(one(name, record))
    return "<br>".join(told) or "not run yet"


def one(name: str, record: dict[str, Any]) -> str:
    """One record in a line."""
    again = name.startswith("test_again.py")
    parameter = "" if again or "[" not in name else f"*{name.partition('[')[2][:-1]}*: "
    figures = record["figures"]
    if again:
        skipped = f", {figures['skipped']} skipped" if figures.get("skipped") else ""
        said = f"{figures['passed']:,} tests passed{skipped}, {figures['times']} times the examples"
    else:
        said = "; ".join(f"{what} {_shown(value)}" for what, value in figures.items())
    load = f", load {record['load']:g}" if "load" in record else ""
    return f"{parameter}{said} ({record['seconds']} s{load}, seed {record['seed']})"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def tests_table() -> str:
    """A row for each rank: the tests by name."""
    lines = ["| | in `make test` | in `make chaos` |", "|---|---|---|"]
    for rank in RANKS:
        short = "<br>".join(f"`{name}`" for name in rank.tests)
        long = "<br>".join(f"`{name}`" for name in rank.scenarios)
        lines.append(f"| {rank.number} | {short} | {long} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
