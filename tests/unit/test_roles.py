"""Which role a person has by the claims of an ID token, and how that is written in the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.roles import RoleRule, parse_role_rules, role_of
from gateway.settings import Settings, SettingsError, from_environment

OIDC = {
    "GATEWAY_OIDC_ISSUER": "https://login.example.com/realms/a",
    "GATEWAY_OIDC_CLIENT_ID": "gateway",
    "GATEWAY_OIDC_ROLES": "groups:sre=operator",
}


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", []),
        (" , ,", []),
        ("groups:sre=operator", [("groups", "sre", "operator")]),
        (" groups : sre = viewer , ", [("groups", "sre", "viewer")]),
        ("a:b=viewer,c:d=admin", [("a", "b", "viewer"), ("c", "d", "admin")]),
        ("groups:a:b=admin", [("groups", "a:b", "admin")]),
        ("groups:cn=sre%2Cou=x=viewer", [("groups", "cn=sre,ou=x", "viewer")]),
        ("https%3A//example.com/roles:x=admin", [("https://example.com/roles", "x", "admin")]),
        ("groups:100%25=viewer", [("groups", "100%", "viewer")]),
        ("email:alice@example.com=admin", [("email", "alice@example.com", "admin")]),
    ],
)
def test_rules_are_read(text: str, rules: list[tuple[str, str, str]]) -> None:
    assert [(rule.claim, rule.value, rule.role) for rule in parse_role_rules(text)] == rules


@pytest.mark.parametrize(
    "text",
    ["sre=operator", "groups:sre", "groups:=viewer", ":sre=viewer", "groups:sre=root", "groups:sre=", "="],
)
def test_a_rule_that_makes_no_sense_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected claim:value=role with a role of viewer, operator, admin"):
        parse_role_rules(f"a:b=viewer,{text}")


@pytest.mark.parametrize(
    ("claims", "fits"),
    [
        ({"realm": {"roles": ["x", "y"]}}, True),
        ({"realm.roles": "x"}, True),
        ({"realm.roles": ["y"], "realm": {"roles": ["x"]}}, False),
        ({"realm": {"roles": "xy"}}, False),
        ({"realm": ["roles", "x"]}, False),
        ({"realm": None}, False),
        ({}, False),
    ],
)
def test_a_dotted_claim_reaches_into_objects(claims: dict[str, Any], fits: bool) -> None:
    assert RoleRule("realm.roles", "x", "viewer").fits(claims) is fits


def test_the_highest_role_counts_whatever_the_order() -> None:
    rules = parse_role_rules("g:a=admin,g:b=viewer,g:c=operator")
    for groups, role in (
        (["a", "b", "c"], "admin"),
        (["c", "b"], "operator"),
        (["b"], "viewer"),
        ([], None),
    ):
        rule = role_of({"g": groups}, rules)
        assert (rule.role if rule is not None else None) == role


# -- settings ----------------------------------------------------------------------------------------


def settings(**more: str) -> Settings:
    return from_environment({**OIDC, **{f"GATEWAY_{name.upper()}": value for name, value in more.items()}})


def test_oidc_is_off_unless_it_is_set_up() -> None:
    assert from_environment({}).oidc_issuer is None
    assert settings().oidc_scopes == "openid email profile"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"oidc_issuer": ""}, "GATEWAY_OIDC_ISSUER has to be given"),
        ({"oidc_issuer": "http://login.example.com"}, "expected the provider's https:// URL"),
        ({"oidc_issuer": "http://127.0.0.1.example.com"}, "expected the provider's https:// URL"),
        ({"oidc_issuer": "login.example.com"}, "expected the provider's https:// URL"),
        ({"oidc_issuer": "https://a@login.example.com"}, "expected the provider's https:// URL"),
        ({"oidc_issuer": "https://login.example.com/a b"}, "expected the provider's https:// URL"),
        ({"oidc_issuer": "https://login.example.com\n"}, "expected the provider's https:// URL"),
        ({"oidc_client_id": ""}, "GATEWAY_OIDC_CLIENT_ID has to be given"),
        ({"oidc_roles": ""}, "GATEWAY_OIDC_ROLES has to be given"),
        ({"oidc_roles": "x"}, "GATEWAY_OIDC_ROLES: got 'x'"),
        ({"oidc_scopes": "email"}, "expected openid among them"),
        ({"admin_listen": "0.0.0.0:8081", "admin_token": "x" * 20}, "GATEWAY_PUBLIC_URL has to be given"),
    ],
)
def test_what_is_missing_for_oidc_is_said(changed: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        settings(**changed)


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:9000", "http://localhost/x", "http://[::1]:1/"])
def test_a_provider_on_loopback_needs_no_tls(issuer: str) -> None:
    assert settings(oidc_issuer=issuer).oidc_issuer == issuer


def test_the_client_s_secret_may_be_mounted_and_never_prints(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("very-secret\n")
    found = settings(oidc_client_secret=f"file:{file}")
    assert found.oidc_client_secret == "very-secret"
    assert "very-secret" not in repr(found)
    with pytest.raises(SettingsError, match="GATEWAY_OIDC_CLIENT_SECRET"):
        settings(oidc_client_secret=f"file:{tmp_path / 'absent'}")
