"""The dashboard's files: what a browser needs before anyone has logged in.

`Dashboard` answers GET and HEAD for the shell and for the files of `static/`, which are read and compressed
once, when the process starts; only names that were found then are served, so no path can lead elsewhere. It
holds nothing secret: everything that is shown comes from `/admin/v1`, behind the door. Every other path is
left to the application around which it stands.

The files live under a name that holds their digest, so that browsers keep them for ever and still get a new
version at once. The libraries in `static/vendor` are fetched by `make assets`; without them the shell is a
page that says so.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import brotli

from gateway.web.admin_gate import (
    AdminError,
    ensure_no_foreign_page,
    error_response,
    with_security_headers,
)
from gateway.web.asgi import Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
PREFIX = "/dashboard/static/"
SHELL_PATHS = ("/dashboard", "/dashboard/")
SHELL, MISSING = "index.html", "missing.html"
LIBRARIES = ("preact.mjs", "preact-hooks.mjs", "htm.mjs", "uplot.js", "uplot.css", "inter.woff2")
"""What the shell does not work without, in `static/vendor`."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_COMPRESSED = frozenset({".html", ".css", ".js", ".mjs", ".svg"})
_IMPORT_MAP = re.compile(rb'<script type="importmap">(.*?)</script>', re.DOTALL)
_PLACEHOLDER = b"{{static}}"

_POLICY = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file in every encoding that it is sent in."""

    media_type: str
    etag: bytes
    plain: bytes
    gzip: bytes | None
    brotli: bytes | None
    policy: bytes
    cache: bytes

    def encoded(self, accepted: bytes) -> tuple[bytes, bytes]:
        """(encoding, bytes) by an `Accept-Encoding` header; the encoding is empty for the file as it is."""
        names = {
            name.strip().lower()
            for name, _, weight in (part.partition(b";") for part in accepted.split(b","))
            if weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
        }
        if self.brotli is not None and b"br" in names:
            return b"br", self.brotli
        if self.gzip is not None and b"gzip" in names:
            return b"gzip", self.gzip
        return b"", self.plain


class Dashboard:
    """An ASGI application around the admin plane; `local` and `public_url` as in `ensure_no_foreign_page`."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        local: bool,
        public_url: str | None = None,
        folder: Path = STATIC,
    ) -> None:
        self.app = app
        self.local = local
        self.public_url = public_url
        self.assets = load(folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        path: str = scope["path"]
        asset = self.assets.get(path)
        if asset is None and not path.startswith(PREFIX):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            ensure_no_foreign_page(headers, local=self.local, public_url=self.public_url)
            if asset is None:
                raise AdminError(404, "not_found", "The dashboard has no such file.")
            if scope["method"] not in ("GET", "HEAD"):
                raise AdminError(405, "method_not_allowed", "Method Not Allowed")
        except AdminError as error:
            await error_response(error)(scope, receive, with_security_headers(send))
            return
        await _send(asset, headers, scope["method"] == "HEAD", send)


async def _send(asset: Asset, headers: dict[bytes, bytes], head: bool, send: Send) -> None:
    encoding, body = asset.encoded(headers.get(b"accept-encoding", b""))
    # One tag for each encoding: a cache must not take one for the other.
    etag = b'"%b%b"' % (asset.etag, b"-" + encoding if encoding else b"")
    known = _matches(headers.get(b"if-none-match", b""), etag)
    answer = [
        (b"etag", etag),
        (b"cache-control", asset.cache),
        (b"vary", b"accept-encoding"),
        (b"content-security-policy", asset.policy),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ]
    if not known:
        answer += [
            (b"content-type", asset.media_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        if encoding:
            answer.append((b"content-encoding", encoding))
    await send({"type": "http.response.start", "status": 304 if known else 200, "headers": answer})
    await send({"type": "http.response.body", "body": b"" if known or head else body})


def _matches(wanted: bytes, etag: bytes) -> bool:
    tags = {tag.strip().removeprefix(b"W/") for tag in wanted.split(b",")}
    return etag in tags or b"*" in tags


# -- reading -----------------------------------------------------------------------------------------


def load(folder: Path = STATIC) -> dict[str, Asset]:
    """Every file to be served, by its path."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TYPES
    }
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(b"%d %b %d " % (len(name), name.encode(), len(content)) + content)
    base = f"{PREFIX}{digest.hexdigest()[:16]}/"
    pages = {name: files.pop(name).replace(_PLACEHOLDER, base.encode()) for name in (SHELL, MISSING)}
    complete = all(f"vendor/{name}" in files for name in LIBRARIES)
    shell = _asset(SHELL, pages[SHELL if complete else MISSING], b"no-cache")
    assets = dict.fromkeys(SHELL_PATHS, shell)
    for name, content in files.items():
        assets[base + name] = _asset(name, content, b"public, max-age=31536000, immutable")
    return assets


@lru_cache(maxsize=128)
def _asset(name: str, content: bytes, cache: bytes) -> Asset:
    suffix = name[name.rindex(".") :]
    packed = suffix in _COMPRESSED
    return Asset(
        media_type=_TYPES[suffix],
        etag=hashlib.sha256(content).hexdigest()[:32].encode(),
        plain=content,
        gzip=gzip.compress(content, 6, mtime=0) if packed else None,
        brotli=brotli.compress(content, quality=8) if packed else None,
        policy=_policy(_IMPORT_MAP.findall(content) if suffix == ".html" else ()),
        cache=cache,
    )


def _policy(scripts: Iterable[bytes]) -> bytes:
    """The content security policy of a page with these inline scripts, which are import maps."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    return _POLICY.format(hashes="".join(f" 'sha256-{each}'" for each in hashes)).encode()
