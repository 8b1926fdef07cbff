"""Who is calling: gateway keys, a caller's own provider credential, or the open mode of one machine.

A stored key is an HMAC under the gateway's secret and is looked up by it, so nothing ever compares a
secret; a malformed, an unknown and a revoked key get the same answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from gateway.domain import Principal
from gateway.errors import CallerError
from gateway.policy.models import Policy

_CREDENTIAL_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/#?@\\\s]*)(?::\d{0,5})?")
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A gateway key as the ledger database keeps it. A key that was given another secret is the same one."""

    id: str
    name: str
    secrets: Mapping[str, int | None]
    """`Secrets.digest` of each secret that works, and until when, in milliseconds since the epoch."""
    user: str | None
    team: str | None
    models: tuple[str, ...] | None
    priority: Literal["low", "normal", "high"] = "normal"
    max_tool_level: Literal["safe", "moderate", "dangerous"] = "dangerous"


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The gateway's own secret: the current one makes digests, the previous one is still recognised."""

    current: bytes
    previous: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> Secrets:
        """From `GATEWAY_SECRET_KEY`: `current[,previous]`. Raises `ValueError` for a short one."""
        parts = [part.strip().encode() for part in text.split(",") if part.strip()]
        if not parts or len(parts) > 2 or any(len(part) < 16 for part in parts):
            raise ValueError("GATEWAY_SECRET_KEY has to be one or two secrets of at least 16 characters")
        return cls(parts[0], parts[1] if len(parts) > 1 else None)

    def digest(self, secret: str | bytes) -> str:
        """HMAC-SHA256 of a key or token under the current secret, hexadecimal."""
        return _digest(self.current, secret)

    def digests(self, secret: str | bytes) -> tuple[str, ...]:
        """The digests under which a key or token may be stored."""
        current = _digest(self.current, secret)
        return (current,) if self.previous is None else (current, _digest(self.previous, secret))


def _digest(key: bytes, secret: str | bytes) -> str:
    mac = _keyed(key).copy()
    mac.update(secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret)
    return mac.hexdigest()


@lru_cache(maxsize=4)
def _keyed(key: bytes) -> hmac.HMAC:
    """Ready to be copied: setting up a keyed hash costs more than hashing a credential."""
    return hmac.new(key, digestmod="sha256")


def credential_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The one credential of a request, wherever SDKs put it. `CallerError` when two differ."""
    found: set[bytes] = {headers[name] for name in _CREDENTIAL_HEADERS if name in headers}
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, value = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            found.add(value.strip())
        elif scheme.lower() == b"basic":
            found.add(_basic(value))
        else:
            raise invalid_key()
    if len(found) > 1:
        raise invalid_key()
    return found.pop() if found else None


def _basic(value: bytes) -> bytes:
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).partition(b":")
    except binascii.Error:
        raise invalid_key() from None
    return password or user


def invalid_key() -> CallerError:
    """The one answer to every failed authentication."""
    return CallerError("invalid_api_key", "The API key is missing or not valid for this gateway.")


MAX_DIGESTS = 1024


@dataclass(slots=True)
class Authenticator:
    """Finds the principal of a request under one policy. Stored keys are replaced as they change."""

    policy: Policy
    secrets: Secrets
    used: set[str] = field(default_factory=set)
    """Ids of the principals that have come; whoever writes them down takes them out."""
    _configured: dict[str, tuple[Principal, float | None]] = field(default_factory=dict)
    """By digest: whose key it is, and until when, in seconds since the epoch."""
    _stored: dict[str, tuple[Principal, float | None]] = field(default_factory=dict)
    _digests: dict[bytes, tuple[str]] = field(default_factory=dict, repr=False)
    """Of credentials that were valid once; whether they still are is looked up every time."""

    def __post_init__(self) -> None:
        for key in self.policy.keys:
            expires = key.expires_at.timestamp() if key.expires_at is not None else None
            principal = Principal(
                id=f"key:{key.name}",
                key=key.name,
                user=key.user,
                team=key.team,
                models=frozenset(key.models) if key.models is not None else None,
                max_tool_level=key.max_tool_level,
                priority=key.priority,
            )
            self._configured[self.secrets.digest(key.key.get_secret_value())] = (principal, expires)

    def replace_stored(self, keys: Iterable[KeyRecord]) -> None:
        """Take over the keys of the ledger database; revoked ones are simply not among them."""
        stored: dict[str, tuple[Principal, float | None]] = {}
        for key in keys:
            principal = Principal(
                id=key.id,
                key=key.name,
                user=key.user,
                team=key.team,
                models=frozenset(key.models) if key.models is not None else None,
                max_tool_level=key.max_tool_level,
                priority=key.priority,
            )
            for digest, until in key.secrets.items():
                stored[digest] = (principal, until / 1000 if until is not None else None)
        self._stored = stored

    def identify(self, headers: Mapping[bytes, bytes]) -> Principal:
        """The caller, or `CallerError` `invalid_api_key`."""
        mode = self.policy.auth.mode
        if mode == "open":
            ensure_local(headers)
            return Principal(id="local", key="local", user="local")
        credential = credential_of(headers)
        if not credential:
            raise invalid_key()
        if mode == "passthrough":
            digest = hashlib.sha256(self.secrets.digest(credential).encode()).hexdigest()[:16]
            return Principal(
                id=f"caller:{digest}", key=f"caller-{digest}", credential=credential.decode("latin-1")
            )
        return self._key(credential)

    def _key(self, credential: bytes) -> Principal:
        for digest in self._digests.get(credential) or self.secrets.digests(credential):
            found = self._configured.get(digest) or self._stored.get(digest)
            if found is not None:
                principal, expires = found
                if expires is not None and time.time() >= expires:
                    raise invalid_key()
                self._remember(credential, digest)
                self.used.add(principal.id)
                return principal
        raise invalid_key()

    def _remember(self, credential: bytes, digest: str) -> None:
        if credential not in self._digests:
            if len(self._digests) >= MAX_DIGESTS:
                self._digests.clear()
            self._digests[credential] = (digest,)


def ensure_local(headers: Mapping[bytes, bytes]) -> None:
    """In open mode a web page must not be able to spend: `Host` has to be this machine, an `Origin` has to
    be the same, and the body has to be JSON (which a page cannot send without asking first)."""
    host = host_name(headers.get(b"host", b""))
    if host not in LOOPBACK_HOSTS:
        raise CallerError(
            "invalid_api_key", "Without keys the gateway serves this machine alone: Host has to be loopback."
        )
    origin = headers.get(b"origin")
    if origin is not None and host_name(origin.partition(b"://")[2]) not in LOOPBACK_HOSTS:
        raise CallerError("invalid_api_key", "Without keys the gateway answers no foreign Origin.")
    kind = headers.get(b"content-type")
    if kind is not None and not kind.lower().startswith(b"application/json"):
        raise CallerError("unsupported_encoding", "Content-Type has to be application/json.")


def host_name(authority: bytes) -> str:
    """The host of a `Host` or `Origin` value, without its port; empty when it is not of that form."""
    found = _AUTHORITY.fullmatch(authority.decode("latin-1").strip().lower())
    return found[1] if found is not None else ""
