"""What commands have in common: options, the client of the admin API, and how answers are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands.client import AdminClient
from gateway.settings import SettingsError, mounted

DEFAULT_URL = "http://127.0.0.1:8080"

AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="At most so many.")]
Since = Annotated[str | None, typer.Option(help="RFC 3339, or how long ago: 24h, 7d.")]


def client() -> AdminClient:
    """The gateway that the environment names, with the token it names or that the data directory keeps."""
    token = mounted("GATEWAY_ADMIN_TOKEN", os.environ.get("GATEWAY_ADMIN_TOKEN", ""))
    if not token:
        kept = Path(os.environ.get("GATEWAY_DATA_DIR") or ".gateway") / "admin.token"
        try:
            token = kept.read_text().strip()
        except OSError:
            raise SettingsError(
                f"There is no admin token: set GATEWAY_ADMIN_TOKEN, or run this where {kept} is."
            ) from None
    return AdminClient(os.environ.get("GATEWAY_URL") or DEFAULT_URL, token)


def show(answer: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print an answer of the API as it is, or as text for people."""
    if as_json:
        print_json(answer)
    else:
        print(text())


def print_json(value: Any) -> None:
    """JSON for scripts and for people with scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
