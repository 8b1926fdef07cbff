"""Raw calls of the admin plane: any credential, any bytes, and the answer as it came."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.gateway import ADMIN_TOKEN, ALICE, Gateway, ThreadedGateway


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        """The error's code; the shape of every error is checked by asking for it."""
        assert set(self.body) == {"error"}
        assert set(self.body["error"]) == {"code", "message"}
        assert self.headers["content-type"] == "application/json"
        return str(self.body["error"]["code"])


@dataclass
class Roles:
    """A token for each role, made through the API."""

    viewer: str
    operator: str
    admin: str = ADMIN_TOKEN


@dataclass
class Admin:
    """The admin plane of one gateway; by default with the admin token."""

    gateway: ThreadedGateway
    token: str | None = ADMIN_TOKEN

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
        prefix: str = "/admin/v1",
    ) -> Answer:
        """`token=None` sends none; `body` may be bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)
        sent = {"content-type": "application/json"} if body is not None else {}
        token = self.token if token == "" else token
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        sent.update(headers or {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, prefix + path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Any:
        answer = self.call("GET", path, **options)
        assert answer.status == 200, answer.raw
        return answer.body

    def post(self, path: str, body: Any, **options: Any) -> Any:
        answer = self.call("POST", path, body, **options)
        assert answer.status in (200, 201), answer.raw
        return answer.body

    def delete(self, path: str, **options: Any) -> Any:
        answer = self.call("DELETE", path, **options)
        assert answer.status == 200, answer.raw
        return answer.body

    def changes(self, count: int) -> list[Any]:
        """The newest records of what operators did, without what the gateway and its workers did about it."""
        records = self.get("/audit?limit=50")["data"]
        own = ("worker:", "gateway")
        return [each for each in records if not each["actor"].startswith(own)][:count]


def chat(
    gateway: ThreadedGateway,
    model: str = "sim/echo",
    text: str = "Hello",
    *,
    key: str = ALICE,
    **headers: str,
) -> tuple[int, dict[str, str], Any]:
    """One plain step: (status, headers, parsed answer)."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    status, got, raw = gateway.post(body, key=key, **headers)
    return status, got, json.loads(raw)


@dataclass
class Stream:
    """A streamed step that a thread reads until it ends, one way or another."""

    gateway: Gateway
    headers: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def open(self, model: str = "sim/slow", key: str = ALICE, **headers: str) -> Stream:
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        # Each asks for something else: the same body again would be a retry of a stream that was stopped.
        text = f"Take your time. {uuid.uuid4()}"
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), sent)
        answer = connection.getresponse()
        self.headers = {k.lower(): v for k, v in answer.headers.items()}
        assert answer.status == 200, answer.read()

        def read() -> None:
            try:
                self.lines.extend(line.decode().rstrip("\n") for line in answer)
            except BaseException as error:  # a cut connection is what the tests look for
                self.failure = error
            finally:
                connection.close()
                self.ended.set()

        threading.Thread(target=read, daemon=True).start()
        return self

    def last(self) -> Any:
        """The last event's data before `[DONE]`."""
        data = [line[6:] for line in self.lines if line.startswith("data: ")]
        return json.loads(data[-1] if data[-1] != "[DONE]" else data[-2])


@dataclass
class Listening:
    """The event stream, read by a thread."""

    admin: Admin
    events: list[tuple[str, Any]] = field(default_factory=list)
    comments: int = 0
    closed: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Listening:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin.gateway.port, timeout=30)
        connection.request("GET", "/admin/v1/events", headers={"authorization": f"Bearer {self.admin.token}"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        def read() -> None:
            kind = ""
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    self.events.append((kind, json.loads(line[6:])))
                elif line.startswith(":"):
                    self.comments += 1
            self.closed.set()

        threading.Thread(target=read, daemon=True).start()
        return self

    def of(self, kind: str) -> list[Any]:
        return [facts for name, facts in self.events if name == kind]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work gives and how many seconds it took."""
    began = time.monotonic()
    result = work()
    return result, time.monotonic() - began
