"""A browser as far as logins are concerned: it keeps cookies, and says where a request comes from."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

from tests.integration.admin.calls import Answer
from tests.support.gateway import Gateway


@dataclass
class Browser:
    """Sends `Origin` and `Sec-Fetch-Site` as Chromium does for a page of the gateway's own."""

    gateway: Gateway
    cookies: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    """Of each cookie, as it was set last."""
    csrf: str = ""

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str | None] | None = None,
        prefix: str = "/admin/v1",
    ) -> Answer:
        """`headers` with None leave out what would be sent; `body` may be bytes."""
        sent: dict[str, str | None] = {"sec-fetch-site": "same-origin"}
        if method not in ("GET", "HEAD"):
            sent["origin"] = self.gateway.url
            sent["x-csrf-token"] = self.csrf or None
        if body is not None:
            sent["content-type"] = "application/json"
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent.update(headers or {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)
        try:
            connection.request(method, prefix + path, data, {n: v for n, v in sent.items() if v is not None})
            answer = connection.getresponse()
            for each in answer.headers.get_all("set-cookie") or []:
                self._keep(each)
            # A stream of events would never end.
            endless = answer.headers.get("content-type", "").startswith("text/event-stream")
            raw = b"" if endless else answer.read()
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, raw)
        finally:
            connection.close()

    def dashboard(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        return self.call(method, path, body, prefix="/dashboard", **options)

    def log_in(self, token: str) -> Browser:
        answer = self.dashboard("POST", "/session", {"token": token})
        assert answer.status == 204, answer.raw
        assert answer.raw == b""
        return self.known()

    def known(self) -> Browser:
        """With the CSRF token of the session."""
        self.csrf = self.who()["csrf"]
        return self

    def who(self) -> Any:
        answer = self.dashboard("GET", "/session")
        assert answer.status == 200, answer.raw
        return answer.body

    def _keep(self, header: str) -> None:
        morsel = next(iter(SimpleCookie(header).values()))
        self.attributes[morsel.key] = header.partition(";")[2].strip()
        if morsel["max-age"] == "0":
            self.cookies.pop(morsel.key, None)
        else:
            self.cookies[morsel.key] = morsel.value
