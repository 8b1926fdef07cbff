"""Logging in by way of an OpenID provider: a real one on loopback, that can misbehave in every way."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwk

from gateway.stores.ledger_sessions import MAX_SESSION_MS
from gateway.testing import ProviderServer
from gateway.upstreams.transport import Timeouts
from gateway.web import oidc
from tests.integration.admin.browsers import Browser
from tests.integration.admin.calls import Admin, Answer, timed
from tests.integration.admin.test_roles import _reset
from tests.support.gateway import ADMIN_TOKEN, ThreadedGateway, base_policy, threaded_gateway
from tests.support.issuer import (
    ALICE,
    CLIENT,
    SECRET,
    Issuer,
    by_shared_secret,
    rsa,
    running_issuer,
    unsigned,
)

ROLES = "groups:sre=operator,groups:security=admin,email:alice@example.com=viewer,realm.roles:boss=admin"
PAGE = {"accept": "text/html,application/xhtml+xml", "sec-fetch-site": "cross-site"}


@pytest.fixture(scope="module")
def running() -> Iterator[Issuer]:
    with running_issuer(Issuer(keys=[usual_key()])) as issuer:
        yield issuer


@cache
def usual_key() -> jwk.RSAKey:
    return rsa("k1")


@pytest.fixture(scope="module")
def gateway(
    provider: ProviderServer, running: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    with with_oidc(provider, running.url, tmp_path_factory.mktemp("oidc")) as gateway:
        yield gateway


def with_oidc(provider: ProviderServer, issuer: str, directory: Path, **options: Any) -> Any:
    settings = {
        "oidc_issuer": issuer,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "oidc_roles": ROLES,
        **options,
    }
    return threaded_gateway(base_policy(provider.base_url), directory, **settings)


@pytest.fixture
def issuer(running: Issuer, gateway: ThreadedGateway) -> Issuer:
    """The provider as it should be; its keys are asked for anew, and nobody has failed."""
    fresh = Issuer(url=running.url, keys=[usual_key()])
    vars(running).update(vars(fresh))
    _reset(gateway)
    forget(gateway)
    return running


def forget(gateway: ThreadedGateway) -> Any:
    """What the gateway knows of its provider."""
    app: Any = gateway.app
    known = app._admin.app.logins.provider
    known._metadata = known._keys_at = known._failed = None
    known._keys = []
    return known


def redirected(browser: Browser) -> tuple[str, dict[str, str]]:
    """To the provider: its address and what is asked of it."""
    answer = browser.dashboard("GET", "/oidc/login", headers=PAGE)
    assert answer.status == 302, answer.raw
    parts = urlsplit(answer.headers["location"])
    return answer.headers["location"], {
        n: v[0] for n, v in parse_qs(parts.query, strict_parsing=True).items()
    }


def at_the_provider(location: str) -> str:
    """Log in there; where the browser is sent."""
    parts = urlsplit(location)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", f"{parts.path}?{parts.query}")
    back = connection.getresponse().headers["location"]
    connection.close()
    assert back is not None
    return back


def come_back(browser: Browser, address: str, **headers: str) -> Answer:
    parts = urlsplit(address)
    return browser.call("GET", f"{parts.path}?{parts.query}", prefix="", headers={**PAGE, **headers})


def log_in(browser: Browser, **headers: str) -> Answer:
    location, _ = redirected(browser)
    return come_back(browser, at_the_provider(location), **headers)


def refused(answer: Answer, status: int = 403) -> str:
    """The page that says why not."""
    assert answer.status == status, answer.raw
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "location" not in answer.headers
    return answer.raw.decode()


# -- as it should be ---------------------------------------------------------------------------------


def test_a_person_with_a_role_logs_in(gateway: ThreadedGateway, issuer: Issuer) -> None:
    browser = Browser(gateway)
    location, asked = redirected(browser)
    assert location.startswith(f"{issuer.url}/authorize?")
    assert asked == {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": f"{gateway.url}/dashboard/oidc/callback",
        "scope": "openid email profile",
        "state": asked["state"],
        "nonce": asked["nonce"],
        "code_challenge": asked["code_challenge"],
        "code_challenge_method": "S256",
    }
    assert len({len(asked[name]) for name in ("state", "nonce", "code_challenge")} | {43}) == 1
    assert browser.attributes["gg_login"] == "Path=/; HttpOnly; SameSite=Lax; Max-Age=600"
    assert asked["state"] not in browser.cookies["gg_login"]

    answer = come_back(browser, at_the_provider(location))
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert set(browser.cookies) == {"gg_session"}
    assert browser.attributes["gg_session"] == "Path=/; HttpOnly; SameSite=Strict"
    (fields,) = issuer.tokens_asked
    assert fields["credentials"] == f"{CLIENT}:{SECRET}"
    assert "client_secret" not in fields

    who = browser.known().who()
    assert (who["name"], who["role"], who["source"]) == ("oidc:alice@example.com", "operator", "oidc")
    assert browser.call("POST", "/kills", {"scope": "user", "id": "x", "reason": "y"}).status == 201
    assert browser.call("GET", "/keys").code == "forbidden"
    kill, login = Admin(gateway).changes(2)
    assert (kill["actor"], kill["action"]) == ("oidc:alice@example.com", "kill.set")
    assert (login["actor"], login["action"]) == ("oidc:alice@example.com", "session.login")
    assert login["details"] == {
        "session": login["details"]["session"],
        "role": "operator",
        "address": "127.0.0.1",
        "sub": "u-1",
        "email": "alice@example.com",
        "role_by": "groups:sre",
    }


@pytest.mark.parametrize(
    ("person", "role"),
    [
        ({"groups": ["sre", "security"]}, "admin"),
        ({"groups": "security"}, "admin"),
        ({"groups": []}, "viewer"),
        ({"groups": None}, "viewer"),
        ({"groups": None, "realm": {"roles": ["boss"]}}, "admin"),
        ({"groups": None, "realm.roles": ["boss"]}, "admin"),
    ],
)
def test_the_highest_role_that_fits_counts(
    gateway: ThreadedGateway, issuer: Issuer, person: dict[str, Any], role: str
) -> None:
    issuer.person = {**ALICE, **person}
    browser = Browser(gateway)
    assert log_in(browser).status == 303
    assert browser.who()["role"] == role


@pytest.mark.parametrize(
    "person",
    [
        {"groups": None, "email": "bob@example.com"},
        {"groups": None, "email_verified": False},
        {"groups": None, "email_verified": None},
        {"groups": None, "email_verified": "true"},
        {"groups": None, "email": "ALICE@example.com"},
        {"groups": ["SRE", "sre ", "security,sre", ["sre"], {"sre": "sre"}], "email": None},
        {"groups": {"sre": True}, "email": None},
        {"groups": "sre,security", "email": None},
        {"groups": None, "email": ["alice@example.com"]},
        {"groups": None, "email": None, "realm": "boss", "realm.roles": None},
    ],
)
def test_nobody_has_a_role_by_default(
    gateway: ThreadedGateway, issuer: Issuer, person: dict[str, Any]
) -> None:
    issuer.person = {**ALICE, **person}
    browser = Browser(gateway)
    assert "no role" in refused(log_in(browser))
    assert browser.cookies == {}
    (record,) = Admin(gateway).changes(1)
    assert record["action"] == "session.refuse"
    assert record["details"]["sub"] == "u-1"


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ({}, "oidc:alice@example.com"),
        ({"email_verified": False}, "oidc:u-1 (alice@example.com)"),
        ({"email_verified": None, "email": None}, "oidc:u-1"),
        ({"email": "a\n\u202eb\x00@x"}, "oidc:a\ufffd\ufffdb\ufffd@x"),
        ({"email": None, "sub": "<script>"}, "oidc:<script>"),
        ({"email": "x" * 5000}, "oidc:" + "x" * 200),
    ],
)
def test_nobody_is_named_by_an_address_that_is_not_verified(
    gateway: ThreadedGateway, issuer: Issuer, person: dict[str, Any], name: str
) -> None:
    issuer.person = {**ALICE, **person}
    browser = Browser(gateway)
    assert log_in(browser).status == 303
    assert browser.who()["name"] == name
    assert Admin(gateway).get("/audit/verify")["ok"]


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", lambda: rsa("a")),
        ("PS384", lambda: rsa("b")),
        ("ES256", lambda: jwk.ECKey.generate_key("P-256", {"kid": "c"})),
        ("ES512", lambda: jwk.ECKey.generate_key("P-521", {"kid": "d"})),
        ("EdDSA", lambda: jwk.OKPKey.generate_key("Ed25519", {"kid": "e"})),
        ("Ed25519", lambda: jwk.OKPKey.generate_key("Ed25519", {"kid": "f"})),
        ("RS256", lambda: jwk.RSAKey.generate_key(2048)),
    ],
)
def test_every_signature_by_a_private_key_counts(
    gateway: ThreadedGateway, issuer: Issuer, algorithm: str, key: Callable[[], Any]
) -> None:
    issuer.algorithm, issuer.keys = algorithm, [key()]
    # What else stands in a key set is passed over.
    odd: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "new"},
        {"kty": "RSA"},
        {"kty": "EC", "crv": "x"},
    ]
    issuer.published = [*odd, *issuer.keys]
    assert log_in(Browser(gateway)).status == 303


def test_a_public_client_and_one_that_sends_its_secret_in_the_body(
    provider: ProviderServer, running: Issuer, issuer: Issuer, gateway: ThreadedGateway, tmp_path: Path
) -> None:
    issuer.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert log_in(Browser(gateway)).status == 303
    assert issuer.tokens_asked[-1]["client_secret"] == SECRET
    assert issuer.tokens_asked[-1]["credentials"] == ""
    with with_oidc(provider, running.url, tmp_path, oidc_client_secret=None) as public:
        assert log_in(Browser(public)).status == 303
        assert issuer.tokens_asked[-1]["client_id"] == CLIENT
        assert {"client_secret"} & set(issuer.tokens_asked[-1]) == set()


def test_new_keys_are_asked_for_once_and_not_at_every_call(
    gateway: ThreadedGateway, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = forget(gateway)
    issuer.person = {**ALICE, "exp": 2**32}
    now = gateway.worker.clock()
    later = 0
    monkeypatch.setattr(known, "clock", lambda: now + later)
    assert log_in(Browser(gateway)).status == 303
    assert log_in(Browser(gateway)).status == 303
    assert issuer.asked.count("/keys") == 1
    assert issuer.asked.count("/.well-known/openid-configuration") == 1
    issuer.keys = [rsa("k2")]
    for _ in range(3):
        assert "does not name" in refused(log_in(Browser(gateway)))
    assert issuer.asked.count("/keys") == 1, "a flood of unknown key ids asks nobody"
    later = 31_000
    assert log_in(Browser(gateway)).status == 303
    assert issuer.asked.count("/keys") == 2
    # A key that was withdrawn is forgotten within the hour.
    issuer.published, later = [rsa("k3")], 31_000 + 3_600_000 - 1000
    assert log_in(Browser(gateway)).status == 303
    later += 2000
    refused(log_in(Browser(gateway)))


def test_sessions_end_when_the_settings_that_gave_them_change(
    provider: ProviderServer, running: Issuer, issuer: Issuer, tmp_path: Path
) -> None:
    with with_oidc(provider, running.url, tmp_path) as gateway:
        browser = Browser(gateway)
        assert log_in(browser).status == 303
    with with_oidc(provider, running.url, tmp_path) as gateway:
        browser.gateway = gateway
        assert browser.call("GET", "/runs").status == 200
    with with_oidc(provider, running.url, tmp_path, oidc_roles="groups:none=viewer") as gateway:
        browser.gateway = gateway
        assert browser.call("GET", "/runs").status == 401


# -- tokens that prove nothing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        ({"nonce": "another"}, "of another login"),
        ({"nonce": None}, "of another login"),
        ({"nonce": 7}, "of another login"),
        ({"aud": "another"}, "for another client"),
        ({"aud": None}, "for another client"),
        ({"aud": []}, "for another client"),
        ({"aud": ["another"]}, "for another client"),
        ({"aud": {CLIENT: 1}}, "for another client"),
        ({"aud": [CLIENT, "another"]}, "issued to another client"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, "issued to another client"),
        ({"azp": "another"}, "issued to another client"),
        ({"iss": "http://127.0.0.1:1"}, "of another issuer"),
        ({"iss": None}, "of another issuer"),
        ({"iss": ["x"]}, "of another issuer"),
        ({"exp": 1}, "has expired"),
        ({"exp": None}, "has no exp"),
        ({"exp": "tomorrow"}, "has no exp"),
        ({"exp": True}, "has no exp"),
        ({"exp": 10**400}, "has no exp"),
        ({"exp": float("inf")}, "has no exp"),
        ({"exp": float("nan")}, "has no exp"),
        ({"iat": None}, "has no iat"),
        ({"iat": 2**40}, "not valid yet"),
        ({"iat": 1}, "older than the login"),
        ({"nbf": 2**40}, "not valid yet"),
        ({"sub": None}, "names nobody"),
        ({"sub": ""}, "names nobody"),
        ({"sub": 7}, "names nobody"),
        ({"sub": "x" * 256}, "names nobody"),
    ],
)
def test_a_token_that_is_not_for_this_login_does_not_count(
    gateway: ThreadedGateway, issuer: Issuer, claims: dict[str, Any], problem: str
) -> None:
    issuer.person = {**ALICE, **claims}
    browser = Browser(gateway)
    assert problem in refused(log_in(browser))
    assert browser.cookies == {}


@pytest.mark.parametrize("skew", [("exp", -55), ("iat", 55), ("nbf", 55)])
def test_clocks_may_differ_by_a_minute(
    gateway: ThreadedGateway, issuer: Issuer, skew: tuple[str, int]
) -> None:
    issuer.person = {**ALICE, skew[0]: int(time.time()) + skew[1]}
    assert log_in(Browser(gateway)).status == 303


def test_a_token_for_several_counts_when_it_was_issued_to_us(
    gateway: ThreadedGateway, issuer: Issuer
) -> None:
    issuer.person = {**ALICE, "aud": [CLIENT, "another"], "azp": CLIENT}
    assert log_in(Browser(gateway)).status == 303


def public_pem(issuer: Issuer) -> bytes:
    pem: bytes = issuer.keys[0].as_pem(private=False)
    return pem


@pytest.mark.parametrize(
    "mint",
    [
        lambda issuer, claims: unsigned(claims),
        lambda issuer, claims: by_shared_secret(claims, public_pem(issuer)),
        lambda issuer, claims: by_shared_secret(claims, json.dumps(issuer.key_set()["keys"][0]).encode()),
        lambda issuer, claims: by_shared_secret(claims, SECRET.encode()),
        lambda issuer, claims: by_shared_secret(claims, b""),
        lambda issuer, claims: Issuer(keys=[rsa("k1")]).sign(claims),
        lambda issuer, claims: Issuer(keys=[rsa("other")]).sign(claims),
        lambda issuer, claims: issuer.sign(claims).rpartition(".")[0] + ".",
        lambda issuer, claims: issuer.sign(claims)[:-8] + "AAAAAAAA",
        lambda issuer, claims: issuer.sign(claims, crit=["b64"], b64=False),
        lambda issuer, claims: Issuer(keys=[rsa("k1")]).sign(claims, jwk=rsa("k1").as_dict(private=False)),
        lambda issuer, claims: Issuer(keys=[rsa("k1")]).sign(claims, jku="http://127.0.0.1:1/keys"),
        lambda issuer, claims: issuer.sign(claims, kid="../../etc/passwd"),
        lambda issuer, claims: issuer.sign(claims) + ".x",
        lambda issuer, claims: issuer.sign(claims).replace(".", "", 1),
        lambda issuer, claims: "eyJhbGciOltdfQ.e30.",  # {"alg":[]}
        lambda issuer, claims: "W10.e30.",  # []
        lambda issuer, claims: "",
        lambda issuer, claims: "..",
        lambda issuer, claims: "x" * 200_000,
        lambda issuer, claims: "ü.ü.ü",
        lambda issuer, claims: issuer.sign({**claims, "x": "y" * 200_000}),
    ],
)
def test_a_token_that_no_key_of_the_provider_signed_does_not_count(
    gateway: ThreadedGateway, issuer: Issuer, mint: Callable[[Issuer, dict[str, Any]], str]
) -> None:
    issuer.mint = lambda claims: mint(issuer, claims)
    browser = Browser(gateway)
    page = refused(log_in(browser))
    assert "does not count" in page
    assert browser.cookies == {}


def test_a_weak_key_and_a_key_for_encryption_sign_nothing(gateway: ThreadedGateway, issuer: Issuer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = jwk.RSAKey.generate_key(1024, {"kid": "weak"})
        issuer.keys = [weak]
        refused(log_in(Browser(gateway)))
    issuer.keys = [rsa("enc")]
    issuer.published = [{**issuer.keys[0].as_dict(private=False), "use": "enc"}]
    forget(gateway)
    refused(log_in(Browser(gateway)))
    issuer.published = [{**issuer.keys[0].as_dict(private=False), "alg": "PS256"}]
    forget(gateway)
    refused(log_in(Browser(gateway)))


# -- answers that are not ours -----------------------------------------------------------------------


def test_a_callback_counts_once(gateway: ThreadedGateway, issuer: Issuer) -> None:
    """Even at a provider that redeems a code twice, with the cookie that came with it."""
    issuer.forgetful = True
    browser = Browser(gateway)
    location, _ = redirected(browser)
    kept = dict(browser.cookies)
    back = at_the_provider(location)
    assert come_back(browser, back).status == 303
    thief = Browser(gateway, cookies=kept)
    assert "has come back before" in refused(come_back(thief, back))
    assert set(thief.cookies) == set()


def test_a_login_begun_elsewhere_is_not_ended_here(gateway: ThreadedGateway, issuer: Issuer) -> None:
    """Login CSRF: the attacker's answer in the victim's browser, with no login of its own, or with one."""
    attacker, victim = Browser(gateway), Browser(gateway)
    back = at_the_provider(redirected(attacker)[0])
    assert "same browser" in refused(come_back(victim, back))
    redirected(victim)
    assert "same browser" in refused(come_back(victim, back))
    tossed = Browser(gateway)
    redirected(tossed)
    both = f"gg_login={tossed.cookies['gg_login']}; gg_login={attacker.cookies['gg_login']}"
    assert "same browser" in refused(come_back(tossed, back, cookie=both))
    assert {"gg_session"} & {*victim.cookies, *tossed.cookies} == set()
    assert issuer.tokens_asked == []


@pytest.mark.parametrize(
    "change",
    [
        lambda back: back.split("?")[0],
        lambda back: back.replace("code=", "kode="),
        lambda back: back.replace("state=", "state=x"),
        lambda back: back + "&state=x",
        lambda back: back + "&code=x",
        lambda back: back + "&x=1" * 50,
        lambda back: back + "&x=%ff",
        lambda back: back + "&iss=https://evil.example",
        lambda back: back + "&iss=",
    ],
)
def test_an_answer_that_was_changed_does_not_count(
    gateway: ThreadedGateway, issuer: Issuer, change: Callable[[str], str]
) -> None:
    browser = Browser(gateway)
    back = at_the_provider(redirected(browser)[0])
    refused(come_back(browser, change(back)))
    assert browser.cookies == {}


def test_an_old_login_and_one_that_was_tampered_with_do_not_count(
    gateway: ThreadedGateway, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(gateway)
    back = at_the_provider(redirected(browser)[0])
    sealed = browser.cookies["gg_login"]
    for value in (sealed[:-4], "A" + sealed[1:], sealed[:40] + "AAAA" + sealed[44:], "", "x" * 5000, "ü"):
        _reset(gateway)
        cookie = f"gg_login={value}".encode().decode("latin-1")
        assert "same browser" in refused(come_back(Browser(gateway), back, cookie=cookie))
    now = gateway.worker.clock()
    monkeypatch.setattr(gateway.worker, "clock", lambda: now + 600_000)
    assert "same browser" in refused(come_back(browser, back))


def test_with_a_provider_that_names_itself_an_answer_without_a_name_does_not_count(
    gateway: ThreadedGateway, issuer: Issuer
) -> None:
    """The mix-up attack of RFC 9207."""
    issuer.discovery = {"authorization_response_iss_parameter_supported": True}
    refused(log_in(Browser(gateway)))
    issuer.answer = {"iss": "https://evil.example"}
    refused(log_in(Browser(gateway)))
    issuer.answer = {"iss": issuer.url}
    assert log_in(Browser(gateway)).status == 303


def test_what_a_provider_says_of_an_error_is_never_shown(gateway: ThreadedGateway, issuer: Issuer) -> None:
    evil = "<script>alert(1)</script>"
    issuer.answer = {
        "code": None,
        "error": evil,
        "error_description": evil,
        "error_uri": "javascript:alert(1)",
    }
    page = refused(log_in(Browser(gateway)))
    assert "did not let you in" in page
    assert "alert" not in page


def test_nothing_in_a_request_decides_where_a_login_leads(gateway: ThreadedGateway, issuer: Issuer) -> None:
    for query in (
        "?next=https://evil.example",
        "?redirect_uri=https://evil.example",
        "?return_to=//evil.example",
    ):
        browser = Browser(gateway)
        answer = browser.dashboard("GET", f"/oidc/login{query}", headers=PAGE)
        assert "evil" not in answer.headers["location"]
        back = at_the_provider(answer.headers["location"]) + f"&{query[1:]}"
        assert come_back(browser, back).headers["location"] == "/dashboard"
    assert Browser(gateway).dashboard("GET", "/oidc/login", headers={"host": "evil.example"}).status == 403


def test_with_a_public_url_the_browser_comes_back_there(
    provider: ProviderServer, running: Issuer, issuer: Issuer, tmp_path: Path
) -> None:
    options = {"public_url": "https://gateway.example.com/guard/"}
    with with_oidc(provider, running.url, tmp_path, **options) as gateway:
        browser = Browser(gateway)
        location, asked = redirected(browser)
        assert asked["redirect_uri"] == "https://gateway.example.com/guard/dashboard/oidc/callback"
        assert browser.attributes["gg_login"].endswith("; Secure")
        back = at_the_provider(location).replace("https://gateway.example.com/guard", gateway.url)
        answer = come_back(browser, back)
        assert answer.headers["location"] == "https://gateway.example.com/guard/dashboard"
        assert 'href="/guard/dashboard"' in refused(come_back(browser, back))


def test_a_login_by_oidc_replaces_the_session_of_before(gateway: ThreadedGateway, issuer: Issuer) -> None:
    browser = Browser(gateway).log_in(ADMIN_TOKEN)
    before = dict(browser.cookies)
    assert log_in(browser).status == 303
    assert browser.who()["name"] == "oidc:alice@example.com"
    assert Browser(gateway, cookies=before).call("GET", "/runs").status == 401


def test_failed_logins_are_limited(gateway: ThreadedGateway, issuer: Issuer) -> None:
    stranger = Browser(gateway)
    answers = [stranger.dashboard("GET", "/oidc/callback?code=x&state=y") for _ in range(12)]
    assert [answer.status for answer in answers] == [403] * 10 + [429] * 2
    assert answers[0].code == "login_refused"
    assert issuer.asked == []


# -- a provider that fails ---------------------------------------------------------------------------

DISCOVERY = "/.well-known/openid-configuration"


def unavailable(gateway: ThreadedGateway, at: str) -> None:
    """The login fails at `at` with a clear page, JSON for scripts, and tokens still work."""
    forget(gateway)
    browser = Browser(gateway)
    if at == DISCOVERY:
        answer = browser.dashboard("GET", "/oidc/login", headers=PAGE)
        plain = browser.dashboard("GET", "/oidc/login")
        assert (plain.status, plain.code) == (503, "oidc_unavailable")
    else:
        answer = log_in(browser)
    assert "Log in with an admin token" in refused(answer, 503)
    assert browser.cookies == {}
    browser.log_in(ADMIN_TOKEN)
    assert browser.who()["name"] == "admin"


@pytest.mark.parametrize("at", [DISCOVERY, "/keys", "/token"])
@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"[" * 100_000),
        (200, b"{" * 100_000),
        (200, b'{"x": "' + b"x" * 600_000 + b'"}'),
        (200, b"\xff\xfe"),
        (500, b"{}"),
        (503, b"oops"),
        (302, b""),
        (429, b"{}"),
    ],
)
def test_a_provider_that_answers_nonsense_is_unavailable(
    gateway: ThreadedGateway, issuer: Issuer, at: str, status: int, raw: bytes
) -> None:
    issuer.raw[at], issuer.status[at] = raw, status
    unavailable(gateway, at)


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"authorization_endpoint": None},
        {"authorization_endpoint": "http://evil.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://a@evil.example/"},
        {"authorization_endpoint": "https://evil.example/\r\nset-cookie: x=y"},
        {"authorization_endpoint": "//evil.example"},
        {"token_endpoint": "http://169.254.169.254/latest"},
        {"token_endpoint": "file:///etc/passwd"},
        {"token_endpoint": 7},
        {"jwks_uri": "http://example.com/keys"},
        {"jwks_uri": "https://[::1"},
        {"jwks_uri": ""},
    ],
)
def test_discovery_leads_nowhere_that_is_not_safe(
    gateway: ThreadedGateway, issuer: Issuer, discovery: dict[str, Any]
) -> None:
    issuer.discovery = discovery
    unavailable(gateway, DISCOVERY)


@pytest.mark.parametrize("keys", [b"{}", b'{"keys": 7}', b'{"keys": {}}'])
def test_keys_that_are_none_are_unavailable(gateway: ThreadedGateway, issuer: Issuer, keys: bytes) -> None:
    issuer.raw["/keys"] = keys
    unavailable(gateway, "/keys")


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_code_that_is_not_taken_is_no_login(gateway: ThreadedGateway, issuer: Issuer, status: int) -> None:
    issuer.status["/token"], issuer.raw["/token"] = status, b'{"error": "invalid_client"}'
    assert f"status {status}" in refused(log_in(Browser(gateway)))
    issuer.status["/token"], issuer.raw["/token"] = 200, b'{"access_token": "x"}'
    assert "no ID token" in refused(log_in(Browser(gateway)))


def test_a_slow_provider_is_given_up(
    gateway: ThreadedGateway, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "TIMEOUTS", Timeouts(0.2, 0.2, 0.2, 0.3))
    issuer.delay_s[DISCOVERY] = 4.0
    _, took = timed(lambda: unavailable(gateway, DISCOVERY))
    assert took < 4.0


def test_a_provider_that_is_down_is_not_asked_by_everyone(provider: ProviderServer, tmp_path: Path) -> None:
    with running_issuer(Issuer(keys=[])) as gone:
        pass
    with with_oidc(provider, gone.url, tmp_path) as gateway:
        unavailable(gateway, DISCOVERY)
        app: Any = gateway.app
        assert app._admin.app.logins.provider._failed is not None
        assert gateway.request("GET", "/readyz", key=None)[0] == 200


def test_however_many_log_in_at_once_a_slow_provider_is_asked_once(
    gateway: ThreadedGateway, issuer: Issuer
) -> None:
    issuer.delay_s[DISCOVERY] = 0.3
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: Browser(gateway).dashboard("GET", "/oidc/login"), range(12)))
    assert {answer.status for answer in answers} == {302}
    assert issuer.asked.count(DISCOVERY) == 1


def test_an_oidc_token_is_no_bearer(gateway: ThreadedGateway, issuer: Issuer) -> None:
    token = issuer.sign({"iss": issuer.url, "aud": CLIENT, **ALICE})
    assert Admin(gateway).call("GET", "/runs", token=token).code == "unauthorized"


def test_a_session_by_oidc_lasts_no_longer_than_others(
    gateway: ThreadedGateway, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(gateway)
    assert log_in(browser).status == 303
    now = gateway.worker.clock()
    monkeypatch.setattr(gateway.worker, "clock", lambda: now + MAX_SESSION_MS)
    assert browser.call("GET", "/runs").status == 401
