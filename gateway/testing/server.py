"""The simulated provider: routes, scripts, control, and its life as a server.

`ProviderServer` runs in the caller's event loop, `running_provider` in a thread of its own, and
`python -m gateway.testing` in a process of its own.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, unquote

import orjson
import uvloop

from gateway.testing import models
from gateway.testing.delivery import Delivery, Kind, until_error
from gateway.testing.generate import Answer, Generator
from gateway.testing.journal import Attempt, Journal, now_ms
from gateway.testing.script import (
    Ask,
    Reply,
    Scenario,
    Script,
    ScriptError,
    error_json,
    upload_from_json,
)
from gateway.testing.surfaces import SURFACES, Event, ProviderSurface, RequestError, carries_usage
from gateway.testing.tokens import Counting, tokens_for
from gateway.testing.wire import Connection, Request, head_bytes

CONTROL = "/__sim__/"
SCENARIO_HEADER = b"x-sim-scenario"
ATTEMPT_HEADER = b"x-guardrail-attempt-id"

_OPENAI = "/v1/"
_AZURE = "/openai/deployments/"
_AZURE_STREAM_OPTIONS_SINCE = "2024-09-01"
_MAX_INSTANT_TOKENS = 4_000
"""Longer streams are written step by step, so that their buffered bytes stay bounded."""

_MAX_REMEMBERED_BYTES = 65_536

_POLL_S = 0.001
_BACKLOG = 4_096

T = TypeVar("T")


class ProviderServer:
    """A real HTTP server that plays scripted models and keeps a journal.

    A request's script is, first that fits: the scenario named in its `x-sim-scenario` header; the one its
    model is mapped to; for a model `sim/<name>`, the one of that name; for any other model, `default`.
    Scripts set here hide the models of the catalogue that have the same name.
    """

    def __init__(
        self,
        *,
        default: str | None = "echo",
        counting: Counting = "exact",
        journal: Journal | None = None,
        api_keys: Collection[str] | None = None,
        seed: int | None = None,
    ) -> None:
        """`default=None` answers unknown models 404; `api_keys=None` takes any key, or none."""
        self.journal = Journal() if journal is None else journal
        self.default = default
        self.api_keys = api_keys
        self._generator = Generator(tokens_for(counting), random.Random(seed))
        # Benchmarks send the same few bodies over and over: reading them must not be what is measured.
        self._read_again = lru_cache(maxsize=128)(_read)
        self._scripts: dict[str, Script] = {}
        self._models: dict[str, str] = {}
        self._asked: dict[str, int] = {}
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._id_prefix = self._generator.new_id("", 8)
        self._attempts = 0
        self.host = ""
        self.port = 0

    # Life.

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one. Raises: `OSError` if the address is taken."""
        # The tokenizer is loaded here, so that it does not delay the first answer.
        self._generator.tokens.count("warm")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handle, self._connections), host, port, backlog=_BACKLOG
        )
        self.host, self.port = self._server.sockets[0].getsockname()[:2]
        return self

    async def stop(self) -> None:
        """Stop listening, drop open connections, end what is under way."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        return await self.start() if self._server is None else self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def origin(self) -> str:
        """`http://host:port`, which is also the base URL of Azure clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`: the origin and `/v1`."""
        return f"{self.origin}/v1"

    @property
    def open_connections(self) -> int:
        """Connections that clients hold open now."""
        return len(self._connections)

    async def wait_idle(self, *, received: int = 0, timeout_s: float = 10.0) -> None:
        """Wait until every attempt is finished and at least `received` have come since the start.

        Works from any event loop. Raises: `TimeoutError`.
        """
        deadline = time.monotonic() + timeout_s
        # Polled, not signalled: the waiting loop need not be the one that serves.
        while not self._idle(received, deadline):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    def wait_idle_blocking(self, *, received: int = 0, timeout_s: float = 10.0) -> None:
        """`wait_idle` for code without an event loop; not for the loop that runs the server."""
        deadline = time.monotonic() + timeout_s
        while not self._idle(received, deadline):
            time.sleep(_POLL_S)

    def _idle(self, received: int, deadline: float) -> bool:
        if self.journal.active == 0 and self.journal.received >= received:
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the simulated provider is busy with {self.journal.active} attempts and has received "
                f"{self.journal.received} of {received}"
            )
        return False

    # Scripts.

    def script(
        self, name: str, script: Script | Sequence[Reply] | Reply, *, models: Sequence[str] = ()
    ) -> None:
        """Set what `sim/<name>` and the given models answer. A list is a dialogue by assistant turns.

        Raises: `ScriptError` for an empty one.
        """
        if isinstance(script, Reply):
            script = [script]
        self._scripts[name] = script if isinstance(script, Scenario) or callable(script) else Scenario(script)
        self._asked.pop(name, None)
        for model in models:
            self._models[model] = name

    def map_model(self, model: str, name: str) -> None:
        """Let a model answer with that scenario, scripted or of the catalogue. Raises: `ScriptError`."""
        if self._named(name) is None:
            raise ScriptError(f"there is no scenario {name!r}")
        self._models[model] = name

    def forget_scripts(self) -> None:
        """Back to the catalogue alone."""
        self._scripts.clear()
        self._models.clear()
        self._asked.clear()

    def _named(self, name: str) -> Script | None:
        return self._scripts.get(name) or models.find(name)

    def _find(self, request: Request, model: str) -> tuple[str, Script] | None:
        if wanted := request.headers.get(SCENARIO_HEADER):
            name: str | None = wanted.decode("latin-1")
        elif model in self._models:
            name = self._models[model]
        elif model.startswith(models.PREFIX):
            name = model.removeprefix(models.PREFIX)
        else:
            name = self.default
        if name is None or (script := self._named(name)) is None:
            return None
        return name, script

    def _choose(self, name: str, script: Script, ask: Ask) -> Reply:
        asked = self._asked.get(name, 0)
        self._asked[name] = asked + 1
        return script.choose(ask, asked) if isinstance(script, Scenario) else script(ask)

    # Requests.

    def _handle(self, connection: Connection, request: Request) -> None:
        path, _, query = request.target.partition("?")
        if path.startswith(CONTROL):
            self._control(connection, request, path.removeprefix(CONTROL), query)
            return
        self._attempts += 1
        attempt_id = request.headers.get(ATTEMPT_HEADER)
        attempt = Attempt(
            number=self._attempts,
            id=f"req_sim_{self._id_prefix}{self._attempts}",
            received_at=now_ms(),
            method=request.method,
            path=request.target,
            raw_headers=request.raw_headers,
            body=request.body,
            guardrail_attempt_id=None if attempt_id is None else attempt_id.decode("latin-1"),
        )
        self.journal.begin(attempt)
        try:
            delivery = self._answer(connection, request, attempt, path, query)
        except Exception as error:  # noqa: BLE001  A mistake in a script is told to its author, not hidden in a dead socket.
            message = f"The script failed: {type(error).__name__}: {error}"
            delivery = self._error(connection, request, attempt, 500, message, code="script_failed")
        if delivery.reply.instant and (
            delivery.answer is None or delivery.answer.generated <= _MAX_INSTANT_TOKENS
        ):
            delivery.instant()
            self.journal.finish(attempt)
            return
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await delivery.run()
        except Exception:
            delivery.connection.abort()
            raise
        finally:
            delivery.connection.on_gone = None
            self.journal.finish(delivery.attempt)

    def _answer(
        self, connection: Connection, request: Request, attempt: Attempt, path: str, query: str
    ) -> Delivery:
        """What this request gets, and the figures known before its first byte."""

        def refuse(status: int, message: str, code: str | None = None, param: str | None = None) -> Delivery:
            return self._error(connection, request, attempt, status, message, code=code, param=param)

        if not self._authorised(request):
            return refuse(401, "Incorrect API key provided (simulated provider).", "invalid_api_key")
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return self._model_list(connection, request, attempt, path)
        endpoint, deployment, azure = _route(path)
        surface = SURFACES.get(endpoint)
        if surface is None:
            return refuse(404, f"Unknown request URL: {request.method} {path}.", "unknown_url")
        if request.method != "POST":
            return refuse(
                405, f"Not allowed to {request.method} on {path} (only POST).", "method_not_allowed"
            )
        api_version = parse_qs(query).get("api-version", [""])[0] if azure else ""
        if azure and not api_version:
            return refuse(404, "Resource not found: the query needs an api-version.", "404")
        attempt.surface = surface.name
        if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return refuse(415, "Encoded bodies are not supported.", "unsupported_encoding")
        read = self._read_again if len(request.body) <= _MAX_REMEMBERED_BYTES else _read
        try:
            ask = read(endpoint, deployment, request.body)
        except RequestError as error:
            return refuse(400, error.message, param=error.param)
        attempt.model, attempt.stream = ask.model, ask.stream
        if azure and api_version < _AZURE_STREAM_OPTIONS_SINCE and ask.body.get("stream_options") is not None:
            return refuse(
                400, "Unrecognized request argument supplied: stream_options", param="stream_options"
            )
        found = self._find(request, ask.model)
        if found is None:
            named = request.headers.get(SCENARIO_HEADER, ask.model.encode()).decode("utf-8", "replace")
            return refuse(
                404, f"The model or scenario '{named}' does not exist here.", "model_not_found", "model"
            )
        attempt.scenario, script = found
        return self._play(
            connection, request, attempt, surface, ask, self._choose(attempt.scenario, script, ask)
        )

    def _play(
        self,
        connection: Connection,
        request: Request,
        attempt: Attempt,
        surface: ProviderSurface,
        ask: Ask,
        reply: Reply,
    ) -> Delivery:
        """Make the reply's bytes, and open the attempt's bill."""

        def deliver(kind: Kind, events: Iterator[Event], answer: Answer | None = None) -> Delivery:
            return Delivery(connection, request, attempt, reply, kind, events, answer)

        verbatim = reply.body if reply.wire is None else reply.wire
        if verbatim is not None:
            # Nobody can count what an arbitrary body stands for: such a script states its bill.
            attempt.prompt_tokens = reply.prompt_tokens or 0
            attempt.completion_tokens = reply.completion_tokens or 0
            attempt.cached_tokens, attempt.reasoning_tokens = reply.cached_tokens, reply.reasoning_tokens
            return deliver("verbatim", iter([Event(verbatim)]))
        if reply.is_error or not 200 <= reply.status < 300:
            return deliver("error", iter([Event(_error_body(surface, reply))]))
        prompt = reply.prompt_tokens
        if prompt is None:
            if ask.prompt_tokens is None:
                ask.prompt_tokens = surface.prompt_tokens(ask, self._generator.tokens)
            prompt = ask.prompt_tokens
        answer_id = f"chatcmpl-sim-{self._id_prefix}{attempt.number}"
        answer = self._generator.answer(ask, reply, prompt, answer_id, attempt.received_at // 1000)
        attempt.prompt_tokens = answer.prompt_tokens
        attempt.cached_tokens = answer.cached_tokens
        attempt.reasoning_tokens = answer.reasoning_tokens
        if not ask.stream:
            whole = Event(surface.plain(answer), answer.generated, "content", carries_usage(reply))
            return deliver("plain", iter([whole]), answer)
        events = surface.events(answer)
        if reply.error_at_chunk is not None:
            events = until_error(events, reply, surface.error_event(reply))
        return deliver("stream", events, answer)

    def _error(
        self,
        connection: Connection,
        request: Request,
        attempt: Attempt,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> Delivery:
        body = orjson.dumps(error_json(message, "invalid_request_error", code, param))
        return Delivery(connection, request, attempt, Reply(status=status), "error", [Event(body)])

    def _authorised(self, request: Request) -> bool:
        if self.api_keys is None:
            return True
        bearer = request.headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        given = bearer or request.headers.get(b"api-key") or request.headers.get(b"x-api-key") or b""
        return any(hmac.compare_digest(given, key.encode()) for key in self.api_keys)

    def _model_list(self, connection: Connection, request: Request, attempt: Attempt, path: str) -> Delivery:
        if request.method != "GET":
            message = f"Not allowed to {request.method} on {path} (only GET)."
            return self._error(connection, request, attempt, 405, message, code="method_not_allowed")
        wanted = unquote(path.removeprefix("/v1/models").lstrip("/"))
        if not wanted:
            listed = [_model(models.PREFIX + name, text) for name, text in models.CATALOGUE.items()]
            listed += [_model(models.PREFIX + name, "scripted") for name in self._scripts]
            listed += [_model(model, f"plays {name}") for model, name in self._models.items()]
            body: Any = {"object": "list", "data": listed}
        elif self._lists(wanted):
            body = _model(wanted, models.CATALOGUE.get(wanted.removeprefix(models.PREFIX), "simulated"))
        else:
            message = f"The model '{wanted}' does not exist"
            return self._error(
                connection, request, attempt, 404, message, code="model_not_found", param="model"
            )
        reply = Reply()
        return Delivery(connection, request, attempt, reply, "verbatim", [Event(orjson.dumps(body))])

    def _lists(self, model: str) -> bool:
        if model in self._models:
            return True
        return model.startswith(models.PREFIX) and self._named(model.removeprefix(models.PREFIX)) is not None

    # Control, for other processes.

    def _control(self, connection: Connection, request: Request, path: str, query: str) -> None:
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
                _problem(f"no such control: {request.method} {CONTROL}{path}", sorted(commands)),
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
            "scripts": sorted(self._scripts),
            "models": self._models,
            "catalogue": models.CATALOGUE,
            "default": self.default,
        }

    def _upload_script(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        upload = upload_from_json(request.body)
        self.script(upload.name, upload.scenario, models=upload.models)
        return 200, {"name": upload.name, "replies": len(upload.replies), "models": list(upload.models)}

    def _drop_scripts(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        self.forget_scripts()
        return 200, {"scripts": []}

    def _show_journal(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters, "since", "bodies")
        since = _integer(parameters, "since", 0)
        return 200, self.journal.as_json(since, bodies=_integer(parameters, "bodies", 1) != 0)

    def _clear_journal(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        self.journal.clear()
        return 200, {"attempts": []}

    def _show_idle(self, request: Request, parameters: dict[str, str]) -> tuple[int, Any]:
        _only(parameters)
        return 200, {
            "idle": self.journal.active == 0,
            "active": self.journal.active,
            "received": self.journal.received,
            "open_connections": self.open_connections,
        }


def _route(path: str) -> tuple[str, str | None, bool]:
    """The endpoint as `SURFACES` names it, the Azure deployment, and whether the path is Azure's."""
    if path.startswith(_OPENAI):
        return path.removeprefix(_OPENAI), None, False
    if path.startswith(_AZURE):
        deployment, _, endpoint = path.removeprefix(_AZURE).partition("/")
        return endpoint, unquote(deployment), True
    return "", None, False


def _read(endpoint: str, deployment: str | None, data: bytes) -> Ask:
    """The request in a body; `deployment` names the model on Azure. Raises: `RequestError`."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(body, dict):
        raise RequestError("The body must be a JSON object.")
    if deployment is not None:
        body["model"] = deployment
    ask = SURFACES[endpoint].read(body)
    ask.azure = deployment is not None
    return ask


def _model(name: str, description: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": models.OWNER,
        "description": f"Simulated: {description}",
    }


def _error_body(surface: ProviderSurface, reply: Reply) -> bytes:
    if reply.error is not None:
        return orjson.dumps(reply.error)
    if reply.status < 400:
        return b""
    kind = "server_error" if reply.status >= 500 else "invalid_request_error"
    return surface.error(reply.status, f"Simulated failure with status {reply.status}.", kind, None, None)


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


@contextmanager
def running_provider(*, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[ProviderServer]:
    """A provider in a thread with its own event loop, for code without one.

    `options` are those of `ProviderServer`. Scripts and journal may be used from the calling thread.
    """
    server = ProviderServer(**options)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulated-provider", daemon=True)
    thread.start()

    def call(work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    try:
        call(lambda: server.start(host, port))
        yield server
    finally:
        call(server.stop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
