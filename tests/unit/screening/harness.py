"""Screens without a gateway: a store in memory, and requests that are screened one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import Principal, Step
from gateway.policy.models import Policy
from gateway.rules.budgets import Scopes, scopes_of
from gateway.rules.contracts import Contracts
from gateway.rules.lineage import Lineage
from gateway.screening.engine import Looks, scan
from gateway.screening.pool import ScanFailed
from gateway.steps.screens import Screened, Screens
from gateway.stores.embedded import EmbeddedStore

Json = dict[str, Any]
ALICE = Principal("p-alice", "alice", "alice", "red")


class Records(EmbeddedStore):
    """Only what is remembered; several gateways may have one."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.recalls = 0

    async def remember(self, objects: Mapping[str, bytes], ttl_ms: int) -> None:
        assert ttl_ms > 0
        self.kept.update(objects)

    async def recall(self, keys: Sequence[str]) -> dict[str, bytes]:
        self.recalls += 1
        return {key: self.kept[key] for key in keys if key in self.kept}


class Inline:
    """A pool that scans on the spot, or fails as it is told."""

    def __init__(self) -> None:
        self.fails = ""
        self.chars = 0
        self.deadlines: list[float] = []

    async def scan(self, texts: Sequence[tuple[Any, str]], looks: Looks, deadline_s: float) -> list[Any]:
        if self.fails:
            raise ScanFailed(self.fails)
        self.deadlines.append(deadline_s)
        self.chars += sum(len(text) for _, text in texts)
        return [scan(text, channel, looks) for channel, text in texts]


@dataclass
class Harness:
    """One worker's screens under a policy."""

    screening: Json
    store: Records = field(default_factory=Records)
    tools: Json = field(default_factory=dict)
    pool: Inline = field(default_factory=Inline)
    bypassed: list[str] = field(default_factory=list)
    told: list[Sequence[Json]] = field(default_factory=list)
    key: bytes = b"k" * 32

    def __post_init__(self) -> None:
        self.policy = Policy.model_validate({"version": 1, "screening": self.screening, "tools": self.tools})
        self.screens = Screens(
            self.pool,  # type: ignore[arg-type]
            self.store,
            Lineage(b"lineage-key-0123456789"),
            self.key,
            self.bypassed.append,
            lambda _, findings: self.told.append(findings),
        )

    def scopes(
        self, step: Step, session: str = "s1", caller: Principal = ALICE, run: str = "run_1"
    ) -> Scopes:
        return scopes_of(caller, step, run, session, True, None, {}, (), shared=False)

    async def request(self, step: Step, **whose: Any) -> Screened | None:
        """Screen one request; raises what the gateway would."""
        return await self.screens.request(
            self.policy, self.contracts, self.scopes(step, **whose), step, {"run": "run_1"}
        )

    @property
    def contracts(self) -> Contracts:
        """The tools' contracts of the policy."""
        return Contracts(self.policy)
