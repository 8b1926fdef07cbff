"""Who may call, and which calls a rule is narrowed to."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from gateway.domain import Surface
from gateway.policy.fields import (
    Instant,
    Label,
    ModelName,
    Name,
    OneOrMore,
    Secret,
    TagMatch,
    ToolLevel,
    wildcard_matches,
)
from gateway.policy.sections.base import Section


class Auth(Section):
    """Who may call the gateway."""

    mode: Literal["keys", "passthrough", "open"] = "keys"
    """`keys`: gateway keys. `passthrough`: the caller's own provider credential. `open`: anyone on this
    machine; served on loopback alone."""
    provider: Name | None = None
    """The one provider that `passthrough` credentials go to."""
    user_from: Literal["key", "header", "body"] = "key"
    """Where `per: user` finds its user: the key's `user`, or an end user named by the caller as well."""


class Key(Section):
    """A gateway key: a caller's credential, and what it stands for."""

    name: Name
    """What the key is called in logs, metrics and the admin API."""
    key: Secret
    """The secret that the caller sends."""
    user: Label | None = None
    """Whose `per: user` limits it counts against."""
    team: Label | None = None
    """Whose `per: team` limits it counts against."""
    models: tuple[ModelName, ...] | None = None
    """Models it may reach, by reroutes and fallbacks too; absent means all. `*` at the end is a wildcard."""
    max_tool_level: ToolLevel = "dangerous"
    """The most dangerous tools its callers may use: those of a higher `level` are withheld and not
    delivered."""
    expires_at: Instant | None = None
    """From when on it is refused."""
    priority: Literal["low", "normal", "high"] = "normal"
    """Whose calls come first where calls wait for a provider. A caller can lower it by the header
    `x-guardrail-priority`, and not raise it."""


Names = Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore]


class Match(Section):
    """What a rule is narrowed to. Every key given must match; of a list, one entry must."""

    key: Names | None = None
    """Names of gateway keys."""
    user: Names | None = None
    """Users."""
    team: Names | None = None
    """Teams."""
    model: Annotated[tuple[ModelName, ...], Field(min_length=1), OneOrMore] | None = None
    """Models asked for; `*` at the end is a wildcard."""
    surface: Annotated[tuple[Surface, ...], Field(min_length=1), OneOrMore] | None = None
    """Wire APIs."""
    agent: Names | None = None
    """Agents: the `agent` tag, else the digest of key and tool names."""
    tag: Annotated[tuple[TagMatch, ...], Field(min_length=1), OneOrMore] | None = None
    """Tags as `name=value`."""

    def covers(
        self,
        *,
        key: str | None = None,
        user: str | None = None,
        team: str | None = None,
        model: str | None = None,
        surface: Surface | None = None,
        agent: str | None = None,
        tags: Mapping[str, str] = types.MappingProxyType({}),
    ) -> bool:
        """Whether a call with these traits is meant. What is unknown (`None`) matches no given key."""
        exact = ((self.key, key), (self.user, user), (self.team, team), (self.agent, agent))
        return (
            all(wanted is None or trait in wanted for wanted, trait in exact)
            and (self.surface is None or surface in self.surface)
            and (self.model is None or (model is not None and model_allowed(self.model, model)))
            and (self.tag is None or any(f"{name}={value}" in self.tag for name, value in tags.items()))
        )


EVERYTHING = Match()


def model_allowed(patterns: Iterable[str], name: str) -> bool:
    """Whether a list of models, as in `keys[].models` or `match.model`, covers `name`."""
    return any(wildcard_matches(pattern, name) for pattern in patterns)
