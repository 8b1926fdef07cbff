"""Control of a simulated provider by other processes: scripts in, the journal out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

from gateway.testing import models
from gateway.testing.library import Library
from gateway.testing.script import upload_from_json
from gateway.testing.wire import Connection, Request, head_bytes

if TYPE_CHECKING:
    from gateway.testing.server import ProviderServer

PATH = "/__sim__/"


class Control:
    """The commands below `PATH`. They are no attempts, and nobody has to be authorised for them."""

    def __init__(self, server: ProviderServer, library: Library) -> None:
        self._server = server
        self._library = library

    def answer(self, connection: Connection, request: Request, path: str, query: str) -> None:
        """Write what a command answers; `path` is below `PATH`."""
        commands: dict[str, Callable[[Request, dict[str, str]], tuple[int, Any]]] = {
            "GET scripts": self._list_scripts,
            "POST scripts": self._upload_script,
            "DELETE scripts": self._drop_scripts,
            "GET journal": self._show_journal,
            "DELETE journal": self._clear_journal,
            "GET idle": self._show_idle,
        }
        command = commands.get(f"{request.method} {path}")
        if command is None:
            status, body = (
                404,
                _problem(f"no such control: {request.method} {PATH}{path}", sorted(commands)),
            )
        else:
            parameters = {name: values[-1] for name, values in parse_qs(query).items()}
            try:
                status, body = command(request, parameters)
            except ValueError as error:
                status, body = 400, _problem(str(error))
        data = orjson.dumps(body)
        headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
        connection.write(head_bytes(status, headers) + data)
        connection.finish(request.keep_alive)

    def _list_scripts(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        return 200, {
            "scripts": sorted(self._library.scripts),
            "models": self._library.models,
            "routes": self._library.routes,
            "catalogue": models.CATALOGUE,
            "default": self._library.default,
        }

    def _upload_script(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        upload = upload_from_json(request.body)
        self._server.script(upload.name, upload.scenario, models=upload.models, routes=upload.routes)
        return 200, {"name": upload.name, "replies": len(upload.replies), "models": list(upload.models)}

    def _drop_scripts(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        self._server.forget_scripts()
        return 200, {"scripts": []}

    def _show_journal(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters, "since", "bodies")
        since = _integer(parameters, "since", 0)
        return 200, self._server.journal.as_json(since, bodies=_integer(parameters, "bodies", 1) != 0)

    def _clear_journal(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        self._server.journal.clear()
        return 200, {"attempts": []}

    def _show_idle(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        return 200, {
            "idle": self._server.journal.active == 0,
            "active": self._server.journal.active,
            "received": self._server.journal.received,
            "open_connections": self._server.open_connections,
        }


def _problem(message: str, expected: Sequence[str] = ()) -> dict[str, Any]:
    problem: dict[str, Any] = {"message": message, "type": "sim_control_error"}
    if expected:
        problem["expected"] = list(expected)
    return {"error": problem}


def _only(parameters: dict[str, str], *known: str) -> None:
    unknown = set(parameters) - set(known)
    if unknown:
        expected = ", ".join(known) or "none"
        raise ValueError(f"unknown query parameter {min(unknown)!r}; expected {expected}")


def _integer(parameters: dict[str, str], name: str, default: int) -> int:
    value = parameters.get(name)
    if value is None:
        return default
    if not value.isdecimal():
        raise ValueError(f"{name}: got {value!r}, expected a whole number")
    return int(value)
