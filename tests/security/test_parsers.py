"""Whatever bytes come, each parser gives its value or the one exception that it promises.

`test_parsers` runs a few examples of each; `test_parsers_at_length` many (`make test-all`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.auth import Secrets, credential_of, ensure_local, host_name
from gateway.commands.audit import check_export
from gateway.commands.client import ClientError
from gateway.domain import Surface
from gateway.errors import CallerError, ErrorContext, GatewayError
from gateway.journal import read_journal
from gateway.replay.recorder import Seal, Unreadable
from gateway.roles import parse_role_rules, role_of
from gateway.rules.identity import read_hints, read_tags
from gateway.settings import SettingsError, from_environment
from gateway.stores.ledger_cursor import BadCursor, read_cursor
from gateway.stores.redis_wire import Link
from gateway.surfaces import CODECS
from gateway.surfaces.encoding import decode
from gateway.surfaces.sse import EventTooLargeError
from gateway.telemetry.logs import Formatter
from gateway.translation import between
from gateway.upstreams import headers as header_rules
from gateway.upstreams.openai import kept_query
from gateway.upstreams.replies import decoded, parse_object
from gateway.web import logins, oidc
from gateway.web.exchange import HttpProtocol
from gateway.web.exchange import config as server_config
from gateway.web.sessions import cookies
from tests.security import fuzz
from tests.security.smuggling import ATTACKS


@dataclass(frozen=True)
class Parser:
    """One parser: what it is fed, how, and what it may raise."""

    name: str
    inputs: st.SearchStrategy[Any]
    feed: Callable[[Any], object]
    raises: tuple[type[Exception], ...] = ()


# -- bodies, answers, streams ------------------------------------------------------------------------

_REQUESTS = {
    Surface.CHAT: fuzz.CHAT, Surface.RESPONSES: fuzz.RESPONSES, Surface.MESSAGES: fuzz.MESSAGES,
    Surface.EMBEDDINGS: fuzz.OTHERS, Surface.COMPLETIONS: fuzz.OTHERS, Surface.MODERATIONS: fuzz.OTHERS,
}  # fmt: skip
_ANSWERS = {
    Surface.CHAT: (fuzz.CHAT_ANSWER, fuzz.CHAT_EVENTS, False),
    Surface.RESPONSES: (fuzz.RESPONSES_ANSWER, fuzz.RESPONSES_EVENTS, True),
    Surface.MESSAGES: (fuzz.MESSAGES_ANSWER, fuzz.MESSAGES_EVENTS, True),
    Surface.COMPLETIONS: (fuzz.CHAT_ANSWER, fuzz.CHAT_EVENTS, False),
}
_CUTS = st.lists(st.integers(0, 10_000), max_size=6)


def _request(surface: Surface) -> Callable[[bytes], object]:
    def feed(raw: bytes) -> object:
        step = CODECS[surface].parse(raw)
        CODECS[surface].forward(step, model="x", limit_field="max_tokens", output_limit=5, inject_usage=True)
        read_hints({}, step.body, None)
        return step

    return feed


def _stream(surface: Surface) -> Callable[[tuple[bytes, list[int], bool]], object]:
    def feed(given: tuple[bytes, list[int], bool]) -> object:
        raw, cuts, strip = given
        stream = CODECS[surface].stream(strip_usage=strip)
        for piece in fuzz.pieces(raw, cuts):
            stream.feed(piece)
        _ = stream.finished, stream.clean, stream.pending
        stream.failure(GatewayError("upstream_timeout", "late"), ErrorContext("req", "dec", None), codex=True)
        return stream.answer()

    return feed


def _body_parsers() -> list[Parser]:
    found = []
    for surface, samples in _REQUESTS.items():
        inputs = st.one_of(
            fuzz.twisted(samples).map(fuzz.as_bytes), fuzz.torn([fuzz.as_bytes(each) for each in samples])
        )
        found.append(Parser(f"{surface.value} request", inputs, _request(surface), (CallerError,)))
    for surface, (answer, events, named) in _ANSWERS.items():
        found.append(
            Parser(f"{surface.value} answer", fuzz.twisted([answer]).filter(lambda v: isinstance(v, dict)), CODECS[surface].read_answer)
        )  # fmt: skip
        found.append(
            Parser(
                f"{surface.value} stream", st.tuples(fuzz.streams(events, named), _CUTS, st.booleans()),
                _stream(surface), (EventTooLargeError,),
            )
        )  # fmt: skip
    return found


def _translations() -> list[Parser]:
    found = []
    for client, upstream in (
        (Surface.CHAT, Surface.MESSAGES), (Surface.MESSAGES, Surface.CHAT), (Surface.RESPONSES, Surface.CHAT),
        (Surface.RESPONSES, Surface.MESSAGES),
    ):  # fmt: skip
        translation = between(client, upstream)
        assert translation is not None
        sample = _REQUESTS[client][0]
        answer, events, named = _ANSWERS[upstream]

        def stream(given: bytes, translation: Any = translation, sample: Any = sample) -> None:
            told = translation.stream(sample)
            # It is given whole events, as the surface's own reader cuts them.
            for event in given.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
                told.feed(event + b"\n\n")
            told.end()

        def request(raw: bytes, translation: Any = translation, client: Surface = client) -> object:
            return translation.request(CODECS[client].parse(raw).body)

        def told(reply: Any, translation: Any = translation, sample: Any = sample) -> object:
            return translation.answer(reply, sample)

        def error(raw: bytes, translation: Any = translation) -> object:
            return json.loads(translation.error(400, raw))

        way = f"{client.value} by {upstream.value}"
        inputs = fuzz.twisted(_REQUESTS[client]).map(fuzz.as_bytes)
        found += [
            Parser(f"{way}: request", inputs, request, (CallerError,)),
            Parser(f"{way}: answer", fuzz.twisted([answer]).filter(lambda v: isinstance(v, dict)), told, (GatewayError,)),
            Parser(f"{way}: stream", fuzz.streams(events, named), stream),
            Parser(f"{way}: error", st.one_of(st.binary(max_size=60), fuzz.junk.map(fuzz.as_bytes)), error),
        ]  # fmt: skip
    return found


# -- the wire ----------------------------------------------------------------------------------------


class _Transport(asyncio.Transport):
    """A socket that takes everything and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.out = b""

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _requests(given: tuple[bytes, list[int]]) -> None:
    raw, cuts = given

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["raw_path"]
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def serve() -> None:
        from uvicorn.server import ServerState

        config = server_config(app, interface="asgi3", lifespan="off")
        config.load()
        protocol = HttpProtocol(config=config, server_state=ServerState(), app_state={})
        transport = _Transport()
        protocol.connection_made(transport)
        for piece in fuzz.pieces(raw, cuts):
            protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(4):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        for task in tuple(protocol.tasks):
            task.cancel()

    asyncio.run(serve())


def _redis(given: tuple[bytes, list[int]]) -> None:
    raw, cuts = given

    async def serve() -> None:
        link = Link(5.0, lambda _: None)
        transport = _Transport()
        link.connection_made(transport)
        asked = [link.send(b"*1\r\n$4\r\nPING\r\n") for _ in range(3)]
        await asyncio.sleep(0)
        for piece in fuzz.pieces(raw, cuts):
            if transport.closed:
                break
            link.data_received(piece)
        link.connection_lost(None)
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(serve())


RESP = [
    b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"$3\r\nabc\r\n", b"$-1\r\n", b"*2\r\n:1\r\n$1\r\na\r\n", b"*-1\r\n", b"%1\r\n+a\r\n:1\r\n",
    b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", b"$99999999999\r\n", b"*999999999\r\n", b">2\r\n+a\r\n+b\r\n", b"*1\r\n" * 12,
]  # fmt: skip
_HEADER_VALUES = st.one_of(
    st.binary(max_size=24),
    st.sampled_from([value.encode("utf-8", "replace") for value in fuzz.HOSTILE]),
    st.sampled_from([b"Bearer x", b"Basic eDp5", b"Basic !!", b"gzip, br", b"1e999", b"-5", b"Wed, 21 Oct 2099 07:28:00 GMT", b"Mon, 99 Foo 0000"]),
)  # fmt: skip
_HEADER_NAMES = st.sampled_from(
    [b"authorization", b"x-api-key", b"retry-after", b"retry-after-ms", b"x-should-retry", b"connection", b"cookie", b"host",
     b"origin", b"content-type", b"content-encoding", b"x-guardrail-run-id", b"x-guardrail-tags", b"x-guardrail-user-id",
     b"x-guardrail-session-id", b"x-guardrail-parent-run-id", b"x-stainless-retry-count", b"x-claude-code-agent-id",
     b"x_api_key", b"traceparent", b"user-agent"]
)  # fmt: skip
_HEADERS = st.lists(st.tuples(_HEADER_NAMES, _HEADER_VALUES), max_size=8)


def _headers(raw: list[tuple[bytes, bytes]]) -> None:
    named = dict(raw)
    header_rules.to_upstream(raw, named, [])
    kept = header_rules.to_client(raw)
    assert all(b"\n" not in value and b"\r" not in value for _, value in kept)
    for _, value in header_rules.retry_advice(raw):
        assert value == b"false" or value.isdigit()
    seconds = header_rules.retry_after_s(raw)
    assert seconds is None or seconds >= 0
    cookies(raw, b"gg_session")
    for ask in (header_rules.ensure_unambiguous,):
        with contextlib.suppress(CallerError):
            ask(raw, named)
    for check in (credential_of, ensure_local):
        with contextlib.suppress(CallerError):
            check(named)
    host_name(named.get(b"host", b""))
    with contextlib.suppress(CallerError):
        hints = read_hints(named, None, None)
        for name in (hints.run_name, hints.session, hints.end_user):
            assert name is None or name.isprintable()


def _decoded(given: tuple[bytes, list[bytes], int]) -> None:
    body, encodings, limit = given
    assert len(decode(body, encodings, limit)) <= max(limit, len(body))


# -- files -------------------------------------------------------------------------------------------

JOURNAL = [
    b'{"o":"att_1","n":1,"r":100,"h":[["c",5]],"e":{"id":"att_1"}}\n{"o":"att_2","n":1,"r":100,"h":[],"e":{}}\n',
    b'{"s":{"attempt_id":"a","event":null,"links":[],"holds":[]}}\n',
]


def _in_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def feed(raw: bytes) -> object:
        with tempfile.NamedTemporaryFile() as file:
            file.write(raw)
            file.flush()
            return read(Path(file.name))

    return feed


def _journal(path: Path) -> object:
    return read_journal(path, lambda opened: opened)  # type: ignore[arg-type, return-value]  # it is only collected


_AUDIT = [
    json.dumps(
        {"seq": 1, "at": "2026-01-01T00:00:00Z", "actor": "a", "action": "b", "details": {}, "prev_hash": "0" * 64,
         "hash": "1" * 64, "chain": {"records": 1, "head": "1" * 64}}
    ).encode() + b"\n"
]  # fmt: skip
_SEAL = Seal(Secrets(b"0123456789abcdef"))
_CLOSED = _SEAL.close(b"content", b"about")


def _formatted(given: tuple[Any, ...]) -> None:
    message, fields, as_json = given
    record = logging.LogRecord("x", 20, "f", 1, message, None, None)
    record.facts = fields
    line = Formatter(as_json=as_json, secrets=["sk-secret-0123456789"]).format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    assert "sk-secret-0123456789" not in line


_TOKENS = st.one_of(
    st.text(max_size=40),
    st.tuples(fuzz.junk, fuzz.junk, st.text(max_size=8)).map(
        lambda parts: ".".join(oidc._b64(fuzz.as_bytes(part)) for part in parts)
    ),
    fuzz.twisted([{"alg": "RS256", "kid": "k", "crit": ["b64"], "b64": False, "jwk": {}, "x5u": "u", "zip": "DEF"}]).map(
        lambda header: f"{oidc._b64(fuzz.as_bytes(header))}.e30.AA"
    ),
)  # fmt: skip
_KEY = {
    "kty": "RSA",
    "kid": "k",
    "alg": "RS256",
    "use": "sig",
    "n": "AQAB",
    "e": "AQAB",
    "crv": "P-256",
    "x": "AA",
    "y": "AA",
}


def _moments(claims: Any) -> None:
    if isinstance(claims, dict):
        oidc._moment(claims, "exp")


def _parse_environment(values: dict[str, str]) -> None:
    from_environment({"GATEWAY_POLICY": "policies/default.yaml", **values})


PARSERS = [
    *_body_parsers(),
    *_translations(),
    Parser(
        "HTTP requests",
        st.tuples(fuzz.torn([attack.data for attack in ATTACKS if len(attack.data) < 2000]), _CUTS),
        _requests,
    ),
    Parser("RESP replies", st.tuples(st.lists(fuzz.torn(RESP), max_size=5).map(b"".join), _CUTS), _redis),
    Parser("headers", _HEADERS, _headers),
    Parser("tags", st.one_of(st.binary(max_size=60), st.text("a=,;% \"'", max_size=30).map(str.encode)), read_tags, (CallerError,)),
    Parser(
        "content encodings",
        st.tuples(
            fuzz.torn([b"", b"x", __import__("gzip").compress(b"a" * 999), __import__("zlib").compress(b"b" * 999),
                       __import__("brotli").compress(b"c" * 999), __import__("zstandard").compress(b"d" * 999)]),
            st.lists(st.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"identity", b"x", b"gzip, gzip", b"", b","]), max_size=3),
            st.integers(0, 2000),
        ),
        _decoded,
        (CallerError,),
    ),
    Parser("a provider's body", st.tuples(st.binary(max_size=60), st.sampled_from([[], [(b"content-encoding", b"gzip")], [(b"content-encoding", b"br")]])),
           lambda given: (parse_object(*given), decoded(*given))),
    Parser("a query", st.binary(max_size=60), kept_query),
    Parser("run URLs", st.text(max_size=200), lambda name: read_hints({}, None, name), (CallerError,)),
    Parser("journals", st.one_of(fuzz.torn(JOURNAL), fuzz.junk.map(fuzz.as_bytes)), _in_file(_journal)),
    Parser("audit exports", fuzz.torn(_AUDIT), _in_file(lambda path: check_export(path, None)), (ClientError,)),
    Parser("heads of audit logs", st.text(max_size=40), lambda head: check_export(Path("/dev/null"), head), (ClientError,)),
    Parser("recordings", fuzz.torn([_CLOSED, b""]), lambda raw: _SEAL.open(raw, b"about"), (Unreadable,)),
    Parser("log records", st.tuples(st.one_of(st.text(max_size=60), st.sampled_from(fuzz.HOSTILE)), fuzz.junk, st.booleans()), _formatted),
    Parser("heads of ID tokens", _TOKENS, oidc._header, (oidc.LoginRefused,)),
    Parser("keys of providers", fuzz.twisted([_KEY, {**_KEY, "kty": "EC"}, {**_KEY, "kty": "OKP"}]), oidc._public_key),
    Parser("times of ID tokens", fuzz.twisted([{"exp": 1.5}, {"exp": 10**400}]), _moments, (oidc.LoginRefused,)),
    Parser("answers of providers of logins", st.binary(max_size=80), logins._parameters, (oidc.LoginRefused,)),
    Parser("role rules", st.text("a:=,.*\\ é\0", max_size=30), parse_role_rules, (ValueError,)),
    Parser("claims", fuzz.twisted([{"groups": ["a"], "email": "b", "r": {"x": ["y"]}}]).filter(lambda v: isinstance(v, dict)),
           lambda claims: role_of(claims, parse_role_rules("groups:a=admin,r.x:y=viewer,email:b=operator"))),
    Parser("cursors", st.one_of(st.text(max_size=40), fuzz.junk.map(lambda v: oidc._b64(fuzz.as_bytes(v)))), lambda text: read_cursor(text, int, str), (BadCursor,)),
    Parser("secrets", st.text(max_size=60), Secrets.parse, (ValueError,)),
    Parser(
        "the environment",
        st.dictionaries(
            st.sampled_from([f"GATEWAY_{name}" for name in ("PORT", "WORKERS", "DRAIN_S", "STORE_URL", "ADMIN_LISTEN", "PUBLIC_URL", "OIDC_ISSUER", "OIDC_ROLES", "LOG_LEVEL", "SECRET_KEY")]),
            st.one_of(st.text(max_size=20), st.sampled_from(fuzz.HOSTILE)), max_size=4,
        ),
        _parse_environment,
        (SettingsError,),
    ),
]  # fmt: skip
"""Multipart bodies have no parser here: they are handed on unread (tests/integration/data_plane/
test_passthrough.py). Policy files, event splitting, usage objects and prices are fuzzed where they are tested
(tests/unit/policy/test_loading.py, tests/unit/surfaces, tests/unit/metering), OTLP not at all: it is written."""


def run(parser: Parser, examples: int) -> None:
    """Feed so many inputs, the same ones in every run of a length."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(parser.inputs)
    def feed(value: Any) -> None:
        with contextlib.suppress(*parser.raises):
            parser.feed(value)

    feed()


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_parsers(parser: Parser) -> None:
    run(parser, 6)


@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_parsers_at_length(parser: Parser) -> None:
    run(parser, 100)
