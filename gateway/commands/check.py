"""`gateway check`: a policy's mistakes, and what is valid in it and does nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.commands import views
from gateway.commands.console import AsJson, print_json
from gateway.policy.loading import load
from gateway.policy.messages import PolicyError

app = typer.Typer()


@app.command()
def check(
    policy: Annotated[Path, typer.Argument(help="Policy file or folder.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings make it fail too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a policy; every mistake found is told, exit status 1. Rules that can never fire, and what else
    was hardly meant, are warnings."""
    try:
        loaded = load(policy, dict(os.environ))
    except PolicyError as error:
        if as_json:
            mistakes = [
                {"file": m.file, "line": m.line, "path": m.path, "problem": m.problem} for m in error.mistakes
            ]
            print_json({"valid": False, "mistakes": mistakes})
        else:
            print(views.plain(str(error), keep_lines=True))
        raise typer.Exit(1) from None
    warnings = [str(warning) for warning in loaded.warnings]
    if as_json:
        print_json({"valid": True, "version": loaded.version, "warnings": warnings, "mistakes": []})
    else:
        for warning in warnings:
            print(f"warning: {views.plain(warning)}")
        print(f"{policy}: valid, version {loaded.version}{_told(len(warnings))}")
    raise typer.Exit(int(strict and bool(warnings)))


def _told(warnings: int) -> str:
    return f", {views.several(warnings, 'warning')}" if warnings else ""
