"""A small OpenID provider on loopback, for tests: discovery, keys, authorization and tokens, and every way in
which it can misbehave. Whoever comes to its authorization endpoint is logged in as `person` at once."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwk, jwt

CLIENT = "gateway"
SECRET = "s3cret: with/odd+characters"
ALICE: dict[str, Any] = {
    "sub": "u-1",
    "email": "alice@example.com",
    "email_verified": True,
    "groups": ["sre"],
}


def rsa(kid: str) -> jwk.RSAKey:
    """A key pair with an id."""
    return jwk.RSAKey.generate_key(2048, {"kid": kid})


@dataclass
class Issuer:
    """`url` is the issuer; what is set here holds from the next request on."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: dict(ALICE))
    """Claims beside the ones that every token has; None leaves one out."""
    keys: list[Any] = field(default_factory=lambda: [rsa("k1")])
    """The first one signs; public parts of `published` are served."""
    published: list[Any] | None = None
    algorithm: str = "RS256"
    discovery: dict[str, Any] = field(default_factory=dict)
    """Put over what discovery says."""
    answer: dict[str, Any] = field(default_factory=dict)
    """Put over what comes back with the code."""
    mint: Callable[[dict[str, Any]], str] | None = None
    """Makes the ID token in place of `sign`."""
    raw: dict[str, bytes] = field(default_factory=dict)
    """Bodies in place of the right ones, by path."""
    status: dict[str, int] = field(default_factory=dict)
    delay_s: dict[str, float] = field(default_factory=dict)
    forgetful: bool = False
    """It redeems a code as often as it is brought."""
    asked: list[str] = field(default_factory=list)
    """Paths, in their order."""
    tokens_asked: list[dict[str, str]] = field(default_factory=list)
    """Fields of each request for a token, with the client's credentials."""
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token signed with the first key."""
        kid = self.keys[0].get("kid")
        head = {"alg": self.algorithm, **({"kid": kid} if kid else {}), **header}
        return jwt.encode(head, claims, self.keys[0], algorithms=[head["alg"]])

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            **self.discovery,
        }

    def key_set(self) -> dict[str, Any]:
        keys = self.keys if self.published is None else self.published
        return {"keys": [key if isinstance(key, dict) else key.as_dict(private=False) for key in keys]}

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser goes next."""
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        back = {"code": code, "state": query["state"], **self.answer}
        return f"{query['redirect_uri']}?{urlencode({n: v for n, v in back.items() if v is not None})}"

    def token(self, fields: dict[str, str], credentials: str) -> tuple[int, dict[str, Any]]:
        self.tokens_asked.append({**fields, "credentials": credentials})
        asked = self._codes.get(fields.get("code", ""))
        if not self.forgetful:
            self._codes.pop(fields.get("code", ""), None)
        challenge = hashlib.sha256(fields.get("code_verifier", "").encode()).digest()
        if asked is None or asked["redirect_uri"] != fields.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        if base64.urlsafe_b64encode(challenge).rstrip(b"=").decode() != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.person,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        mint = self.mint or self.sign
        return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": mint(claims)}


def unsigned(claims: dict[str, Any]) -> str:
    """A token with `alg: none`."""
    return f"{_part({'alg': 'none'})}.{_part(claims)}."


def by_shared_secret(claims: dict[str, Any], secret: bytes, kid: str = "k1") -> str:
    """A token with `alg: HS256`."""
    signed = f"{_part({'alg': 'HS256', 'kid': kid})}.{_part(claims)}"
    return f"{signed}.{_b64(hmac.digest(secret, signed.encode(), 'sha256'))}"


def _part(value: dict[str, Any]) -> str:
    return _b64(json.dumps(value).encode())


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@contextlib.contextmanager
def running_issuer(issuer: Issuer) -> Iterator[Issuer]:
    """An issuer that serves on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if self._odd(parts.path):
                return
            if parts.path == "/.well-known/openid-configuration":
                self._json(200, issuer.metadata())
            elif parts.path == "/keys":
                self._json(200, issuer.key_set())
            elif parts.path == "/authorize":
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.send_response(302)
                self.send_header("location", issuer.authorize(query))
                self.send_header("content-length", "0")
                self.end_headers()
            else:
                self._json(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            if self._odd(self.path):
                return
            fields = {name: values[0] for name, values in parse_qs(body).items()}
            given = self.headers.get("authorization", "")
            pair = base64.b64decode(given.removeprefix("Basic ")).decode() if given else ""
            self._json(*issuer.token(fields, ":".join(unquote(part) for part in pair.split(":", 1))))

        def _odd(self, path: str) -> bool:
            """Misbehave as told."""
            issuer.asked.append(path)
            time.sleep(issuer.delay_s.get(path, 0))
            if path not in issuer.raw and path not in issuer.status:
                return False
            raw = issuer.raw.get(path, b"{}")
            self.send_response(issuer.status.get(path, 200))
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(raw)
            return True

        def _json(self, status: int, value: Any) -> None:
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
