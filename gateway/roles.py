"""Operators' roles, and which of them a person has by what an OIDC provider says of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import unquote

Role = Literal["viewer", "operator", "admin"]
RANKS: dict[str, int] = {"viewer": 1, "operator": 2, "admin": 3}


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Whoever has this value in this claim has this role."""

    claim: str
    """A claim's name, or the way to one inside of others: `realm_access.roles`."""
    value: str
    role: Role

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Whether an ID token's claims have the value. An e-mail address counts only when it is verified:
        elsewhere people choose their own."""
        if self.claim == "email":
            return claims.get("email_verified") is True and claims.get("email") == self.value
        found = _claim(claims, self.claim)
        return self.value in found if isinstance(found, list) else found == self.value


def parse_role_rules(text: str) -> tuple[RoleRule, ...]:
    """From `claim:value=role,…`, percent-decoded. Raises `ValueError` with the part that makes no sense."""
    rules = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        what, _, role = part.rpartition("=")
        claim, _, value = what.partition(":")
        claim, value, role = unquote(claim.strip()), unquote(value.strip()), role.strip()
        if not claim or not value or role not in RANKS:
            raise ValueError(f"got {part!r}, expected claim:value=role with a role of {_ROLES}")
        rules.append(RoleRule(claim, value, role))  # type: ignore[arg-type]  # a key of RANKS
    return tuple(rules)


def role_of(claims: Mapping[str, Any], rules: Sequence[RoleRule]) -> RoleRule | None:
    """The rule that gives the highest role; None when none does."""
    return max((rule for rule in rules if rule.fits(claims)), key=lambda rule: RANKS[rule.role], default=None)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


_ROLES = ", ".join(get_args(Role))
