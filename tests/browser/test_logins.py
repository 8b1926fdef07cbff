"""Logging in with a real browser, by way of a provider on another site, and pages elsewhere that try to use it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from gateway.testing import running_provider
from tests.browser.conftest import MARKS
from tests.integration.admin.calls import Admin
from tests.support.gateway import ADMIN_TOKEN, ThreadedGateway, base_policy, threaded_gateway
from tests.support.issuer import CLIENT, SECRET, Issuer, running_issuer

pytestmark = MARKS

ATTACK = """
<!doctype html><title>Prizes</title>
<form id="login" method="post" enctype="text/plain" action="{gateway}/dashboard/session" target="hole">
  <input name='{{"token": "{token}", "x": "' value='"}}'></form>
<form id="kill" method="post" enctype="text/plain" action="{gateway}/admin/v1/kills" target="hole">
  <input name='{{"scope": "global", "reason": "' value='prize"}}'></form>
<iframe name="hole"></iframe>
<script>
  const tried = {{}};
  const attempt = async (name, path, options) => {{
    try {{
      const answer = await fetch("{gateway}" + path, {{credentials: "include", ...options}});
      tried[name] = answer.type === "opaque" ? "opaque" : await answer.text();
    }} catch (error) {{ tried[name] = "failed"; }}
  }};
  const kill = JSON.stringify({{scope: "global", reason: "prize"}});
  const stream = new EventSource("{gateway}/admin/v1/events", {{withCredentials: true}});
  stream.onopen = () => {{ tried.events = "opened"; }};
  (async () => {{
    await attempt("read", "/admin/v1/runs", {{}});
    await attempt("who", "/dashboard/session", {{}});
    await attempt("simple", "/admin/v1/kills", {{method: "POST", body: kill, mode: "no-cors"}});
    await attempt("json", "/admin/v1/kills", {{method: "POST", body: kill, headers: {{"content-type": "application/json"}}}});
    await attempt("out", "/dashboard/session", {{method: "DELETE"}});
    await attempt("in", "/dashboard/session", {{method: "POST", body: JSON.stringify({{token: "{token}"}}), mode: "no-cors"}});
    document.getElementById("login").submit();
    await new Promise((done) => setTimeout(done, 300));
    document.getElementById("kill").submit();
    await new Promise((done) => setTimeout(done, 300));
    document.title = JSON.stringify(tried);
  }})();
</script>
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """On another site than the gateway: `localhost` is none of 127.0.0.1's names to a browser."""
    with running_issuer(Issuer()) as running:
        running.url = running.url.replace("127.0.0.1", "localhost")
        yield running


@pytest.fixture(scope="module")
def gateway(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    options = {
        "oidc_issuer": issuer.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "oidc_roles": "groups:sre=operator",
    }
    directory = tmp_path_factory.mktemp("logins")
    with (
        running_provider() as provider,
        threaded_gateway(base_policy(provider.base_url), directory, **options) as running,
    ):
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    context.set_default_timeout(10_000)
    yield context.new_page()
    context.close()


@contextlib.contextmanager
def hostile_page(html: str) -> Iterator[int]:
    """A page that a stranger serves on this machine; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def log_in(page: Page, gateway: ThreadedGateway) -> None:
    page.goto(f"{gateway.url}/dashboard")
    page.get_by_role("link", name="single sign-on").click()
    page.get_by_role("heading", name="Now", level=1).wait_for()


def who(page: Page) -> Any:
    return page.evaluate("fetch('/dashboard/session').then((answer) => answer.json())")


def test_a_person_logs_in_by_a_provider_on_another_site_and_out(gateway: ThreadedGateway, page: Page) -> None:
    log_in(page, gateway)
    assert page.url.startswith(f"{gateway.url}/dashboard")
    assert "code=" not in page.url
    assert (who(page)["name"], who(page)["role"]) == ("oidc:alice@example.com", "operator")
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("gg_session", True, "Strict")
    page.reload()
    page.get_by_role("heading", name="Now", level=1).wait_for()
    page.get_by_role("button", name="Log out").first.click()
    expect(page.get_by_label("Admin token")).to_be_visible()
    assert page.context.cookies() == []
    assert who(page)["error"]["code"] == "unauthorized"


def test_without_a_role_a_page_says_so_and_leads_back(
    gateway: ThreadedGateway, issuer: Issuer, page: Page
) -> None:
    person, issuer.person = issuer.person, {**issuer.person, "groups": []}
    try:
        page.goto(f"{gateway.url}/dashboard/oidc/login")
        expect(page.get_by_text("you have no role here")).to_be_visible()
        page.get_by_role("link", name="To the dashboard").click()
        expect(page.get_by_label("Admin token")).to_be_visible()
    finally:
        issuer.person = person


@pytest.mark.parametrize("site", ["127.0.0.1", "localhost"])
def test_a_page_elsewhere_learns_nothing_and_changes_nothing(
    gateway: ThreadedGateway, page: Page, site: str
) -> None:
    """On `127.0.0.1` it is of the same site, so that the browser sends our cookie along."""
    log_in(page, gateway)
    admin = Admin(gateway)
    attacker = admin.post("/tokens", {"name": f"attacker-{site}", "role": "admin"})["token"]
    assert attacker != ADMIN_TOKEN
    sent: list[bool] = []
    page.context.on(
        "request",
        lambda request: sent.append("gg_session" in request.all_headers().get("cookie", "")),
    )
    with hostile_page(ATTACK.format(gateway=gateway.url, token=attacker)) as port:
        page.goto(f"http://{site}:{port}/")
        page.wait_for_function("document.title.startsWith('{')")
        tried = json.loads(page.title())
    assert tried == {
        "read": "failed",
        "who": "failed",
        "simple": "opaque",
        "json": "failed",
        "out": "failed",
        "in": "opaque",
    }
    assert any(sent) is (site == "127.0.0.1")
    assert admin.get("/kills")["data"] == []
    page.goto(f"{gateway.url}/dashboard")
    page.get_by_role("heading", name="Now", level=1).wait_for()
    assert who(page)["name"] == "oidc:alice@example.com"
