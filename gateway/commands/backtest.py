"""`gateway backtest` and `gateway replay`: what another policy would have done with what has been."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import AdminClient, ClientError, quoted
from gateway.commands.console import AsJson, client, show
from gateway.policy import document
from gateway.policy.document import Document, KeyPath
from gateway.policy.expansion import HIDDEN
from gateway.policy.language import is_secret_at
from gateway.policy.loading import SourceFile, read_files
from gateway.policy.messages import Mistake, PolicyError, path_text
from gateway.policy.sent import text_of

app = typer.Typer()

WAIT_S = 360.0
"""A backtest ends by itself before this."""
MAX_STEPS = 100_000
EXAMPLES = 3
_SENT_AS = re.compile(r"^policy(?=:)", re.MULTILINE)

PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Policy file or folder.")]


@app.command()
def backtest(
    policy: Annotated[Path, typer.Option("--policy", help="The policy to try: a file or a folder.")],
    since: Annotated[str, typer.Option(help="RFC 3339, or how long ago: 24h, 7d.")] = "24h",
    limit: Annotated[int, typer.Option(min=1, max=MAX_STEPS, help="At most so many steps.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """What another policy would have refused, redacted, rerouted and saved, by the runs on record. Changes
    nothing."""
    sent = {"policy": text_to_send(policy), "since": since, "limit": limit}
    result = _asked(policy, "/policy/backtest", sent)
    show(result, as_json, lambda: told(result))


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="Id or name of the run.")],
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the decisions about a run's steps again, and where they would differ under another policy; without
    one under the policy in force."""
    path = f"/runs/{quoted(run)}/replay"
    result = _asked(policy, path, {"policy": text_to_send(policy) if policy is not None else None})
    show(result, as_json, lambda: replayed(result))


def _asked(policy: Path | None, path: str, body: Any) -> Any:
    patient: AdminClient = client()
    patient.timeout_s = WAIT_S
    try:
        return patient.post(path, body)
    except ClientError as error:
        if policy is None or error.code != "invalid_policy":
            raise
        raise ClientError(_SENT_AS.sub(policy.name, str(error)), error.status, error.code) from None


# -- the policy as it is sent ---------------------------------------------------------------------------


def text_to_send(path: Path) -> str:
    """A policy's text without its literal secrets, on the same lines where that can be. References are not
    expanded: they are nobody's business but this machine's. Raises `PolicyError` for what cannot be read."""
    files = read_files(path)
    nodes, mistakes = [], []
    for file in files:
        node, problems = document.read(_text(file), file.name)
        mistakes += [Mistake(p.place.file, p.place.line, path_text(p.path), p.problem) for p in problems]
        if node is not None and isinstance(node.value, dict):
            nodes.append(node)
    if mistakes or not nodes:
        raise PolicyError(mistakes or [Mistake(path.name, 1, "", "got something else, expected a policy")])
    root, problems = document.merge(nodes)
    if problems:
        raise PolicyError(
            [Mistake(p.place.file, p.place.line, path_text(p.path), p.problem) for p in problems]
        )
    written = document.flatten(root)
    secrets = _secrets(written)
    if len(files) == 1:
        text = _text(files[0])
        for secret in sorted(secrets, key=len, reverse=True):
            text = re.sub(rf"([\"']?){re.escape(secret)}\1", f'"{HIDDEN}"', text)
        node, problems = document.read(text, path.name)
        if node is not None and not problems and not _secrets(document.flatten(node)):
            return text
    return text_of(_hidden(written.data, ()))


def _text(file: SourceFile) -> str:
    try:
        return file.content.decode("utf-8-sig")
    except UnicodeDecodeError:
        problem = "got a byte that is no UTF-8, expected UTF-8 text"
        raise PolicyError([Mistake(file.name, 0, "", problem)]) from None


def _is_literal(value: Any, path: KeyPath) -> bool:
    return (
        isinstance(value, str)
        and is_secret_at(path)
        and value not in ("none", HIDDEN)
        and not value.startswith("file:")
        and not (value.startswith("${") and ":-" not in value)
    )


def _secrets(written: Document) -> set[str]:
    """Literal secrets in a document, defaults of references too."""
    return {str(written.at(path)) for path in written.places if _is_literal(written.at(path), path)}


def _hidden(value: Any, path: KeyPath) -> Any:
    if isinstance(value, dict):
        return {key: _hidden(part, (*path, key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_hidden(part, (*path, index)) for index, part in enumerate(value)]
    return HIDDEN if _is_literal(value, path) else value


# -- what is shown --------------------------------------------------------------------------------------

_WORDS = (
    ("refused", "refused"),
    ("wrapped_up", "landed"),
    ("rerouted", "rerouted"),
    ("redacted", "redacted"),
    ("flagged", "flagged"),
    ("allowed", "allowed that were not"),
    ("unknown", "unknown"),
)


def told(result: Any) -> str:
    """A backtest, for people."""
    counts = ", ".join(f"{views.count(result[name])} {word}" for name, word in _WORDS if result[name])
    lines = [
        f"{views.several(result['steps'], 'step')} of {views.several(result['runs'], 'run')} since "
        f"{views.moment(result['since'])} UTC under policy {views.plain(result['policy'])}: "
        f"{counts or 'nothing would have been different'}.",
        f"Saved: {views.dollars(result['saved_usd'])}",
    ]
    if result["rules"]:
        rows = [
            [
                rule["rule"],
                views.count(rule["steps"]),
                views.count(rule["runs"]),
                ", ".join(f"{word} {number:,}" for word, number in rule["now"].items()),
                views.dollars(rule["saved_usd"]),
                "  ".join(_example(each) for each in rule["examples"][:EXAMPLES]),
            ]
            for rule in result["rules"]
        ]
        lines += [
            "",
            views.table(("rule", ">steps", ">runs", "now", ">saved", "for example"), rows, empty=""),
        ]
    if result["not_replayed"]:
        lines += ["", f"{views.several(result['not_replayed'], 'step')} stopped by operators: not replayed."]
    if result["unknown"]:
        lines += [
            "",
            "Unknown: what these rules read was not kept, or a person or a model is asked.",
        ]
    if result["truncated"]:
        lines += ["", "There was more than could be replayed; ask for a shorter time, or raise --limit."]
    return "\n".join(lines)


def _example(change: Any) -> str:
    code = f" ({change['code']})" if change.get("code") else ""
    return f"{change['run']} step {change['step']}: {change['was']} -> {change['now']}{code}"


def replayed(result: Any) -> str:
    """A run step by step, for people."""
    rows = [
        [
            step["step"],
            views.moment(step["at"]),
            step["model"],
            _decided(step["was"], step.get("was_code")),
            "not replayed" if not step["replayed"] else _decided(step["now"], step.get("code")),
            step["rule"] or None,
            views.dollars(step["cost_usd"]),
            views.dollars(step["now_cost_usd"]),
            "*" if step["changed"] else "",
        ]
        for step in result["decisions"]
    ]
    head = (">step", "at", "model", "was", "now", "rule", ">cost", ">now costs", "differs")
    changed = len(result["changed"])
    verdict = f"{views.several(changed, 'step')} would differ" if changed else "No step would differ"
    return "\n".join(
        [
            f"Run {views.plain(result['run'])} under policy {views.plain(result['policy'])}",
            "",
            views.table(head, rows, empty="The run has no steps."),
            "",
            f"{verdict}; saved: {views.dollars(result['saved_usd'])}",
        ]
    )


def _decided(verdict: str, code: str | None) -> str:
    return f"{verdict} ({code})" if code else verdict
