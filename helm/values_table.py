"""Writes the table of the chart's values into docs/deployment.md, from `values.yaml` and its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "guardrail-gateway"
PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"
HEAD = "| value | default | |\n|---|---|---|\n"
LONG = 60


def rows(values: dict[str, Any], known: dict[str, Any], path: str = "") -> Iterator[str]:
    """One row for each value that can be set."""
    for name, value in values.items():
        described = known[name]
        if isinstance(value, dict) and "properties" in described:
            yield from rows(value, described["properties"], f"{path}{name}.")
            continue
        shown = json.dumps(value)
        default = f"`{shown}`" if len(shown) <= LONG else "see `values.yaml`"
        yield f"| `{path}{name}` | {default} | {described['description']} |\n"


def written() -> str:
    """The table."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    return HEAD + "".join(rows(values, schema["properties"]))


def page() -> str:
    """The page, with the table as it should be."""
    before, head, rest = PAGE.read_text().partition(HEAD)
    if not head:
        raise SystemExit(f"{PAGE}: the head of the table is not there")
    after = rest[rest.index("\n\n") + 1 :]
    return before + written() + after


if __name__ == "__main__":
    PAGE.write_text(page())
