"""A small client of the admin API, for the command line and for scripts. Standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.auth import LOOPBACK_HOSTS

PREFIX = "/admin/v1"
TIMEOUT_S = 30.0


class ClientError(Exception):
    """The gateway answered with an error, or not in a way that can be understood; the text is a sentence.

    `status` is 0 where there was no answer.
    """

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(ClientError):  # noqa: N818 - reads as what it is
    """Nobody answers at the gateway's address."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to where it leads."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(slots=True)
class AdminClient:
    """Calls the admin API of the gateway at `url`. Every method raises `ClientError`."""

    url: str
    token: str = field(repr=False)
    timeout_s: float = TIMEOUT_S

    def get(self, path: str, **query: Any) -> Any:
        """A reading call. Parameters that are None are left out."""
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Any) -> Any:
        """A changing call."""
        return self._call("POST", path, body=body)

    def delete(self, path: str) -> Any:
        """A removing call."""
        return self._call("DELETE", path)

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every row of a list, page after page."""
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, **query)
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def lines(self, path: str, **query: Any) -> Iterator[bytes]:
        """The lines of an answer that is one JSON object a line, as they come."""
        with self._open("GET", path, query=query) as answer:
            yield from answer

    def _call(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        with self._open(method, path, query=query, body=body) as answer:
            return json.loads(answer.read())

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None
    ) -> Iterator[http.client.HTTPResponse]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        address = self.url.rstrip("/") + PREFIX + path
        if given:
            address += "?" + urllib.parse.urlencode(given)
        headers = {"authorization": f"Bearer {self.token}", "accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise ClientError(f"GATEWAY_URL: got {self.url!r}, expected http://HOST:PORT")
        try:
            request = urllib.request.Request(address, data, headers, method=method)  # noqa: S310 - checked above
            with self.opener().open(request, timeout=self.timeout_s) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code, error.read()) from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(
                f"No gateway answers at {self.url} ({reason}). Start one with `gateway serve`, or set "
                "GATEWAY_URL."
            ) from None
        except ValueError:
            raise ClientError(f"What answers at {self.url} is not a gateway's admin API.") from None

    def opener(self) -> urllib.request.OpenerDirector:
        """What opens the gateway's addresses: it follows no redirect, and no proxy to this machine."""
        host = urllib.parse.urlsplit(self.url).hostname or ""
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if host in LOOPBACK_HOSTS or host.startswith("127."):
            # A proxy of the environment cannot reach this machine's own loopback.
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)


def _refused(status: int, raw: bytes) -> ClientError:
    try:
        error = json.loads(raw)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return ClientError(f"The gateway answered {status}.", status)
    if status == 401:
        message = (
            "The admin token is missing or wrong: set GATEWAY_ADMIN_TOKEN, or GATEWAY_DATA_DIR to where "
            "it is kept."
        )
    return ClientError(message, status, code)


def quoted(part: str) -> str:
    """One segment of a path."""
    return urllib.parse.quote(part, safe="")
