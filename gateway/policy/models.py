"""The policy: all sections of a policy file together, as one frozen value.

What each section may hold is in `sections/`, by subject, what one value may look like in `fields.py`, what
must hold between values in `checks.py`; `loading.py` makes a `Policy` from files. Nothing here reads a file,
a clock or the environment.

The docstring under a field is its documentation: the JSON Schema and the table in docs/policy.md are made
from it. Units are in the names: `_s` and `_seconds` are seconds, `_usd` are dollars (`Decimal`),
`_nano` are integer nano-dollars, `per_mtok` is per million tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr

from gateway.policy.fields import Count, Label, ModelName, Name, OneOrMore, best_pattern
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import Auth, Key
from gateway.policy.sections.loops import Loops
from gateway.policy.sections.operations import (
    Alert,
    Audit,
    PassthroughRoute,
    Recording,
    Retention,
    Server,
    Tracing,
)
from gateway.policy.sections.providers import Model, Provider
from gateway.policy.sections.reuse import Cache, Context
from gateway.policy.sections.routing import Routing
from gateway.policy.sections.screening import Screening
from gateway.policy.sections.spending import Budget, Rate, Runs
from gateway.policy.sections.tools import NO_CONTRACT, Approvals, Claims, Tool


class Profile(Section):
    """Other rules for some keys: each section that is given stands in the place of the policy's own."""

    keys: Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore]
    """Names of the keys, of the file or made by the API."""
    default_max_output_tokens: Count | None = None
    """Output limit set for a caller that gives none."""
    budgets: tuple[Budget, ...] | None = None
    """Limits in money. A budget of the same name and scope counts in the same place as the policy's own."""
    runs: Runs | None = None
    """Limits of a run; `idle_ttl_s` and `text_agent_gap_s` are always the policy's own."""
    loops: Loops | None = None
    """Loop detection."""
    rates: tuple[Rate, ...] | None = None
    """Limits in calls, tokens and runs over time."""
    tools: Mapping[Label, Tool] | None = None
    """Tool contracts."""
    approvals: Approvals | None = None
    """How long tool calls wait for an operator."""
    claims: Claims | None = None
    """Claims of actions that never happened."""
    routing: Routing | None = None
    """Which model serves a step."""
    screening: Screening | None = None
    """What is looked for in texts."""
    context: Context | None = None
    """How tool results are shortened."""
    cache: Cache | None = None
    """Answers that are given again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model name leads."""

    requested: str
    entry: str
    """The key of `models` that covers it, perhaps a wildcard."""
    model: Model
    provider_name: str
    provider: Provider | None
    """`None` exactly when `off_because` is given."""
    upstream_model: str
    off_because: str | None
    """Why the provider is switched off, such as `OPENAI_API_KEY is unset`."""


class Policy(Section):
    """A whole policy: one file, or the files of a folder merged in the order of their names."""

    model_config = ConfigDict(title="Guardrail gateway policy")

    format_version: Literal[1] = Field(alias="version")
    """Version of the policy language."""
    providers: Mapping[Name, Provider] = {}
    """Services that run models, by name. One whose `${NAME}` is unset is switched off with a warning."""
    models: Mapping[ModelName, Model] = {}
    """Models that callers may ask for, by name; `*` at the end of a name is a wildcard."""
    default_max_output_tokens: Count = 8192
    """Output limit set for a caller that gives none, unless the model or the budget allows less."""
    auth: Auth = Auth()
    """Who may call."""
    keys: tuple[Key, ...] = ()
    """Gateway keys, besides those made by the admin API."""
    budgets: tuple[Budget, ...] = ()
    """Limits in money. A call must fit into every one that applies to it."""
    runs: Runs = Runs()
    """Limits of a run, and its boundaries."""
    loops: Loops | None = None
    """Loop detection; absent means none."""
    rates: tuple[Rate, ...] = ()
    """Limits in calls, tokens and runs over time."""
    tools: Mapping[Label, Tool] = {}
    """Tool contracts by tool name; the entry `defaults` speaks for all tools. Without this section no tool
    call is judged."""
    approvals: Approvals = Approvals()
    """How long tool calls wait for an operator."""
    claims: Claims | None = None
    """Claims of actions that never happened; absent means `shadow` with the built-in verbs."""
    routing: Routing = Routing()
    """Which model serves a step."""
    screening: Screening = Screening()
    """What is looked for in texts."""
    context: Context | None = None
    """How tool results are shortened before the model reads them again; absent means not at all."""
    cache: Cache = Cache()
    """Answers that are given again without asking the provider."""
    alerts: tuple[Alert, ...] = ()
    """Webhooks. One whose `${NAME}` is unset is switched off with a warning."""
    audit: Audit = Audit()
    """The audit log."""
    recording: Recording | None = None
    """What is kept of steps besides their facts; nothing without this section."""
    tracing: Tracing = Tracing()
    """What traces tell."""
    retention: Retention = Retention()
    """How long the ledger keeps what happened; absent means for ever."""
    passthrough: tuple[PassthroughRoute, ...] = ()
    """Provider paths beyond the gateway's own that are forwarded; every other path is answered 404."""
    server: Server = Server()
    """Limits on the HTTP side."""
    profiles: Mapping[Name, Profile] = {}
    """Other rules for some keys."""

    _version: str = PrivateAttr("")
    _warnings: tuple[str, ...] = PrivateAttr(())
    _source: tuple[Path, ...] = PrivateAttr(())
    _secret_files: Mapping[Path, str] = PrivateAttr(default_factory=dict)
    _switched_off: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _switched_off_alerts: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _document: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _contracts: Mapping[str, Tool] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _: Any) -> None:
        """Merges the tool contracts once, for each call of a tool looks its own up."""
        defaults = self.tools.get("defaults", Tool())
        self._contracts = {
            name: defaults.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})
            for name, own in self.tools.items()
        }

    def under(self, profile: Profile) -> Policy:
        """The policy for the keys of a profile."""
        given = {
            name: value
            for name in profile.model_fields_set
            # Without a value there is none of what may be absent; everything else is as without the profile.
            if (value := getattr(profile, name)) is not None or name in ("loops", "context")
        }
        given.pop("keys", None)
        policy = self.model_copy(update={**given, "profiles": {}})
        policy.model_post_init(None)
        return policy

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that name the content, with no `${NAME}` or `file:` expanded."""
        return self._version

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know though the policy is valid, one sentence with its place each."""
        return self._warnings

    @property
    def source(self) -> tuple[Path, ...]:
        """The files it was read from, in the order of merging; empty when it was sent as text."""
        return self._source

    @property
    def secret_files(self) -> Mapping[Path, str]:
        """The files that `file:` values were read from, each with a digest of its content."""
        return self._secret_files

    @property
    def switched_off(self) -> Mapping[str, str]:
        """Providers that the file names and the gateway cannot use, with the reason of each."""
        return self._switched_off

    @property
    def switched_off_alerts(self) -> Mapping[str, str]:
        """Alerts that the file names and the gateway cannot send, with the reason of each."""
        return self._switched_off_alerts

    @property
    def document(self) -> Mapping[str, Any]:
        """The merged document as written, nothing expanded. It may hold literal secrets: see `shown()`."""
        return self._document

    def find_model(self, name: str) -> Target | None:
        """Where `name` leads: its own entry, else the wildcard with the longest prefix, else `None`."""
        entry = best_pattern(self.models, name)
        if entry is None:
            return None
        model = self.models[entry]
        upstream = model.upstream_model or name
        if entry.endswith("*") and model.upstream_model is not None:
            upstream = model.upstream_model.replace("*", name[len(entry) - 1 :])
        provider = self.providers.get(model.provider)
        off = None if provider else self._switched_off.get(model.provider, "its provider is not configured")
        return Target(name, entry, model, model.provider, provider, upstream, off)

    @property
    def governs_tools(self) -> bool:
        """Whether a `tools` section is written; without one no tool call is held or judged."""
        return "tools" in self.model_fields_set

    def tool(self, name: str) -> Tool:
        """The contract of a tool: `tools.defaults`, overridden by what the tool's own entry says.

        Nested sections are replaced whole. With neither defaults nor an entry it has no breaker.
        """
        return self._contracts.get(name) or self._contracts.get("defaults", NO_CONTRACT)
