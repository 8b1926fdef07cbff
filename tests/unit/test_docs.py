"""What users can meet is documented, and what the documentation points at is there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from gateway.errors import CODES
from gateway.settings import PROVIDER_KEYS
from gateway.telemetry.metrics import Metrics, Timings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def table_rows(text: str) -> dict[str, str]:
    """The rows of a page's tables by the `name` in their first column."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        first = line.split("|")[1] if line.startswith("|") else ""
        for name in re.findall(r"`([^`]+)`", first):
            assert name not in found, f"{name} has two rows"
            found[name] = line
    return found


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_is_documented_with_its_status(code: str) -> None:
    row = table_rows(page("errors.md")).get(code)
    assert row is not None, f"docs/errors.md says nothing of {code}"
    assert row.split("|")[2].strip().startswith(str(CODES[code][0]))


def test_no_error_is_documented_that_does_not_exist() -> None:
    assert set(table_rows(page("errors.md"))) == set(CODES)


# -- settings ----------------------------------------------------------------------------------------


def variables_read() -> set[str]:
    """Every `GATEWAY_…` variable that the settings or the command line read."""
    sources = [(ROOT / "gateway" / name).read_text() for name in ("settings.py", "commands/console.py")]
    return set(re.findall(r'"(GATEWAY_[A-Z_]*[A-Z])"', "".join(sources)))


def test_every_variable_is_documented() -> None:
    rows = table_rows(page("quickstart.md"))
    assert {"GATEWAY_POLICY", "GATEWAY_URL"} <= variables_read()
    assert {name for name in rows if name.startswith("GATEWAY_")} == variables_read()


@pytest.mark.parametrize("name", PROVIDER_KEYS)
def test_every_provider_key_that_switches_the_simulation_off_is_documented(name: str) -> None:
    assert f"`{name}`" in page("quickstart.md")


# -- metrics -----------------------------------------------------------------------------------------


def metrics() -> Iterator[tuple[str, str, MetricWrapperBase | Timings]]:
    """(attribute, name as exposed, metric) of each metric."""
    for attribute, metric in vars(Metrics()).items():
        if isinstance(metric, MetricWrapperBase | Timings):
            (described,) = metric.describe()
            yield attribute, described.name + ("_total" if described.type == "counter" else ""), metric


def test_every_metric_is_documented_with_its_kind_and_labels() -> None:
    rows = table_rows(page("metrics.md"))
    for _, name, metric in metrics():
        (described,) = metric.describe()
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert cells[2] == described.type, name
        assert re.findall(r"`(\w+)`", cells[3]) == list(metric._labelnames), name


def test_no_metric_is_documented_that_does_not_exist() -> None:
    assert set(table_rows(page("metrics.md"))) == {name for _, name, _ in metrics()}


def test_metrics_that_nothing_moves_are_documented_as_such() -> None:
    """A metric that comes into use moves to the first table of docs/metrics.md."""
    moved = set()
    for source in (ROOT / "gateway").rglob("*.py"):
        if source.name != "metrics.py":
            moved |= set(re.findall(r"\b(?:metrics|m)\.([a-z_]+)\b", source.read_text()))
    first, _, reserved = page("metrics.md").partition("## Declared and not yet moved")
    used = {name for attribute, name, _ in metrics() if attribute in moved}
    assert set(table_rows(first)) == used
    assert not used & set(table_rows(reserved))


# -- dependencies ------------------------------------------------------------------------------------


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ]", requirement, maxsplit=1)[0] for requirement in requirements}


def test_every_dependency_is_documented_with_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = requirement_names(project["project"]["dependencies"])
    for group in (
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ):
        declared |= requirement_names(group)
    at_run_time, _, rest = page("dependencies.md").partition("\nExtras:\n")
    extras, _, development = rest.partition("## To build and to test")
    documented = {**table_rows(at_run_time), **table_rows(development)}
    names = {name for name in documented} | {name for name in table_rows(extras)} - {
        "classifier",
        "postgres",
        "demo",
    }
    assert names == declared
    assert all(row.split("|")[2].strip() for row in documented.values())
    assert set(table_rows(at_run_time)) == requirement_names(project["project"]["dependencies"])


# -- pages -------------------------------------------------------------------------------------------

LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        aimed = (path.parent / target).resolve() if target else path
        assert aimed.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(aimed), f"{target}#{anchor} is not there"


def test_the_index_lists_every_page() -> None:
    listed = {(ROOT / "docs" / target).resolve() for target, _ in LINK.findall(page("index.md"))}
    there = set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "index.md"}
    assert there <= listed


def test_the_changelog_names_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f"## [{project['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()
