"""Every route of the admin plane with every role and every way to come in, made from the application's routes:
a route that is added is tested without a word here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.roles import RANKS
from gateway.web import admin_gate
from gateway.web.admin_gate import AdminRoute
from tests.integration.admin.browsers import Browser
from tests.integration.admin.calls import Admin, Roles
from tests.support.gateway import ThreadedGateway


def application(gateway: ThreadedGateway) -> FastAPI:
    """The framework's application, inside of the gate and the dashboard."""
    assert gateway.app is not None
    app: Any = gateway.app._admin
    while not isinstance(app, FastAPI):
        app = app.app
    return app


def routes(gateway: ThreadedGateway) -> list[tuple[str, str, str]]:
    """(method, path without its prefix, least role) of every route. What stands for a parameter is nobody's."""
    found: list[tuple[str, str, str]] = []
    for route in _flat(application(gateway)):
        role = admin_gate._grants[route.endpoint].role
        path = re.sub(r"\{[^}]+\}", "nobody", route.path.removeprefix("/admin/v1"))
        found += [(method, path, role) for method in sorted(route.methods or ())]
    return found


def _flat(app: Any) -> Iterator[APIRoute]:
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from _flat(route.original_router)


def _reset(gateway: ThreadedGateway) -> None:
    application(gateway).state.limits.limiter.reset()


@pytest.fixture(scope="module")
def every_role(admin: Admin, roles: Roles) -> dict[str, str]:
    """A named token for each role."""
    top = admin.post("/tokens", {"name": "fixture-admin", "role": "admin"})["token"]
    return {"viewer": roles.viewer, "operator": roles.operator, "admin": top}


@pytest.fixture(scope="module")
def browsers(gateway: ThreadedGateway, every_role: dict[str, str]) -> dict[str, Browser]:
    """A browser that is logged in, for each role."""
    return {role: Browser(gateway).log_in(token) for role, token in every_role.items()}


def test_every_route_declares_its_role(gateway: ThreadedGateway) -> None:
    found = routes(gateway)
    assert len(found) > 30
    assert {role for _, _, role in found} <= set(RANKS)
    assert all(isinstance(route, AdminRoute) for route in _flat(application(gateway)))


def test_without_a_credential_no_route_says_anything(gateway: ThreadedGateway) -> None:
    stranger = Browser(gateway)
    generic = stranger.call("GET", "/no/such/route")
    ways: list[dict[str, str | None]] = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic wrong"},
        {"cookie": "gg_session=wrong"},
        {"cookie": f"gg_session={'A' * 43}.{'0' * 32}"},
        {"cookie": "gg_session="},
    ]
    for method, path, _ in routes(gateway):
        _reset(gateway)
        for headers in ways:
            answer = stranger.call(method, path, {} if method != "GET" else None, headers=headers)
            assert (answer.status, answer.raw) == (401, generic.raw), (method, path, headers)


def test_every_route_serves_its_role_and_those_above_by_token_and_by_cookie(
    gateway: ThreadedGateway, every_role: dict[str, str], browsers: dict[str, Browser]
) -> None:
    for method, path, least in routes(gateway):
        body: dict[str, str] | None = {} if method != "GET" else None
        for role, token in every_role.items():
            _reset(gateway)
            place = (method, path, role)
            bearer = Browser(gateway).call(method, path, body, headers={"authorization": f"Bearer {token}"})
            cookie = browsers[role].call(method, path, body)
            if RANKS[role] >= RANKS[least]:
                assert bearer.status not in (401, 403), (*place, bearer.raw)
                assert cookie.status == bearer.status, (*place, cookie.raw)
            else:
                assert (bearer.status, bearer.code) == (403, "forbidden"), place
                assert (cookie.status, cookie.code) == (403, "forbidden"), place
            assert cookie.headers["cache-control"] == "no-store"


def test_no_route_is_driven_by_a_page_elsewhere(
    gateway: ThreadedGateway, browsers: dict[str, Browser]
) -> None:
    browser = browsers["admin"]
    foreign: list[tuple[str, dict[str, str | None]]] = [
        ("forbidden_origin", {"origin": "https://evil.example"}),
        ("forbidden_origin", {"origin": "null"}),
        ("forbidden_origin", {"origin": None, "sec-fetch-site": "cross-site"}),
        ("forbidden_origin", {"origin": None, "sec-fetch-site": "same-site"}),
    ]
    careless: list[tuple[str, dict[str, str | None]]] = [
        ("forbidden_csrf", {"x-csrf-token": None}),
        ("forbidden_csrf", {"x-csrf-token": ""}),
        ("forbidden_csrf", {"x-csrf-token": browser.csrf[:-1] + ("0" if browser.csrf[-1] != "0" else "1")}),
        ("forbidden_csrf", {"x-csrf-token": browsers["viewer"].csrf}),
        ("forbidden_origin", {"origin": None, "sec-fetch-site": None}),
        ("forbidden_origin", {"origin": None, "sec-fetch-site": "none"}),
    ]
    for method, path, _ in routes(gateway):
        _reset(gateway)
        for code, headers in foreign if method == "GET" else foreign + careless:
            answer = browser.call(method, path, {} if method != "GET" else None, headers=headers)
            assert (answer.status, answer.code) == (403, code), (method, path, headers)


def test_metrics_are_as_open_to_a_cookie_as_to_a_token(browsers: dict[str, Browser]) -> None:
    assert browsers["viewer"].call("GET", "/metrics", prefix="").status == 200
