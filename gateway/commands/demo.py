"""`gateway demo`: a runaway agent meets a budget, and an operator's kill reaches a stream.

Everything is real but the model: a gateway process with its own data directory, an agent process that was
written for the `openai` SDK and is told nothing but `OPENAI_BASE_URL` and `OPENAI_API_KEY`, and the simulated
provider in between them and no bill. What is shown comes from the agent's own log and from the admin API, as
any operator could see it. It ends by itself, with 0 if both agents were stopped as promised, else with 1.

The agents stand at the end of this file and know nothing of the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.commands.client import AdminClient, ClientError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from gateway.testing import Ask, ProviderServer, Reply

LIMIT_USD = Decimal("0.05")
INPUT_USD, OUTPUT_USD = Decimal("2.50"), Decimal("10.00")
"""Per million tokens, as gpt-4o's."""
LOOK_UPS = 1200
"""How often the support bot of the incident asked for the same word, in 47 minutes, for $340."""
WINDOW_TOKENS = 128_000
"""What gpt-4o reads at most."""
PROMISED_STOP_MS = 1000
"""A kill takes hold within this, even where its push was lost and polling has to find it."""
READY_S = 60.0
RUN_S = 20.0
"""An agent that is not stopped by then was not stopped as promised."""
END_S = 3.0
STEP_S = 0.35
"""How long the simulated model thinks, so that there is something to watch."""
STREAM_S = 1.5
"""How long the second agent streams before the operator acts."""

POLICY = """
version: 1
providers:
  simulated: {{dialect: openai, base_url: "{provider}", api_key: none}}
models:
  gpt-4o: {{provider: simulated, price: {{input_usd_per_mtok: {input}, output_usd_per_mtok: {output}}}}}
auth: {{mode: keys}}
keys:
  - {{name: support-bot,   key: {support_key}, user: support, team: cx}}
  - {{name: report-writer, key: {writer_key}, user: reports, team: cx}}
budgets:
  - {{name: run, per: run, limit_usd: {limit}}}
runs: {{max_steps: 2000, max_wall_clock_s: 3600}}
recording: {{content: true}}
"""


class DemoError(Exception):
    """The demo cannot go on; the text is a sentence."""


# -- what it would have cost -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """One step of a run, as the admin API tells it."""

    ordinal: int
    model: str
    input_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Projection:
    """What a run that grows as it was seen to grow comes to in so many steps. Dollars."""

    tokens_per_step: int
    """Input tokens that each step adds to the next."""
    total: Decimal
    fits: int
    """Steps until the model's window is full."""
    trimmed: Decimal
    """The same, for an agent that from then on cuts its history to what the window holds."""


def project(steps: Sequence[Seen], count: int = LOOK_UPS, window: int = WINDOW_TOKENS) -> Projection:
    """Extend the line through the first and the last step: every step carries all the earlier ones, so its
    cost grows by the same amount each time. At least two steps are needed."""
    first, last = steps[0], steps[-1]
    apart = len(steps) - 1
    tokens = (last.input_tokens - first.input_tokens) // apart
    rise = (last.cost - first.cost) / apart
    fits = count if tokens <= 0 else min(count, (window - first.input_tokens) // tokens + 1)
    full = first.cost + rise * (fits - 1)
    return Projection(
        tokens, _sum(first.cost, rise, count), fits, _sum(first.cost, rise, fits) + full * (count - fits)
    )


def _sum(first: Decimal, rise: Decimal, count: int) -> Decimal:
    return first * count + rise * (count * (count - 1)) / 2


# -- the processes -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Agent:
    """An agent process and its log, line by line, each with the moment it was read (monotonic seconds)."""

    process: subprocess.Popen[str]
    lines: queue.Queue[tuple[float, str] | None] = field(default_factory=queue.Queue)

    def log(self, until: float) -> Iterator[tuple[float, str]]:
        """Its lines as they come. Raises `DemoError` when it is still at work at that moment."""
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise DemoError(f"the agent was not stopped within {RUN_S:.0f} s") from None
            if line is None:
                return
            yield line

    def read(self) -> None:
        """Follow the log to its end; the work of a thread."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put((time.monotonic(), line.rstrip("\n")))
        self.lines.put(None)


@contextlib.contextmanager
def running_agent(name: str, base_url: str, key: str) -> Iterator[Agent]:
    """One of the agents below, in a process of its own."""
    with _process(
        [sys.executable, "-m", "gateway.commands.demo", name],
        stdout=subprocess.PIPE,
        OPENAI_BASE_URL=base_url,
        OPENAI_API_KEY=key,
    ) as process:
        agent = Agent(process)
        threading.Thread(target=agent.read, daemon=True).start()
        yield agent


@contextlib.contextmanager
def running_gateway(policy: str, directory: Path) -> Iterator[tuple[str, AdminClient]]:
    """`gateway serve` on a free port: its URL and its admin API. Raises `DemoError` with the log's end."""
    (directory / "policy.yaml").write_text(policy)
    log = directory / "gateway.log"
    token = secrets.token_urlsafe(24)
    with (
        log.open("wb") as out,
        _process(
            [sys.executable, "-m", "gateway", "serve"],
            stdout=out,
            GATEWAY_POLICY=str(directory / "policy.yaml"),
            GATEWAY_PORT="0",
            GATEWAY_DATA_DIR=str(directory / "data"),
            GATEWAY_ADMIN_TOKEN=token,
        ) as process,
    ):
        url = _listening(process, log)
        yield url, AdminClient(url, token)


def _listening(process: subprocess.Popen[str], log: Path) -> str:
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up and process.poll() is None:
        found = re.search(r"listens on (http://\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.02)
    raise DemoError(f"the gateway did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def _process(command: list[str], *, stdout: Any, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A child that knows nothing of this environment's gateway and provider keys, ended with the block."""
    hidden = re.compile(r"GATEWAY_|.*_API_KEY$|OPENAI_|.*_proxy$", re.IGNORECASE)
    environment = {name: value for name, value in os.environ.items() if not hidden.match(name)}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
        command,
        env={**environment, **variables, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- what is shown -----------------------------------------------------------------------------------

MAX_COLUMNS, MARGIN = 110, 10
_COLUMNS = (
    # (heading, its width, whether figures stand in it)
    ("step", 4, True),
    ("model", 6, False),
    ("input", 5, True),
    ("cost", 10, True),
    ("run total", 10, True),
    ("left", 10, True),
    ("what the agent does", 20, False),
)


class Screen:
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live_table = console.is_terminal
        self._rows: list[tuple[str, ...]] = []
        self._live: Live | None = None

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line of text, whatever it holds."""
        self.console.print(
            text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=not self.live_table
        )

    def fact(self, label: str, *sentences: str, style: str | None = None) -> None:
        """Paragraphs with a label in the margin."""
        width = min(self.console.width, MAX_COLUMNS) if self.live_table else MAX_COLUMNS
        for sentence in sentences:
            for line in textwrap.wrap(sentence, width - MARGIN, break_on_hyphens=False):
                self.say(f"{label:<{MARGIN}}{line}", style)
                label = ""

    def title(self, text: str) -> None:
        """The headline of a part."""
        self.say()
        self.say(text, "bold")

    @contextlib.contextmanager
    def table(self) -> Iterator[None]:
        """Rows are added within the block."""
        self._rows = []
        if not self.live_table:
            yield
            return
        from rich.live import Live

        with Live(self._table(), console=self.console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def row(self, *cells: str) -> None:
        """One step."""
        self._rows.append(cells)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            step, model, tokens, cost, total, left, does = cells
            money = f"{cost:>10}  total {total:>10}  left {left:>10}" if cost else ""
            parts = (f"step {step:>2}", model, tokens and f"{tokens:>5} in", money, does)
            self.say("  ".join(part for part in parts if part))

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, expand=False)
        for name, width, figures in _COLUMNS:
            table.add_column(
                name,
                justify="right" if figures else "left",
                min_width=width,
                no_wrap=True,
                overflow="ellipsis",
            )
        for cells in self._rows[-max(5, self.console.height - 4) :]:
            refused = cells[-1].startswith("refused")
            table.add_row(*(Text(cell, style="bold red" if refused else "") for cell in cells))
        return table


def _answer(stopped: bool) -> str:
    return "yes" if stopped else "NO"


def dollars(amount: Decimal, places: int = 7) -> str:
    """As people write it. Seven places show these prices in full."""
    return f"${amount:,.{places}f}"


def price(input_tokens: int, output_tokens: int) -> Decimal:
    """What so many tokens cost at the policy's prices: an independent sum beside the gateway's."""
    return (INPUT_USD * input_tokens + OUTPUT_USD * output_tokens) / 1_000_000


# -- part one: the budget ----------------------------------------------------------------------------


def part_one(screen: Screen, url: str, admin: AdminClient, key: str, provider: ProviderServer) -> bool:
    """The runaway agent; whether its budget stopped it."""
    screen.title(
        f"1. A support bot whose tool finds nothing, and a budget of {dollars(LIMIT_USD, 2)} per run"
    )
    screen.fact(
        "agent",
        'written with the openai SDK, without a limit of its own. Its search answers "no result, try again", '
        "and each request carries the whole conversation again.",
    )
    screen.say()
    steps: list[Seen] = []
    refusal: dict[str, Any] = {}
    said = run = ""
    with running_agent("support", f"{url}/v1", key) as agent, screen.table():
        for _, line in agent.log(time.monotonic() + RUN_S):
            if line.startswith("search"):
                run = run or _run_of(admin, "support-bot")
                _show_new(screen, admin, run, steps, line)
            elif line.startswith("ERROR"):
                said = line.removeprefix("ERROR ")
                break
        if said and run:
            refusal = _refusal(admin, run)
            blank = ("", "", "", "", "")
            screen.row(str(len(steps) + 1), *blank, f"refused: {refusal.get('code')}")
    if not said or not run or len(steps) < 2:
        raise DemoError(f"the agent ended without being stopped by the gateway. {said}")
    told = admin.get(f"/runs/{run}")
    spent = Decimal(told["cost_usd"])
    stopped = (
        refusal.get("code") == "run_budget_exceeded"
        and told["status"] == "stopped_budget"
        and told["refusals"] == 1
        and spent <= LIMIT_USD
        and spent == sum(step.cost for step in steps)
    )
    screen.say()
    screen.fact("stopped", f"{_answer(stopped)}, in run {run}, status {told['status']}")
    screen.fact(
        "by",
        f"rule '{refusal.get('rule')}', code {refusal.get('code')}: limit ${refusal.get('limit')}, "
        f"spent ${refusal.get('used')}",
    )
    screen.fact("its log", said)
    _show_costs(screen, steps, spent, provider)
    return stopped


def _run_of(admin: AdminClient, key: str) -> str:
    runs = admin.get("/runs", key=key, limit=1)["data"]
    return str(runs[0]["id"]) if runs else ""


def _show_new(screen: Screen, admin: AdminClient, run: str, steps: list[Seen], does: str) -> None:
    """A row for each step that the ledger has by now and the screen has not."""
    rows = [row for row in _steps(admin, run) if row["kind"] == "attempt"]
    for row in rows[len(steps) :]:
        step = Seen(row["ordinal"], row["model"], row["usage"]["input_tokens"], Decimal(row["cost_usd"]))
        steps.append(step)
        total = sum((each.cost for each in steps), Decimal(0))
        screen.row(
            str(step.ordinal),
            step.model,
            str(step.input_tokens),
            dollars(step.cost),
            dollars(total),
            dollars(LIMIT_USD - total),
            does,
        )


def _refusal(admin: AdminClient, run: str) -> dict[str, Any]:
    refused = [row["decisions"][-1] for row in _steps(admin, run) if row["kind"] == "refusal"]
    return dict(refused[-1]) if refused else {}


def _steps(admin: AdminClient, run: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = admin.get(f"/runs/{run}/steps", limit=500)["data"]
    return rows


def _show_costs(screen: Screen, steps: Sequence[Seen], spent: Decimal, provider: ProviderServer) -> None:
    totals = provider.journal.totals
    billed = price(totals.prompt_tokens, totals.completion_tokens)
    would = project(steps)
    rise = (steps[-1].cost - steps[0].cost) / (len(steps) - 1)
    screen.fact(
        "spent",
        f"{dollars(spent)} in {len(steps)} look-ups. The provider's own books say {dollars(billed)}.",
    )
    screen.fact("would be", f"{dollars(would.total, 2)} in {LOOK_UPS:,} look-ups", style="bold")
    screen.fact(
        "",
        f"Each look-up added {would.tokens_per_step} input tokens to every later request, so look-up n costs "
        f"{dollars(steps[0].cost)} and n-1 times {dollars(rise)}. That is added up from 1 to {LOOK_UPS:,}.",
    )
    if would.fits < LOOK_UPS:
        screen.fact(
            "",
            f"A window of {WINDOW_TOKENS:,} tokens is full at look-up {would.fits}; an agent that trims its "
            f"history from then on pays {dollars(would.trimmed, 2)}.",
        )


# -- part two: the kill ------------------------------------------------------------------------------


def part_two(screen: Screen, url: str, admin: AdminClient, key: str, provider: ProviderServer) -> bool:
    """The operator; whether a kill ended a stream at once and held."""
    screen.title("2. A report that nobody needs any more, and an operator")
    screen.fact("agent", "streams a long answer, and tries once more when that fails")
    killed_at = 0.0
    errors: list[tuple[float, str]] = []
    run = ""
    answer: dict[str, Any] = {}
    with running_agent("writer", f"{url}/v1", key) as agent:
        until = time.monotonic() + RUN_S
        began = 0.0
        for at, line in agent.log(until):
            if line.startswith("ERROR"):
                errors.append((at, line.removeprefix("ERROR ")))
                continue
            if killed_at:
                continue
            screen.fact("agent", line)
            began = began or at
            if at - began >= STREAM_S:
                run = _run_of(admin, "report-writer")
                reason = "wrong customer"
                screen.fact("operator", f"gateway kill run {run} --reason '{reason}'", style="bold")
                killed_at = time.monotonic()
                answer = admin.post("/kills", {"scope": "run", "id": run, "reason": reason})
    if not killed_at or not errors:
        raise DemoError("the second agent ended before it could be stopped")
    took_ms = (errors[0][0] - killed_at) * 1000
    for _, error in errors:
        screen.fact("agent", error)
    told = admin.get(f"/runs/{run}")
    charged = Decimal(told["cost_usd"])
    attempt = provider.journal.last
    served = price(attempt.prompt_tokens, attempt.completion_tokens)
    stopped = (
        told["status"] == "killed"
        and answer["streams"] == 1
        and len(errors) == 2
        and all(run in error for _, error in errors)
        and took_ms <= PROMISED_STOP_MS
        and attempt.client_left
        and charged >= served
    )
    screen.say()
    screen.fact("stopped", f"{_answer(stopped)}, in run {run}, status {told['status']}")
    screen.fact("took", f"{took_ms:.0f} ms from the operator's request to the error in its log", style="bold")
    screen.fact(
        "",
        "The stream ended with an error event, the call to the provider was aborted after "
        f"{attempt.completion_tokens} tokens, and the agent's second try was refused.",
        f"The provider's books say {dollars(served)}, and {dollars(charged)} is charged: without usage on "
        "the wire the gateway counts what arrived, and a little for what was under way.",
    )
    return stopped


# -- the simulated model -----------------------------------------------------------------------------


def _scripts(provider: ProviderServer, think_s: float) -> None:
    """Make the simulated provider's gpt-4o play both agents' models."""
    from gateway.testing import models

    printer, long = models.find("printer"), models.find("long")
    assert callable(printer)
    assert callable(long)

    def answer(ask: Ask) -> Reply:
        if ask.stream:
            return replace(long(ask), chunk_tokens=4, chunk_delay_s=0.02)
        return replace(printer(ask), head_delay_s=think_s)

    provider.script("demo", answer, models=["gpt-4o"])


# -- running it --------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(prog="gateway demo", description="Watch a runaway agent being stopped.")
    parser.add_argument("--fast", action="store_true", help="do not wait for anyone to watch")
    parser.add_argument("--no-color", action="store_true", help="no colours on a terminal")
    options = parser.parse_args(argv)

    from rich.console import Console

    console = Console(no_color=options.no_color or None, highlight=False)
    screen = Screen(console)
    if importlib.util.find_spec("openai") is None:
        screen.say("The demo's agents need the openai SDK: pip install 'guardrail-gateway[demo]'")
        return 1
    try:
        return 0 if _run(screen, 0.0 if options.fast else STEP_S) else 1
    except (DemoError, ClientError) as error:
        screen.say(f"The demo failed: {error}", "bold red")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(screen: Screen, think_s: float) -> bool:
    from gateway.testing import running_provider

    support_key, writer_key = (f"gk-{secrets.token_hex(12)}" for _ in range(2))
    with running_provider() as provider, tempfile.TemporaryDirectory(prefix="gateway-demo-") as directory:
        _scripts(provider, think_s)
        policy = POLICY.format(
            provider=provider.base_url,
            input=INPUT_USD,
            output=OUTPUT_USD,
            support_key=support_key,
            writer_key=writer_key,
            limit=LIMIT_USD,
        )
        screen.say("Starting a gateway and a simulated provider on free ports of this machine ...")
        with running_gateway(policy, Path(directory)) as (url, admin):
            screen.say(
                f"The gateway listens on {url}. A million tokens cost ${INPUT_USD} in and ${OUTPUT_USD} out."
            )
            first = part_one(screen, url, admin, support_key, provider)
            second = part_two(screen, url, admin, writer_key, provider)
    screen.say()
    if first and second:
        screen.say("Both agents were stopped, and neither knows of the gateway.", "bold green")
    else:
        screen.say("An agent was not stopped as promised.", "bold red")
    return first and second


# -- the agents: nothing from here on knows of a gateway ---------------------------------------------

log = logging.getLogger("agent")

SEARCH: Any = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the help centre.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}
NO_RESULT = (
    "No result for this query, try again. The help centre is searched for articles whose title, summary, "
    "body or keywords match every word of the query. Hints: check the spelling; use fewer or more general "
    "words; leave out quotation marks, version numbers and product codes; search for what the customer "
    "sees and not for its cause. The categories are accounts and sign-in, billing and invoices, orders "
    "and delivery, returns and refunds, devices and accessories, networks and connections, privacy and "
    "data, and service status. Articles are indexed within the hour of being published, so that a recent "
    "article may not be found yet. If you are sure that an article exists, repeat the search after a "
    "moment. If nothing is found, the article may be in review or be visible to other teams only; in that "
    "case please repeat the search with its exact title and number."
)


def support_bot() -> int:
    """Answers a ticket with the help of a search that never finds anything."""
    from openai import APIError, OpenAI

    client = OpenAI()
    messages: list[Any] = [
        {"role": "system", "content": "You are a support agent. Look things up before you answer."},
        {"role": "user", "content": "My printer is offline since this morning. What can I do?"},
    ]
    for _ in range(LOOK_UPS):
        try:
            completion = client.chat.completions.create(model="gpt-4o", messages=messages, tools=[SEARCH])
        except APIError as error:
            log.error("ERROR %s: %s", type(error).__name__, error)
            return 1
        message = completion.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            log.info("%s", message.content)
            return 0
        for call in message.tool_calls:
            assert call.type == "function"
            query = json.loads(call.function.arguments)["query"]
            log.info("search %r: no result, try again", query)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": NO_RESULT})
    return 0


def report_writer() -> int:
    """Writes a long report, and tries once more when that fails."""
    from openai import APIError, OpenAI

    client = OpenAI()
    for _ in range(2):
        written = 0
        try:
            for chunk in client.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": "Write the full quarterly report."}],
                stream=True,
            ):
                if chunk.choices and chunk.choices[0].delta.content:
                    before, written = written, written + len(chunk.choices[0].delta.content)
                    if before // 400 != written // 400:
                        log.info("writing, %s characters so far", written)
        except APIError as error:
            log.error("ERROR %s: %s", type(error).__name__, error)
        else:
            return 0
    return 1


AGENTS: dict[str, Callable[[], int]] = {"support": support_bot, "writer": report_writer}


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.ERROR)
    log.setLevel(logging.INFO)
    sys.exit(AGENTS[sys.argv[1]]())
