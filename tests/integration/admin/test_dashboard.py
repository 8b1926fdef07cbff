"""The dashboard's files: served from a list of names, under a strict policy, small, and without a login."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path

import brotli
import pytest

from gateway.web.dashboard import LIBRARIES, STATIC, load
from tests.integration.admin.calls import Admin, Answer

CSP = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
VENDOR = STATIC / "vendor"
complete = pytest.mark.skipif(
    not (VENDOR / ".complete").exists(), reason="the dashboard's libraries are missing: make assets"
)


def fetch(admin: Admin, path: str, method: str = "GET", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return admin.call(method, path, token=None, prefix="", headers=sent)


def names(admin: Admin) -> list[str]:
    """Every address that the shell names."""
    return re.findall(r'(?:src|href)="([^"]+)"', fetch(admin, "/dashboard").raw.decode())


def test_the_shell_needs_no_login_and_shows_nothing_secret(admin: Admin) -> None:
    answer = fetch(admin, "/dashboard")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert fetch(admin, "/dashboard/").raw == answer.raw
    assert admin.token is not None
    assert admin.token.encode() not in answer.raw


@complete
def test_the_policy_of_its_content_lets_in_its_own_files_and_its_import_map_alone(admin: Admin) -> None:
    answer = fetch(admin, "/dashboard")
    inline = re.findall(r"<script(?![^>]* src=)[^>]*>(.*?)</script>", answer.raw.decode(), re.DOTALL)
    assert len(inline) == 1
    assert "style=" not in answer.raw.decode()
    digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == CSP.format(hashes=f" 'sha256-{digest}'")
    script = next(name for name in names(admin) if name.endswith("app.js"))
    assert fetch(admin, script).headers["content-security-policy"] == CSP.format(hashes="")


@complete
def test_everything_that_it_loads_is_here_and_stays_in_the_browser(admin: Admin) -> None:
    seen: set[str] = set()
    waiting = names(admin)
    total = 0
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        assert name.startswith("/dashboard/static/")
        answer = fetch(admin, name)
        assert answer.status == 200, name
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        if name.endswith(("js", "mjs")):
            total += len(answer.raw)
            for other in re.findall(r'(?:from|import)\s*"(\.[^"]+)"', answer.raw.decode()):
                folder = Path(name).parent
                waiting.append(str((folder / other).resolve()))
        if name.endswith(".css"):
            assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", answer.raw.decode())
    assert len(seen) > 15
    assert 0 < total < 300_000


def test_no_file_of_ours_names_another_host() -> None:
    for path in STATIC.rglob("*"):
        if path.is_file() and "vendor" not in path.parts and path.suffix in (".js", ".css", ".html"):
            hosts = set(re.findall(r"https?://[^\s\"'<>)]+", path.read_text()))
            assert hosts == set(), path.name


def test_no_text_of_ours_becomes_markup() -> None:
    """Every value is a text node or an attribute."""
    for path in (*STATIC.glob("*.js"), *STATIC.glob("pages/*.js")):
        source = path.read_text()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "dangerouslySet",
            "eval(",
        ):
            assert word not in source, f"{path.name}: {word}"


@complete
@pytest.mark.parametrize("encoding", ["br", "gzip", "identity"])
def test_it_is_sent_in_the_encoding_that_is_accepted(admin: Admin, encoding: str) -> None:
    script = next(name for name in names(admin) if name.endswith("app.js"))
    answer = fetch(admin, script, accept_encoding=f"{encoding}, deflate;q=0.5")
    plain = fetch(admin, script).raw
    unpack = {"br": brotli.decompress, "gzip": gzip.decompress, "identity": bytes}[encoding]
    assert answer.headers.get("content-encoding", "identity") == encoding
    assert unpack(answer.raw) == plain
    assert answer.headers["vary"] == "accept-encoding"
    assert len(answer.raw) < len(plain) or encoding == "identity"


@complete
def test_an_encoding_of_weight_zero_is_not_sent(admin: Admin) -> None:
    answer = fetch(admin, "/dashboard", accept_encoding="br;q=0, gzip; q=0.0")
    assert "content-encoding" not in answer.headers


def test_a_file_that_is_known_is_not_sent_again(admin: Admin) -> None:
    first = fetch(admin, "/dashboard", accept_encoding="gzip")
    tag = first.headers["etag"]
    again = fetch(admin, "/dashboard", accept_encoding="gzip", if_none_match=f'"other", W/{tag}')
    assert (again.status, again.raw) == (304, b"")
    assert again.headers["etag"] == tag
    assert "content-type" not in again.headers
    assert fetch(admin, "/dashboard", if_none_match=tag).status == 200


def test_head_tells_the_length_and_sends_nothing(admin: Admin) -> None:
    whole, head = fetch(admin, "/dashboard"), fetch(admin, "/dashboard", "HEAD")
    assert (head.status, head.raw) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.raw))


@pytest.mark.parametrize(
    "path",
    ["..%2f..%2fsettings.py", "../dashboard.py", "%2e%2e/app.js", "app.js", "vendor/.complete", "", "/etc/passwd",
     "0000000000000000/app.js", "\\..\\x"],
)  # fmt: skip
def test_no_path_leads_elsewhere(admin: Admin, path: str) -> None:
    answer = fetch(admin, f"/dashboard/static/{path}")
    assert answer.status == 404
    assert answer.code == "not_found"


def test_other_methods_are_refused(admin: Admin) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = fetch(admin, "/dashboard", method)
        assert (answer.status, answer.code) == (405, "method_not_allowed")


def test_a_name_that_points_at_this_machine_does_not_reach_it(admin: Admin) -> None:
    assert fetch(admin, "/dashboard", host="evil.example").code == "forbidden_host"


def test_without_the_libraries_the_shell_says_how_to_get_them(tmp_path: Path) -> None:
    for name in ("index.html", "missing.html", "app.css", "theme.js", "icon.svg"):
        (tmp_path / name).write_bytes((STATIC / name).read_bytes())
    page = load(tmp_path)["/dashboard"]
    assert b"make assets" in page.plain
    assert page.policy.decode() == CSP.format(hashes="")
    (tmp_path / "vendor").mkdir()
    for name in LIBRARIES:
        (tmp_path / "vendor" / name).write_bytes(b"x")
    assert b"importmap" in load(tmp_path)["/dashboard"].plain
