"""`gateway keys`, `gateway tokens` and `gateway sessions` against a real gateway."""

from __future__ import annotations

import json
import re

from tests.integration.admin.browsers import Browser
from tests.integration.admin.calls import Admin, chat
from tests.integration.admin.test_cli import run
from tests.support.gateway import ThreadedGateway


def test_a_key_is_made_used_rotated_and_revoked(gateway: ThreadedGateway) -> None:
    made = run(gateway, "keys", "create", "cli-key", "--team", "red", "--priority", "low")
    secret, key_id = made.splitlines()[0], re.findall(r"\((key_\w+)\); it is not shown again\.", made)[0]
    assert chat(gateway, key=secret)[0] == 200
    (row,) = [line for line in run(gateway, "keys", "list").splitlines() if "cli-key" in line]
    assert row.startswith(key_id)
    assert secret not in row
    assert "in force" in row

    turned = run(gateway, "keys", "rotate", key_id, "--grace", "1h")
    assert re.fullmatch(
        rf"gk_\S{{43}}\nThis is key cli-key \({key_id}\); it is not shown again\.\n"
        r"The old secret works until .+ UTC\.\n",
        turned,
    )
    assert [chat(gateway, key=each, text=each)[0] for each in (secret, turned.splitlines()[0])] == [200, 200]
    assert "old secret until" in run(gateway, "keys", "list")
    last = json.loads(run(gateway, "keys", "rotate", key_id, "--json"))
    assert chat(gateway, key=secret)[0] == 401
    assert chat(gateway, key=last["key"], text="last")[0] == 200
    assert "is revoked" in run(gateway, "keys", "revoke", key_id)
    assert chat(gateway, key=last["key"])[0] == 401
    assert "cli-key" not in run(gateway, "keys", "list")
    assert "revoked" in run(gateway, "keys", "list", "--all")


def test_a_rotation_wants_a_duration(gateway: ThreadedGateway) -> None:
    for grace in ("1", "h", "-1h", "1.5h", "1y", ""):
        assert "such as 30m, 1h or 7d" in run(gateway, "keys", "rotate", "key_x", f"--grace={grace}", check=2)
    assert "There is no key 'key_x' in force" in run(gateway, "keys", "rotate", "key_x", check=1)
    assert "body.grace_s" in run(gateway, "keys", "rotate", "key_x", "--grace", "31d", check=1)


def test_a_token_is_rotated_and_its_sessions_are_ended(gateway: ThreadedGateway, admin: Admin) -> None:
    made = json.loads(run(gateway, "tokens", "create", "cli-token", "--role", "operator", "--json"))
    browser = Browser(gateway).log_in(made["token"])
    listed = run(gateway, "sessions", "list")
    (row,) = [line for line in listed.splitlines() if "token:cli-token" in line]
    session = row.split()[0]
    assert run(gateway, "sessions", "end", session) == f"Session {session} is ended.\n"
    assert browser.call("GET", "/runs").status == 401
    assert "is not over" in run(gateway, "sessions", "end", session, check=1)
    again = Browser(gateway).log_in(made["token"])
    turned = run(gateway, "tokens", "rotate", made["id"])
    assert turned.endswith("The old secret is void.\n")
    assert again.call("GET", "/runs").status == 401
    assert admin.call("GET", "/runs", token=turned.splitlines()[0]).status == 200
    assert "expires" not in run(gateway, "tokens", "list")
