"""No secret is compared by `==`, which tells by its time how much of a guess was right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.security.sources import nodes

_WORDS = "secrets?|tokens?|passwords?|credentials?|signature|csrf|nonce|hmac|mac|digests?|api_?key|verifier|state|tag"
SECRET = re.compile(rf"(?i)(^|_)({_WORDS})$")
"""How things are called that must not be guessed."""
REVIEWED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("gateway/policy/reload.py", ("before.digest != seen.digest", "seen.digest == self._loaded_digest"), "of a file"),
    ("gateway/retention.py", ("erasure.state != state",), "a word for progress"),
    ("gateway/rules/contracts.py", ("known != definition_digest(tool)",), "of a tool's definition"),
    ("gateway/screening/classifier.py", ("fingerprint(place) != setup.digest",), "of a model's files"),
    ("gateway/screening/pii_validators.py", ("hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]",),
     "the checksum of an address"),
    ("gateway/stores/audit_chain.py", ("record.hash != digest",), "of a record that is open to whoever reads it"),
    ("gateway/stores/ledger_approvals.py", ("a.state == state",), "SQL; a word for progress"),
    ("gateway/stores/ledger_audit.py", ("_digest(texts) != record.details.get('digest')", "step_digest(row) == digest"),
     "of records"),
    ("gateway/stores/ledger_credentials.py",
     ("c.digest == row['digest']", "c.id == credential", "f.credential == credential", "table.c.id == f.credential",
      "table.c.id == u.credential"), "SQL; HMACs and ids"),
    ("gateway/stores/ledger_reports.py", ("pairs.c['key'] == tag",), "SQL; the name of a tag"),
    ("gateway/stores/ledger_sessions.py", ("schema.sessions.c.digest == digest",), "SQL; an HMAC"),
    ("gateway/testing/generate.py", ("self.completion_tokens == self.generated",), "numbers"),
    ("gateway/testing/surfaces/message_input.py", ("signed != signature(str(block.get('thinking')))",), "simulated"),
    ("gateway/web/admin_credentials.py", ("digest != credential.digest",), "HMACs, one of them of a new secret"),
    ("gateway/web/admin_gate.py", ("token.id == record.token",), "ids"),
    ("gateway/web/admin_sessions.py", ("each.digest == ctx.caller.session",), "HMACs, both of them ours"),
)  # fmt: skip
"""(file, comparisons, what it is that they compare)."""


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _name(function)
        case ast.Subscript(value=value):
            return _name(value)
        case ast.Starred(value=value) | ast.Await(value=value):
            return _name(value)
    return ""


def comparisons() -> Iterator[tuple[str, str]]:
    """(file, source) of each equality in which something is called like a secret."""
    for file, node in nodes(rf"(?i)({_WORDS})[^\n]*[=!]=|[=!]=[^\n]*({_WORDS})"):
        if not isinstance(node, ast.Compare) or not all(
            isinstance(op, ast.Eq | ast.NotEq) for op in node.ops
        ):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant | ast.List | ast.Tuple | ast.Dict) for side in sides):
            continue
        if any(SECRET.search(_name(side)) for side in sides):
            yield file, ast.unparse(node)


def test_no_secret_is_compared_by_equality() -> None:
    found = set(comparisons())
    assert found, "nothing is found any more"
    assert [
        each for each in found if not any(each[0] == file and each[1] in told for file, told, _ in REVIEWED)
    ] == []


def test_secrets_are_compared_where_they_are_known_to_be() -> None:
    """Each by `compare_digest`, or looked up by its HMAC, which nobody can compute without the gateway's own."""
    found = {
        file
        for file, node in nodes("compare_digest")
        if isinstance(node, ast.Call)
        and _name(node.func) == "compare_digest"
        and not file.startswith("gateway/testing/")
    }
    assert found == {
        "gateway/web/admin_gate.py", "gateway/web/logins.py", "gateway/web/oidc.py", "gateway/web/sessions.py",
    }  # fmt: skip
