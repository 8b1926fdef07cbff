"""An OpenID provider, as far as we need one: where it sends people, its keys, and what it says of a person.

Authorization code flow with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636, RFC 9207). An ID token
counts when one of the provider's own public keys has signed it, with an algorithm for such keys, for us,
lately and for this login. What a provider answers is never shown: it is another machine's text.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

from gateway.domain import Json, Millis
from gateway.settings import Settings, is_loopback
from gateway.upstreams.transport import (
    Timeouts,
    Transport,
    TransportError,
    UnsendableError,
    UpstreamRequest,
)

ALGORITHMS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
"""Signatures by a private key alone, with the type of key of each. A shared secret is none of them, so a
public key cannot be taken for one."""
MIN_RSA_BITS = 2048
SKEW_S = 60
MAX_MOMENT_S = 2**53
TIMEOUTS = Timeouts(connect_s=4.0, first_byte_s=6.0, idle_s=4.0, total_s=8.0)
MAX_REPLY_BYTES = 512 * 1024
MAX_KEYS = 64
METADATA_FOR_MS = 3_600_000
"""How long discovery and keys hold, at the most."""
REFETCH_EVERY_MS = 30_000
"""How often an unknown key id makes us ask for the keys again."""
RETRY_AFTER_MS = 2_000
"""How long a provider that failed is not asked again."""


class ProviderUnavailable(Exception):  # noqa: N818 - reads as what it is
    """The provider cannot be reached, or does not answer as a provider does. The text is for the log."""


class LoginRefused(Exception):  # noqa: N818 - reads as what it is
    """This login does not count. The text is for the log; it holds nothing that the provider wrote."""


@dataclass(frozen=True, slots=True)
class Login:
    """A login under way: what the browser carries, sealed, to the provider and back."""

    state: str
    nonce: str
    verifier: str
    begun_at: Millis
    back_to: str
    """The address that the provider sends the browser back to."""

    @classmethod
    def begin(cls, now: Millis, back_to: str) -> Login:
        """A login that nobody can guess."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, now, back_to)

    @property
    def challenge(self) -> str:
        """Of the verifier, by S256."""
        return _b64(hashlib.sha256(self.verifier.encode()).digest())


@dataclass(frozen=True, slots=True)
class Metadata:
    """What discovery says of a provider."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    secret_in_body: bool
    """It takes the client's secret as a field and not as a header."""
    names_itself: bool
    """It says in each answer who it is (RFC 9207)."""
    read_at: Millis


@dataclass(slots=True)
class Provider:
    """One provider, under the settings. Every method may raise `ProviderUnavailable`."""

    settings: Settings
    transport: Transport
    clock: Callable[[], Millis]
    _metadata: Metadata | None = None
    _keys: list[jwk.Key] = field(default_factory=list, repr=False)
    _keys_at: Millis | None = None
    _failed: tuple[Millis, str] | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asking_keys: asyncio.Lock = field(default_factory=asyncio.Lock)
    """However many log in at once, the provider is asked once."""

    @property
    def issuer(self) -> str:
        """As it stands in its ID tokens."""
        return self.settings.oidc_issuer or ""

    @property
    def client_id(self) -> str:
        """Whom its ID tokens are for."""
        return self.settings.oidc_client_id or ""

    async def login_url(self, login: Login) -> str:
        """Where to send a browser to log in."""
        endpoint = (await self.metadata()).authorization_endpoint
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.client_id,
                "redirect_uri": login.back_to,
                "scope": " ".join(self.settings.oidc_scopes.split()),
                "state": login.state,
                "nonce": login.nonce,
                "code_challenge": login.challenge,
                "code_challenge_method": "S256",
            }
        )
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    async def claims(self, login: Login, code: str, named: str | None) -> Json:
        """What the provider says of who has logged in. `named` is the `iss` beside the code.

        Raises `LoginRefused`.
        """
        metadata = await self.metadata()
        if named is not None and named != self.issuer:
            raise LoginRefused("the answer comes from another provider")
        if named is None and metadata.names_itself:
            raise LoginRefused("the answer does not say which provider it comes from")
        token = await self._redeem(metadata, login, code)
        claims = await self._verified(token)
        self._ensure_fitting(claims, login)
        return claims

    async def metadata(self) -> Metadata:
        """What discovery says, an hour old at the most while the provider answers."""
        async with self._asking:
            now = self.clock()
            known = self._metadata
            if known is not None and now - known.read_at < METADATA_FOR_MS:
                return known
            try:
                document = await self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                known = self._metadata = self._read_metadata(document, now)
            except ProviderUnavailable:
                if known is None:
                    raise
            return known

    def _read_metadata(self, document: Json, now: Millis) -> Metadata:
        if document.get("issuer") != self.issuer:
            raise ProviderUnavailable("discovery names another issuer than GATEWAY_OIDC_ISSUER")
        endpoints = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            address = document.get(name)
            if not isinstance(address, str) or not self._is_safe(address):
                raise ProviderUnavailable(f"discovery has no {name} that is an https URL")
            endpoints[name] = address
        methods = document.get("token_endpoint_auth_methods_supported")
        in_body = isinstance(methods, list) and "client_secret_basic" not in methods
        return Metadata(
            **endpoints,
            secret_in_body=in_body,
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
            read_at=now,
        )

    def _is_safe(self, address: str) -> bool:
        """https, or loopback where the issuer is loopback too."""
        if not address.isascii() or not address.isprintable() or " " in address or '"' in address:
            return False
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return False
        if not host or parts.username is not None or parts.fragment:
            return False
        local = is_loopback(urlsplit(self.issuer).hostname or "")
        return parts.scheme == "https" or (parts.scheme == "http" and local and is_loopback(host))

    # -- the code ------------------------------------------------------------------------------------

    async def _redeem(self, metadata: Metadata, login: Login, code: str) -> str:
        """The ID token for a code."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": login.back_to,
            "code_verifier": login.verifier,
        }
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        secret = self.settings.oidc_client_secret
        if secret is None or metadata.secret_in_body:
            fields["client_id"] = self.client_id
            if secret is not None:
                fields["client_secret"] = secret
        else:
            # RFC 6749, 2.3.1: both parts are form-encoded before they are put together.
            pair = f"{quote(self.client_id, safe='')}:{quote(secret, safe='')}"
            headers.append((b"authorization", b"Basic " + base64.b64encode(pair.encode())))
        status, document = await self._call(
            "POST", metadata.token_endpoint, headers, urlencode(fields).encode()
        )
        if 400 <= status < 500 and status != 429:
            raise LoginRefused(f"the provider did not take the code: status {status}")
        if status != 200:
            raise ProviderUnavailable(f"the token endpoint answered {status}")
        token = document.get("id_token")
        if not isinstance(token, str):
            raise LoginRefused("the provider gave no ID token: is openid among the scopes?")
        return token

    # -- the ID token --------------------------------------------------------------------------------

    async def _verified(self, token: str) -> Json:
        """The claims of a token that one of the provider's keys has signed."""
        algorithm, key_id = _header(token)
        keys = await self._fitting_keys(algorithm, key_id)
        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        for key in keys:
            try:
                return dict(jwt.decode(token, key, algorithms=[algorithm], registry=registry).claims)
            except (JoseError, ValueError, TypeError, KeyError, RecursionError):
                continue
        raise LoginRefused("the ID token is not signed by a key of the provider")

    async def _fitting_keys(self, algorithm: str, key_id: str | None) -> list[jwk.Key]:
        """The keys that may have signed; asked for again when none is known, though not at every call."""
        async with self._asking_keys:
            now = self.clock()
            age = now - self._keys_at if self._keys_at is not None else METADATA_FOR_MS
            for longest in (METADATA_FOR_MS, REFETCH_EVERY_MS):
                if age >= longest:
                    self._keys = await self._fetch_keys()
                    self._keys_at, age = now, 0
                if keys := [key for key in self._keys if _fits(key, algorithm, key_id)]:
                    return keys
        raise LoginRefused("the ID token is signed by a key that the provider does not name")

    async def _fetch_keys(self) -> list[jwk.Key]:
        document = await self._get((await self.metadata()).jwks_uri)
        found = document.get("keys")
        if not isinstance(found, list):
            raise ProviderUnavailable("the provider's keys are no JSON Web Key Set")
        return [key for each in found[:MAX_KEYS] if (key := _public_key(each)) is not None]

    def _ensure_fitting(self, claims: Json, login: Login) -> None:
        """Whether a token that is signed rightly is for us, for now and for this login."""
        now = self.clock() / 1000
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        party = claims.get("azp")
        nonce = claims.get("nonce")
        subject = claims.get("sub")
        if claims.get("iss") != self.issuer:
            raise LoginRefused("the ID token is of another issuer")
        if not isinstance(audiences, list) or self.client_id not in audiences:
            raise LoginRefused("the ID token is for another client")
        if (party is not None and party != self.client_id) or (len(audiences) > 1 and party is None):
            raise LoginRefused("the ID token was issued to another client")
        if not isinstance(nonce, str) or not secrets.compare_digest(nonce.encode(), login.nonce.encode()):
            raise LoginRefused("the ID token is of another login")
        expires, issued = _moment(claims, "exp"), _moment(claims, "iat")
        if now >= expires + SKEW_S:
            raise LoginRefused("the ID token has expired")
        if issued > now + SKEW_S or ("nbf" in claims and _moment(claims, "nbf") > now + SKEW_S):
            raise LoginRefused("the ID token is not valid yet: does this machine's clock go right?")
        if issued < login.begun_at / 1000 - SKEW_S:
            raise LoginRefused("the ID token is older than the login")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise LoginRefused("the ID token names nobody")

    # -- the wire ------------------------------------------------------------------------------------

    async def _get(self, url: str) -> Json:
        now = self.clock()
        if self._failed is not None and now - self._failed[0] < RETRY_AFTER_MS:
            raise ProviderUnavailable(self._failed[1])
        try:
            status, document = await self._call("GET", url, [], b"")
            if status != 200:
                raise ProviderUnavailable(f"{url} answered {status}")
        except ProviderUnavailable as error:
            self._failed = (now, str(error))
            raise
        self._failed = None
        return document

    async def _call(
        self, method: str, url: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, Json]:
        """Status and document; the document is empty where the answer is no JSON object and no success."""
        sent = [*headers, (b"accept", b"application/json"), (b"accept-encoding", b"identity")]
        try:
            reply = await self.transport.send(UpstreamRequest(method, url, sent, body, TIMEOUTS))
            try:
                raw = await reply.read(MAX_REPLY_BYTES)
            finally:
                await reply.aclose()
        except (TransportError, UnsendableError) as error:
            raise ProviderUnavailable(f"{url}: {error}") from None
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError:
            document = None
        if isinstance(document, dict):
            return reply.status, document
        if reply.status == 200:
            raise ProviderUnavailable(f"{url} answered with something that is no JSON object")
        return reply.status, {}


def _header(token: str) -> tuple[str, str | None]:
    """Algorithm and key id that a token claims. Raises `LoginRefused`."""
    try:
        header = jws.extract_compact(token.encode("ascii")).headers()
        algorithm, key_id = header.get("alg"), header.get("kid")
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise LoginRefused("the ID token is no signed JWT") from None
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise LoginRefused("the ID token is signed in a way that proves nothing")
    return algorithm, key_id if isinstance(key_id, str) else None


def _public_key(value: Any) -> jwk.Key | None:
    """One key of a set; None for what cannot have signed a token."""
    if not isinstance(value, dict) or value.get("kty") not in ALGORITHMS.values():
        return None
    if value.get("use") not in (None, "sig"):
        return None
    # A private part is nobody's business, and neither is what else stands there.
    public = {name: value[name] for name in ("kty", "kid", "alg", "crv", "n", "e", "x", "y") if name in value}
    try:
        key = jwk.import_key(public)
        if isinstance(key, jwk.RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return key


def _fits(key: jwk.Key, algorithm: str, key_id: str | None) -> bool:
    if key.key_type != ALGORITHMS[algorithm] or key.get("alg") not in (None, algorithm):
        return False
    return key_id is None or key.get("kid") == key_id


def _moment(claims: Json, name: str) -> float:
    """A time of a token in seconds. Raises `LoginRefused`."""
    value = claims.get(name)
    # An integer may be larger than any float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_MOMENT_S:
        raise LoginRefused(f"the ID token has no {name}")
    return float(value)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
