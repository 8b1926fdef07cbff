"""From one request to its delivery: what it asks for, who may ask, which script answers, what it costs.

Everything up to the first byte; `delivery` puts it on the wire, and `background` makes what is made later.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote

import orjson

from gateway.domain import Json, Surface
from gateway.testing.background import Background
from gateway.testing.delivery import Delivery, Following, Kind, until_error, without_pace
from gateway.testing.generate import Answer, Generator
from gateway.testing.journal import Attempt
from gateway.testing.kept import Kept
from gateway.testing.library import SCENARIO_HEADER, Library
from gateway.testing.model_list import anthropic_model, anthropic_page, openai_model
from gateway.testing.resources import Binary, Call, Joined, find_route, show
from gateway.testing.script import Ask, Reply
from gateway.testing.surfaces import (
    MESSAGES,
    RESPONSES,
    SURFACES,
    Event,
    Problem,
    ProviderSurface,
    RequestError,
    carries_usage,
)
from gateway.testing.wire import Connection, Request

_OPENAI = "/v1/"
_AZURE = "/openai/deployments/"
_AZURE_STREAM_OPTIONS_SINCE = "2024-09-01"
_MODELS = "/v1/models"
_ANTHROPIC_HEADER = b"anthropic-version"

_MAX_REMEMBERED_BYTES = 65_536
_BINARY_PIECE_BYTES = 65_536


@dataclass(slots=True)
class Exchange:
    """One request, its connection, and its entry in the journal."""

    connection: Connection
    request: Request
    attempt: Attempt
    fault: RequestError | None = None
    """What a strict provider refuses the request for, as far as it is known from what is kept."""

    def deliver(
        self,
        reply: Reply,
        kind: Kind,
        events: Iterable[Event],
        answer: Answer | None = None,
        content_type: str | None = None,
    ) -> Delivery:
        return Delivery(
            self.connection, self.request, self.attempt, reply, kind, events, answer, content_type
        )


class Answering:
    """Makes deliveries. `begin_background` sees to it that such a response is generated."""

    def __init__(
        self,
        library: Library,
        generator: Generator,
        server_id: str,
        begin_background: Callable[[Background], None],
        api_keys: Collection[str] | None,
        strict: bool | None,
    ) -> None:
        self._library = library
        self._generator = generator
        self._server_id = server_id
        self._start_background = begin_background
        self._api_keys = api_keys
        self._strict = strict
        self._kept = Kept(generator.new_id)
        # Benchmarks send the same few bodies over and over: reading them must not be what is measured.
        self._read_again = lru_cache(maxsize=128)(_read)

    def delivery(self, exchange: Exchange, path: str, query: str) -> Delivery:
        """What this request gets, and the figures known before its first byte."""
        endpoint, deployment, azure = _route(path)
        surface = SURFACES.get(endpoint)
        exchange.attempt.surface = None if surface is None else surface.name
        try:
            self._ensure_authorised(exchange.request)
            if path == _MODELS or path.startswith(_MODELS + "/"):
                return self._model_list(exchange, path, query)
            if surface is None or exchange.request.method != "POST":
                return self._resource(exchange, path, query, surface)
            api_version = parse_qs(query).get("api-version", [""])[0] if azure else None
            ask = self._ask(exchange, endpoint, deployment, api_version)
            return self._play(exchange, surface, ask, f"POST {_OPENAI}{endpoint}")
        except RequestError as error:
            return self._refuse(exchange, surface, error)
        except Exception as error:  # noqa: BLE001  A mistake in a script is told to its author, not hidden in a dead socket.
            message = f"The script failed: {type(error).__name__}: {error}"
            return self._refuse(exchange, surface, RequestError(message, status=500, code="script_failed"))

    def _ask(self, exchange: Exchange, endpoint: str, deployment: str | None, api_version: str | None) -> Ask:
        """The request as scripts see it. Raises: `RequestError`."""
        request, attempt, surface = exchange.request, exchange.attempt, SURFACES[endpoint]
        if api_version == "":
            raise RequestError("Resource not found: the query needs an api-version.", status=404, code="404")
        if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError("Encoded bodies are not supported.", status=415, code="unsupported_encoding")
        if surface.required_header is not None and surface.required_header not in request.headers:
            raise RequestError(f"{surface.required_header.decode()}: header is required")
        read = self._read_again if len(request.body) <= _MAX_REMEMBERED_BYTES else _read
        ask = read(endpoint, deployment, request.body, request.headers.get(b"content-type", b""))
        attempt.model, attempt.stream = ask.model, ask.stream and surface.media_type is None
        older = api_version is not None and api_version < _AZURE_STREAM_OPTIONS_SINCE
        if older and ask.body.get("stream_options") is not None:
            raise RequestError("Unrecognized request argument supplied: stream_options", "stream_options")
        if surface is RESPONSES:
            try:
                return self._kept.resumed(ask)
            except RequestError as error:
                exchange.fault = error
        return ask

    def _play(self, exchange: Exchange, surface: ProviderSurface, ask: Ask, route: str) -> Delivery:
        """Choose the reply, make its bytes, and open the attempt's bill. Raises: `RequestError`."""
        attempt = exchange.attempt
        found = self._library.find(exchange.request, route, ask.model)
        if found is None:
            named = exchange.request.headers.get(SCENARIO_HEADER, ask.model.encode())
            raise RequestError(
                f"The model or scenario '{named.decode('utf-8', 'replace')}' does not exist here.",
                "model",
                status=404,
                code="model_not_found",
            )
        if surface.free:
            reply = self._route_reply(exchange, route, ask)
        else:
            attempt.scenario, script = found
            reply = self._library.choose(attempt.scenario, script, ask)
        strict = next((told for told in (reply.strict, self._strict) if told is not None), surface.strict)
        if strict and (fault := exchange.fault or surface.fault(ask)) is not None:
            raise fault
        return self._ready_made(exchange, surface, reply) or self._begin(exchange, surface, ask, reply)

    def _route_reply(self, exchange: Exchange, route: str, ask: Ask) -> Reply:
        """The reply where no model is asked: the usual one, unless a script is meant for the request."""
        if not self._library.is_meant(exchange.request, route):
            return Reply()
        found = self._library.find(exchange.request, route, "")
        if found is None:
            raise RequestError("The scenario does not exist here.", status=404, code="model_not_found")
        exchange.attempt.scenario, script = found
        return self._library.choose(exchange.attempt.scenario, script, ask)

    def _ready_made(self, exchange: Exchange, surface: ProviderSurface, reply: Reply) -> Delivery | None:
        """The delivery of a reply that no answer has to be made for: the script's bytes, or an error."""
        attempt = exchange.attempt
        verbatim = reply.body if reply.wire is None else reply.wire
        if verbatim is not None:
            # Nobody can count what an arbitrary body stands for: such a script states its bill.
            attempt.prompt_tokens = reply.prompt_tokens or 0
            attempt.completion_tokens = reply.completion_tokens or 0
            attempt.cached_tokens, attempt.reasoning_tokens = reply.cached_tokens, reply.reasoning_tokens
            attempt.cache_write_5m_tokens = reply.cache_write_5m_tokens
            attempt.cache_write_1h_tokens = reply.cache_write_1h_tokens
            attempt.searches = reply.searches
            return exchange.deliver(reply, "verbatim", [Event(verbatim)], content_type=surface.media_type)
        if reply.is_error or not 200 <= reply.status < 300:
            return exchange.deliver(reply, "error", [Event(_error_body(surface, reply, attempt.id))])
        return None

    def _begin(self, exchange: Exchange, surface: ProviderSurface, ask: Ask, reply: Reply) -> Delivery:
        """The delivery of an answer."""
        attempt = exchange.attempt
        prompt = reply.prompt_tokens
        if prompt is None:
            if ask.prompt_tokens is None:
                ask.prompt_tokens = surface.prompt_tokens(ask, self._generator.tokens)
            prompt = ask.prompt_tokens
        answer_id = surface.answer_id.format(server=self._server_id, number=attempt.number)
        answer = self._generator.answer(
            ask, reply, prompt, answer_id, attempt.received_at // 1000, surface.call_prefix
        )
        attempt.answer_id = answer_id
        if not surface.free:
            _bill(attempt, answer)
        if not ask.stream and not ask.background:
            whole = Event(surface.plain(answer), answer.generated, "content", carries_usage(reply))
            return exchange.deliver(reply, "plain", self._keeping([whole], surface, answer), answer)
        events = surface.events(answer)
        if reply.error_at_chunk is not None:
            events = until_error(
                events,
                reply.error_at_chunk,
                lambda index, generated: surface.error_event(answer, index, generated),
            )
        if ask.background:
            return self._begin_background(exchange, answer, events)
        if surface.media_type is not None:
            return exchange.deliver(reply, "binary", events, answer, surface.media_type)
        return exchange.deliver(reply, "stream", self._keeping(events, surface, answer), answer)

    def _keeping(self, events: Iterable[Event], surface: ProviderSurface, answer: Answer) -> Iterable[Event]:
        """The same events; a response is kept when its last one is due, before a client can have read it."""
        if surface is not RESPONSES:
            return events

        def keeping() -> Iterator[Event]:
            kept = False
            for event in events:
                if not kept and (not answer.ask.stream or event.is_at("done")):
                    self._kept.finish(answer.ask, RESPONSES.final(answer))
                    kept = True
                yield event

        return keeping()

    def _begin_background(self, exchange: Exchange, answer: Answer, events: Iterator[Event]) -> Delivery:
        """Answer at once, and generate on."""
        ask, reply = answer.ask, without_pace(answer.reply)
        body = RESPONSES.begun(answer, "queued")

        def ended(final: Json) -> None:
            self._kept.finish(ask, final)

        background = Background(answer, exchange.attempt, events, body, ended, ask.stream)
        self._kept.keep(ask, body, background)
        self._start_background(background)
        if ask.stream:
            return Following(exchange.connection, exchange.request, exchange.attempt, reply, background)
        return exchange.deliver(reply, "plain", [Event(orjson.dumps(body), 0, "content")])

    def _resource(
        self, exchange: Exchange, path: str, query: str, surface: ProviderSurface | None
    ) -> Delivery:
        """Fetch, list, remove or cancel what is kept. Raises: `RequestError`."""
        request, attempt = exchange.request, exchange.attempt
        found = find_route(request.method, path)
        if found is None and surface is None:
            raise RequestError(
                f"Unknown request URL: {request.method} {path}.", status=404, code="unknown_url"
            )
        if found is None or found.name is None:
            allowed = " (only POST)" if found is None else ""
            raise RequestError(
                f"Not allowed to {request.method} on {path}{allowed}.",
                status=405,
                code="method_not_allowed",
            )
        attempt.surface = found.surface
        reply = self._route_reply(exchange, found.name, _NOBODY)
        if (delivery := self._ready_made(exchange, RESPONSES, reply)) is not None:
            return delivery
        content_type = request.headers.get(b"content-type", b"")
        shown = show(self._kept, found.name, Call(found.ids, _last_values(query), request.body, content_type))
        match shown:
            case Joined():
                attempt.stream = True
                return Following(exchange.connection, request, attempt, reply, shown.background, shown.start)
            case Binary():
                return exchange.deliver(reply, "binary", _pieces(shown.data), content_type=shown.content_type)
            case _:
                whole = Event(orjson.dumps(shown), 0, "content", isinstance(shown.get("usage"), dict))
                return exchange.deliver(reply, "plain", [whole])

    def _refuse(self, exchange: Exchange, surface: ProviderSurface | None, error: RequestError) -> Delivery:
        """The error in the shape of the API that was asked."""
        if surface is None:
            surface = MESSAGES if _ANTHROPIC_HEADER in exchange.request.headers else RESPONSES
        problem = Problem(error.status, error.message, code=error.code, param=error.param)
        body = surface.error(problem, exchange.attempt.id)
        return exchange.deliver(Reply(status=error.status), "error", [Event(body)])

    def _ensure_authorised(self, request: Request) -> None:
        if self._api_keys is None:
            return
        bearer = request.headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        given = bearer or request.headers.get(b"api-key") or request.headers.get(b"x-api-key") or b""
        if not any(hmac.compare_digest(given, key.encode()) for key in self._api_keys):
            raise RequestError(
                "Incorrect API key provided (simulated provider).", status=401, code="invalid_api_key"
            )

    def _model_list(self, exchange: Exchange, path: str, query: str) -> Delivery:
        if exchange.request.method != "GET":
            raise RequestError(
                f"Not allowed to {exchange.request.method} on {path} (only GET).",
                status=405,
                code="method_not_allowed",
            )
        shape = anthropic_model if _ANTHROPIC_HEADER in exchange.request.headers else openai_model
        if wanted := unquote(path.removeprefix(_MODELS).lstrip("/")):
            description = self._library.description(wanted)
            if description is None:
                raise RequestError(
                    f"The model '{wanted}' does not exist", "model", status=404, code="model_not_found"
                )
            body = shape(wanted, description)
        else:
            listed = [shape(*entry) for entry in self._library.listed()]
            body = {"object": "list", "data": listed}
            if shape is anthropic_model:
                body = anthropic_page(listed, _last_values(query))
        return exchange.deliver(Reply(), "verbatim", [Event(orjson.dumps(body))])


_NOBODY = Ask("", False, (), (), None, 0, False, {})
"""What a script is asked by a request that has no dialogue."""


def _last_values(query: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(query).items()}


def _route(path: str) -> tuple[str, str | None, bool]:
    """The endpoint as `SURFACES` names it, the Azure deployment, and whether the path is Azure's."""
    if path.startswith(_OPENAI):
        return path.removeprefix(_OPENAI), None, False
    if path.startswith(_AZURE):
        deployment, _, endpoint = path.removeprefix(_AZURE).partition("/")
        return endpoint, unquote(deployment), True
    return "", None, False


def _read(endpoint: str, deployment: str | None, data: bytes, content_type: bytes) -> Ask:
    """The request in a body; `deployment` names the model on Azure. Raises: `RequestError`."""
    surface = SURFACES[endpoint]
    body = surface.decode(data, content_type)
    if deployment is not None:
        body["model"] = deployment
    ask = surface.read(body)
    ask.azure = deployment is not None
    return ask


def _bill(attempt: Attempt, answer: Answer) -> None:
    """What is billed as soon as the answer begins; output is added as it is generated."""
    attempt.prompt_tokens = answer.prompt_tokens
    attempt.cached_tokens = answer.cached_tokens
    attempt.cache_write_5m_tokens = answer.cache_write_5m_tokens
    attempt.cache_write_1h_tokens = answer.cache_write_1h_tokens
    attempt.reasoning_tokens = answer.reasoning_tokens
    if attempt.surface in (Surface.RESPONSES, Surface.MESSAGES):
        attempt.searches = answer.reply.searches
    if not answer.prompt_tokens:
        attempt.seconds = answer.ask.seconds


def _pieces(data: bytes) -> Iterator[Event]:
    for start in range(0, len(data), _BINARY_PIECE_BYTES):
        yield Event(data[start : start + _BINARY_PIECE_BYTES], mark="content")


def _error_body(surface: ProviderSurface, reply: Reply, request_id: str) -> bytes:
    if reply.error is not None:
        if not reply.error_translated:
            return orjson.dumps(reply.error)
        told = reply.error["error"]
        problem = Problem(
            reply.status, told["message"], told.get("type"), told.get("code"), told.get("param")
        )
        return surface.error(problem, request_id)
    if reply.status < 400:
        return b""
    kind = "server_error" if reply.status >= 500 else "invalid_request_error"
    return surface.error(
        Problem(reply.status, f"Simulated failure with status {reply.status}.", kind), request_id
    )
