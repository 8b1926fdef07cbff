"""Real proxies in front of a gateway, as people set them up, each with a log of what it took for a request."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

_PLACES = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", os.environ.get("PATH", "")])
NGINX = shutil.which("nginx", path=_PLACES)
HAPROXY = shutil.which("haproxy", path=_PLACES)

_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format seen '$upstream_addr|$request_method|$request_uri|$http_authorization';
    access_log {folder}/access.log seen;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    underscores_in_headers on;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream gateway {{ server 127.0.0.1:{upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location /internal/ {{ internal; return 200 "internal secret"; }}
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_request_buffering {buffering};
            proxy_buffering off;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""
_HAPROXY = """
global
    log 127.0.0.1:{log} local0
defaults
    mode http
    log global
    option http-keep-alive
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    timeout http-request 5s
    log-format "%ST|%s|%HM|%HU"
frontend callers
    bind 127.0.0.1:{port}
    {tolerance}
    default_backend gateway
backend gateway
    http-reuse always
    server gateway 127.0.0.1:{upstream} pool-max-conn 1 maxconn 1
"""


@dataclass
class Proxy:
    """A proxy that runs. `seen` are the requests that it handed on, by its own log."""

    name: str
    port: int
    folder: Path
    log: socket.socket | None = None

    def seen(self) -> list[str]:
        """Each request that went to the gateway, oldest first."""
        if self.log is None:
            lines = (self.folder / "access.log").read_text(errors="replace").splitlines()
            return [line for line in lines if not line.startswith("-|")]
        path = self.folder / "requests.log"
        with path.open("a") as kept, contextlib.suppress(BlockingIOError):
            while True:
                kept.write(self.log.recv(65536).decode("utf-8", "replace").strip() + "\n")
        lines = [line.rpartition("]: ")[2] for line in path.read_text().splitlines()]
        return [line for line in lines if line.count("|") == 3 and "|<NOSRV>|" not in line]


@contextlib.contextmanager
def nginx(upstream: int, folder: Path, *, buffering: bool) -> Iterator[Proxy]:
    """nginx with one kept connection, and WebSocket's headers handed on as half of the world copies it."""
    folder.mkdir(parents=True)
    # Its worker may be another user than the one that made the folder.
    folder.chmod(0o777)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=folder, upstream=upstream, port=port, buffering="on" if buffering else "off")
    )
    assert NGINX is not None
    command = [NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    if os.getuid() == 0:
        command += ["-g", "user root;"]
    with _running(command, folder, port):
        yield Proxy("nginx", port, folder)


@contextlib.contextmanager
def haproxy(upstream: int, folder: Path, *, tolerant: bool) -> Iterator[Proxy]:
    """HAProxy with one connection for all callers; `tolerant` lets through what it would refuse by itself."""
    folder.mkdir(parents=True)
    port = free_port()
    log = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    log.bind(("127.0.0.1", 0))
    log.setblocking(False)
    config = folder / "haproxy.cfg"
    tolerance = "option accept-invalid-http-request" if tolerant else ""
    config.write_text(
        _HAPROXY.format(log=log.getsockname()[1], upstream=upstream, port=port, tolerance=tolerance)
    )
    assert HAPROXY is not None
    try:
        with _running([HAPROXY, "-db", "-f", str(config)], folder, port):
            yield Proxy("haproxy", port, folder, log)
    finally:
        log.close()


@contextlib.contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {(folder / 'output').read_text()}")
            time.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
