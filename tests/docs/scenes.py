"""Where the commands of a page are run: a folder like a checkout, a gateway with some history, the simulated provider.

The gateway serves `docs/howto/base.yaml` with `scene.yaml` of this folder, or, for pages that speak of `make run`, the
default policy. In a how-to it serves the policy that the page itself writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.testing import ProviderServer, Reply
from tests.docs.blocks import ROOT, Block
from tests.docs.shell import Shell
from tests.support.gateway import ADMIN_TOKEN, SECRET_KEY, ThreadedGateway, threaded_gateway, wait_until

HERE = Path(__file__).parent
BASE = ROOT / "docs" / "howto" / "base.yaml"
BOT = "gk-support-bot-0123456789"
DEFAULT_POLICY_PAGES = {
    "README.md",
    "docs/quickstart.md",
    "docs/recipes.md",
    "docs/runs.md",
    "docs/budgets.md",
    "docs/backtesting.md",
}
"""Pages whose commands are for what `make run` serves."""
LANDED_PAGES = {"docs/budgets.md", "docs/backtesting.md", "docs/runbook.md"}
"""Pages that show figures of the README's run."""
_LINKED = (
    "docs",
    "policies",
    "tests",
    "gateway",
    "benchmarks",
    "docker",
    "helm",
    "requirements",
    "pyproject.toml",
    "Makefile",
    ".venv",
)


@dataclass
class Scene:
    """A page's surroundings. `filled` are the ids that its examples stand for."""

    page: str
    folder: Path
    gateway: ThreadedGateway
    provider: ProviderServer
    shell: Shell
    filled: dict[str, str] = field(default_factory=dict)

    def text_of(self, command: str) -> str:
        """The command as it is run: addresses, programs and ids are those of this scene."""
        for host in ("127.0.0.1", "localhost"):
            command = command.replace(f"{host}:8080", f"127.0.0.1:{self.gateway.port}")
            command = command.replace(f"http://{host}:9000", self.provider.origin).replace(
                f"{host}:9000", self.provider.origin.removeprefix("http://")
            )
        command = re.sub(r"(?<![\w/])\.venv/bin/(gateway|python)\b", r"\1", command)
        for shown, came in self.filled.items():
            command = command.replace(shown, came)
        for verb, kind in (("keys", "key"), ("tokens", "tok"), ("approve", "apr"), ("deny", "apr")):
            command = re.sub(rf"(gateway {verb} .*?)\bID\b", rf"\1{kind}_…", command)
        return _PLACEHOLDER.sub(self._fill, command)

    def _fill(self, found: re.Match[str]) -> str:
        if found[0] in self.filled.values():
            return found[0]
        kind = found["kind"] or found["word"].lower()
        made = FILL.get(kind)
        return made(self) if made is not None else found[0]


_PLACEHOLDER = re.compile(
    r"(?<![\w$/.{-])(?:(?P<kind>run|ses|apr|key|tok)_(?:…|[0-9a-f]{12,})|(?P<word>RUN|SESSION|MODEL|VERSION|NAME))(?![\w=])"
)


def _newest(path: str, name: str = "id") -> Callable[[Scene], str]:
    def look(scene: Scene) -> str:
        rows = wait_until(lambda: scene.gateway.admin("GET", path)["data"], what=path)
        return str(rows[0][name])

    return look


def _made(path: str, body: dict[str, Any]) -> Callable[[Scene], str]:
    """An id of something made for the purpose, since the command may take it out of use."""

    def make(scene: Scene) -> str:
        name = f"{body['name']}-{len(scene.filled)}-{os.urandom(2).hex()}"
        return str(scene.gateway.admin("POST", path, {**body, "name": name})["id"])

    return make


FILL: dict[str, Callable[[Scene], str]] = {
    "run": _newest("/runs"),
    "session": _newest("/runs", "session"),
    "ses": _newest("/runs", "session"),
    "apr": _newest("/approvals"),
    "key": _made("/keys", {"name": "rotating"}),
    "tok": _made("/tokens", {"name": "rotating", "role": "viewer"}),
    "version": _newest("/policy/versions", "version"),
    "model": lambda scene: "gpt-4o",
    "name": lambda scene: "support-bot",
}
"""What the words in capitals and the shortened ids of commands stand for. What `ID` is, the command tells."""


@contextlib.contextmanager
def scene(page: str, found: list[Block], provider: ProviderServer, folder: Path) -> Iterator[Scene]:
    """The surroundings of a page, with the files that it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    provider.wait_idle_blocking()
    provider.journal.clear()
    provider.forget_scripts()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "PROVIDER_URL": provider.base_url,
        "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN,
        "GATEWAY_SECRET_KEY": SECRET_KEY,
    }
    # On a terminal curl says nothing but the answer.
    (folder / ".curlrc").write_text("no-progress-meter\n")
    howto = page.startswith("docs/howto/")
    policy = _policy(page, found, folder)
    options: dict[str, Any] = (
        {} if page in DEFAULT_POLICY_PAGES else {"environment": {"PROVIDER_URL": provider.base_url}}
    )
    with threaded_gateway(policy, folder / "served", **{"environment": {}, **options}) as gateway:
        (folder / ".gateway").mkdir()
        (folder / ".gateway" / "admin.token").write_text(ADMIN_TOKEN)
        environment |= {
            "GATEWAY_URL": gateway.url,
            "OPENAI_BASE_URL": gateway.base_url,
            "OPENAI_API_KEY": BOT,
        }
        if howto:
            # As docs/howto/index.md says.
            environment |= {"GATEWAY_POLICY": "try/policy"}
        made = Scene(page, folder, gateway, provider, Shell(folder, environment))
        if not howto:
            _history(made)
        try:
            yield made
        finally:
            made.shell.close()


def _policy(page: str, found: list[Block], folder: Path) -> Path:
    """The policy that is served: a file or a folder."""
    for block in found:
        if block.file is not None and not block.file.startswith("~"):
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    if page in DEFAULT_POLICY_PAGES:
        return ROOT / "policies" / "default.yaml"
    served = folder / "try" / "policy"
    served.mkdir(parents=True, exist_ok=True)
    (served / "base.yaml").write_text(BASE.read_text())
    if not page.startswith("docs/howto/"):
        (served / "scene.yaml").write_text((HERE / "scene.yaml").read_text())
    return served


def _history(made: Scene) -> None:
    """Something to look at: runs with names; on some pages one that was landed, or a call that waits for an approval."""
    said = {"role": "user", "content": "Hello"}
    for name in ("nightly", "nightly-report"):
        made.gateway.post({"model": "sim/echo", "messages": [said]}, key=BOT, x_guardrail_run_id=name)
    if made.page in LANDED_PAGES:
        _land(made)
    if made.page == "docs/approvals.md":
        calls = Reply(tool_calls=[("send_email", {"subject": "Hi", "to": "a@example.com"})])
        made.provider.script("mailer", [calls])
        mail = [{"type": "function", "function": {"name": "send_email"}}]
        made.gateway.post({"model": "sim/mailer", "messages": [said], "tools": mail}, key=BOT)
    wait_until(lambda: made.gateway.admin("GET", "/spend?group_by=run")["data"], what="the ledger")


def _land(made: Scene) -> None:
    """The agent of the README, until its budget lands it."""
    search = [{"type": "function", "function": {"name": "search"}}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "My printer is offline."}]
    while True:
        body = {"model": "sim/printer", "messages": messages, "tools": search}
        status, _, raw = made.gateway.post(body, key=BOT)
        assert status == 200, raw
        message = json.loads(raw)["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            return
        for call in message["tool_calls"]:
            result = {"role": "tool", "tool_call_id": call["id"], "content": "No result, try again. " * 200}
            messages.append(result)
