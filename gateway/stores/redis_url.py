"""Reads the URL of a shared store: one Redis, a master that Sentinels know, or a Cluster.

redis-py reads what stands in a plain URL; it knows no URL of a Sentinel or a Cluster, so those are taken
apart here into a plain one for each server. `valkey…://` is another spelling of `redis…://`.
"""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio.connection import parse_url as parse_plain_url

Kind = Literal["server", "sentinel", "cluster"]

_KINDS: dict[str, Kind] = {"": "server", "+sentinel": "sentinel", "+cluster": "cluster"}
_SCHEMES: dict[str, tuple[Kind, bool]] = {
    f"{name}{'s' if tls else ''}{suffix}": (kind, tls)
    for name in ("redis", "valkey")
    for suffix, kind in _KINDS.items()
    for tls in (False, True)
}
_PORTS: dict[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_EXPECTED = (
    "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB or "
    "redis+cluster://HOST:PORT,HOST:PORT; rediss… for TLS"
)
_SENTINEL_OPTIONS = frozenset(("sentinel_username", "sentinel_password", "sentinel_tls"))
_TLS_OPTIONS = frozenset(
    (
        "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password",
        "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version",
    )
)  # fmt: skip
_NO = ("false", "0", "no")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and how to be let in."""

    host: str
    port: int
    path: str | None
    db: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.path or f'{host}:{self.port}'}/{self.db}"

    def at(self, host: str, port: int) -> Address:
        """Another server of the same kind: the same credentials, database and TLS."""
        return replace(self, host=host, port=port, path=None)

    @property
    def place(self) -> tuple[str, int]:
        """Its host and port."""
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """What a URL says. `servers` are the ones that it names; of a Sentinel URL these are the sentinels, let
    in by their own credentials, and `login` is how the masters that they name are entered."""

    kind: Kind
    servers: tuple[Address, ...]
    login: Address
    master: str = ""
    timeout_s: float | None = None
    """How long a call may wait, where the URL says so."""
    connect_timeout_s: float | None = None
    _plain: tuple[str, str] = field(default=("", ""), repr=False)

    def __str__(self) -> str:
        if self.kind == "server":
            return str(self.login)
        named = ",".join(str(server).rpartition("/")[0] for server in self.servers)
        return f"{self.master} by {named}" if self.kind == "sentinel" else f"cluster {named}"

    @property
    def encrypted(self) -> bool:
        """Whether everything sent is: to the sentinels too."""
        return all(server.tls is not None for server in (self.login, *self.servers))

    def plain(self, address: Address) -> str:
        """The URL of one of its servers, for redis-py."""
        before, after = self._plain
        if address.path is not None:
            return before + after
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{before}{host}:{address.port}/{address.db}{after}"


def parse_store_url(url: str) -> StoreUrl:
    """Raises: `ValueError` that says what is wrong, without any part of the URL that may be secret."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in {"unix", *_SCHEMES}:
        raise ValueError(f"got {scheme[:32] if separator else 'no URL'!r}, expected {_EXPECTED}")
    authority, path, query = _parts(rest)
    options = dict(parse_qsl(query))
    timeouts = _take_timeouts(options)
    if scheme.lower() == "unix":
        whole = url.strip().partition("?")[0] + _query(options)
        socket = _address(whole)
        return StoreUrl("server", (socket,), socket, "", *timeouts, (whole, ""))
    kind, tls = _SCHEMES[scheme.lower()]
    userinfo, at, hosts = authority.rpartition("@")
    named = [_host_and_port(each, kind) for each in hosts.split(",")]
    if kind == "server" and len(named) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    _check_options(options, kind)
    own = {name: options.pop(name) for name in _SENTINEL_OPTIONS & options.keys()}
    master, db = _master_and_db(path, kind)
    plain = (f"{'rediss' if tls else 'redis'}://{userinfo}{at}", _query(options))
    login = _address(f"{plain[0]}{_url_host(named[0][0])}:{named[0][1]}/{db}{plain[1]}")
    servers = tuple(login.at(host, port) for host, port in named)
    if kind == "sentinel":
        clear = own.get("sentinel_tls", "true").lower() in _NO
        servers = tuple(
            replace(
                server,
                db=0,
                username=own.get("sentinel_username"),
                password=own.get("sentinel_password"),
                tls=None if clear else server.tls,
            )
            for server in servers
        )
    return StoreUrl(kind, servers, login, master, *timeouts, plain)


def _parts(rest: str) -> tuple[str, str, str]:
    """Authority, path and query of what follows `://`."""
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    return authority, path, query.partition("#")[0]


def _query(options: dict[str, str]) -> str:
    return f"?{urlencode(options)}" if options else ""


def _host_and_port(text: str, kind: Kind) -> tuple[str, int]:
    text = text.strip()
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise ValueError("an IPv6 address stands in brackets: [::1]:6379")
        port = port[1:]
    else:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        # It may be a password's end: whatever has a special meaning in a URL has to be percent-encoded there.
        raise ValueError(
            "a port is no number from 1 to 65535; percent-encode special characters of passwords"
        )
    if not host and kind != "server":
        raise ValueError("a host is missing")
    return unquote(host) or "localhost", int(port or _PORTS[kind])


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _master_and_db(path: str, kind: Kind) -> tuple[str, int]:
    parts = [unquote(part) for part in path.split("/") if part]
    master = ""
    if kind == "sentinel":
        if not parts or (len(parts) == 1 and parts[0].isdigit()):
            raise ValueError("the master's name is missing: redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB")
        master = parts.pop(0)
    if len(parts) > 1 or (parts and not (parts[0].isascii() and parts[0].isdigit())):
        raise ValueError("the database is no number")
    return master, int(parts[0]) if parts else 0


def _take_timeouts(options: dict[str, str]) -> tuple[float | None, float | None]:
    """Seconds for a call and for connecting, where they are told; `options` are without them afterwards."""
    call_s = _take_seconds(options, "socket_timeout", 0.05, 5)
    return call_s, _take_seconds(options, "socket_connect_timeout", 0.1, 30)


def _take_seconds(options: dict[str, str], name: str, least: float, most: float) -> float | None:
    said = options.pop(name, None)
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= most:
        raise ValueError(f"{name}: expected seconds from {least:g} to {most:g}")
    return seconds


def _check_options(options: dict[str, str], kind: Kind) -> None:
    for name in sorted(options):
        known = (_SENTINEL_OPTIONS if kind == "sentinel" else frozenset()) | _TLS_OPTIONS
        if name.startswith(("ssl_", "sentinel_")) and name not in known:
            raise ValueError(f"unknown option {name[:40]!r}, expected one of {', '.join(sorted(known))}")


def _address(url: str) -> Address:
    """The one server of a plain URL."""
    try:
        options = cast("dict[str, Any]", parse_plain_url(url))
    except ValueError as error:
        # What redis-py says of an option names the option; the rest may hold a part of the URL.
        said = str(error)
        raise ValueError(said if "Invalid value for '" in said else f"expected {_EXPECTED}") from None
    return Address(
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        path=options.get("path"),
        db=options.get("db", 0),
        username=options.get("username"),
        password=options.get("password"),
        tls=_tls(options) if url.startswith("rediss://") else None,
    )


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """Raises: `ValueError` for certificates that cannot be read."""
    try:
        context = ssl.create_default_context(
            cafile=options.get("ssl_ca_certs"),
            capath=options.get("ssl_ca_path"),
            cadata=options.get("ssl_ca_data"),
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"ssl_ca_certs cannot be read: {_reason(error)}") from None
    if str(options.get("ssl_cert_reqs", "required")).lower() == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif str(options.get("ssl_check_hostname", "true")).lower() in _NO:
        context.check_hostname = False
    if lowest := options.get("ssl_min_version"):
        try:
            context.minimum_version = ssl.TLSVersion(lowest)
        except ValueError:
            raise ValueError("ssl_min_version: expected 771 for TLS 1.2 or 772 for TLS 1.3") from None
    if certificate := options.get("ssl_certfile"):
        try:
            context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password"))
        except OSError as error:
            raise ValueError(f"ssl_certfile and ssl_keyfile cannot be used: {_reason(error)}") from None
    return context


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
