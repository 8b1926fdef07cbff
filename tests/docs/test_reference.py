"""The pages that are references are complete: every command with its options, every route, and examples of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from fastapi import APIRouter
from fastapi.routing import APIRoute

from gateway.cli import app
from gateway.testing import running_provider
from gateway.web import admin
from gateway.web.admin_gate import _grants
from tests.docs.blocks import DOCS, blocks
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway, wait_until

CLI = (DOCS / "cli.md").read_text()
API = (DOCS / "admin-api.md").read_text()


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with its words."""
    below = getattr(group, "commands", None)
    if below is None or (path and group.invoke_without_command):
        yield path, group
    for name, command in (below or {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def cells(line: str) -> list[str]:
    """The cells of a row of a table; one empty cell for any other line."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else [""]


def rows_about(words: tuple[str, ...]) -> str:
    """The lines of docs/cli.md that are about a command."""
    if words == ("serve",):
        return CLI.partition("## Serving")[2].partition("\n## ")[0]
    found = [part for part in CLI.split("\n\n") if part.startswith(f"`gateway {' '.join(words)}")]
    for line in CLI.splitlines():
        for told in re.findall(r"`gateway ([^`]+)`", cells(line)[0]):
            names = re.split(r"[ \\|]+", told)
            if names[0] == words[0] and (len(words) == 1 or words[1] in names):
                found.append(line)
    return "\n".join(found)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_option_is_in_the_reference(words: tuple[str, ...]) -> None:
    rows = rows_about(words)
    assert rows, f"docs/cli.md says nothing of gateway {' '.join(words)}"
    for parameter in COMMANDS[words].params:
        options = [option for option in parameter.opts if option.startswith("--")]
        if options and options[0] not in ("--help", "--json"):
            assert any(option in rows for option in (*options, *parameter.secondary_opts)), (
                f"{options[0]} of gateway {' '.join(words)}"
            )


def test_no_command_is_documented_that_does_not_exist() -> None:
    for told in re.findall(r"^\| `gateway (\w+)", CLI, re.MULTILINE):
        assert any(words[0] == told for words in COMMANDS), told


def _plain(path: str) -> str:
    """A path below /admin/v1 with `{}` for each part that is named."""
    return re.sub(r"\{[^}]+\}", "{}", path.removeprefix("/admin/v1"))


# -- the admin API -------------------------------------------------------------------------------------


def routes() -> Iterator[APIRoute]:
    """Every route of the admin API."""
    for module in (admin, *vars(admin).values()):
        for router in (
            vars(module).values() if hasattr(module, "__name__") and hasattr(module, "__dict__") else ()
        ):
            if isinstance(router, APIRouter):
                yield from (route for route in router.routes if isinstance(route, APIRoute))


ROUTES = {(method, _plain(route.path)): route for route in routes() for method in route.methods or ()}
UNDOCUMENTED = {
    ("GET", "/openapi.json"): "told in the page's first paragraph",
    ("DELETE", "/kills/global"): "`DELETE /kills/{scope}/{id}` without an id",
}


def endpoints() -> dict[tuple[str, str], str]:
    """The rows of the table of endpoints by method and path. A row may name several, the later ones shortened."""
    found: dict[tuple[str, str], str] = {}
    for line in API.partition("## Endpoints")[2].partition("\n## ")[0].splitlines():
        cell = cells(line)[0]
        method, first = "GET", ""
        for part in re.findall(r"`([^`]+)`", cell):
            words = part.split()
            if words[0] in ("GET", "POST", "DELETE"):
                method = words.pop(0)
            if not words or words[0][0] not in "/…":
                continue
            path = words[0].partition("?")[0]
            first = first or path
            found[method, _plain(path.replace("…", first))] = line
    return found


def test_every_route_is_in_the_reference_with_its_role_and_parameters() -> None:
    documented = endpoints()
    assert set(documented) | set(UNDOCUMENTED) == set(ROUTES)
    for key, line in documented.items():
        route = ROUTES[key]
        assert cells(line)[1] == _grants[route.endpoint].role, key
        for parameter in route.dependant.query_params:
            assert re.search(rf"\b{parameter.alias}\b", line), f"{key}: {parameter.alias}"


# -- examples of answers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    extra = "budgets: [{name: run, per: run, limit_usd: 0.000001}]\n"
    with running_provider(seed=1) as provider:
        folder = tmp_path_factory.mktemp("reference")
        with threaded_gateway(base_policy(provider.base_url, extra), folder) as made:
            yield made


def example(page: str, number: int = 0) -> Any:
    found = [block for block in blocks(DOCS / page) if block.language == "json"]
    return json.loads(found[number].text)


def shape(value: Any) -> Any:
    """The keys of a document, of its objects and of the first of each of its lists."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def ensure_alike(shown: Any, came: Any) -> None:
    """The example has the keys that came, with values of the same kinds; `rows` and the like may hold others."""
    assert shape(shown) == shape(came)


def test_the_example_of_an_error_is_one(gateway: ThreadedGateway) -> None:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "Hello"}]}
    status, headers, raw = gateway.post(body)
    assert (status, headers["x-should-retry"]) == (400, "false")
    ensure_alike(example("errors.md"), json.loads(raw))


def test_the_examples_of_the_admin_api_are_its_answers(gateway: ThreadedGateway) -> None:
    gateway.post(
        {"model": "sim/echo", "messages": [{"role": "user", "content": "Hello"}]}, x_guardrail_run_id="told"
    )
    run = wait_until(lambda: gateway.admin("GET", "/runs")["data"], what="the run")[0]["id"]
    kill = gateway.admin("POST", "/kills", {"scope": "run", "id": run, "reason": "runaway"})
    ensure_alike(example("admin-api.md"), kill)
    erasure = gateway.admin("POST", "/privacy/erasures", {"user": "nobody", "reason": "request 2026-118"})
    shown = example("admin-api.md", 1)
    ensure_alike({**shown, "rows": {}}, {**erasure, "rows": {}})
    record = gateway.admin("GET", "/audit?limit=1")["data"][0]
    assert set(example("audit.md")) == set(record)
