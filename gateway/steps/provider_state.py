"""What providers keep on behalf of callers: responses, conversations, items, files, each by an id of theirs.

All callers share the gateway's account at a provider, so an id alone would open another caller's
conversation. Each id that was handed out is therefore on record under the principal it was handed to, and
no other id is sent upstream. With the caller's own credential the provider itself keeps callers apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import orjson

from gateway.domain import Principal
from gateway.errors import CallerError
from gateway.protocols import Store
from gateway.rules.lineage import Lineage
from gateway.values import frozen

KEPT_MS = 31 * 86_400_000
"""Providers keep responses for thirty days unless told otherwise."""
NOTHING = "-"
_SHARED = ("vs_", "pmpt_", "skill_", "tunnel_")
"""Vector stores, stored prompts, skills and tunnels belong to the account: operators make them for everyone.
A container is made for one conversation, and holds its files."""


_PRIVATE = ("file", "resp_", "conv_", "msg_", "batch", "upload", "video_", "ftjob-")
"""How ids begin of what a caller makes at the provider; other segments of a path name what is for all."""


def is_private(segment: str) -> bool:
    """Whether a segment of a path is the id of something that some caller made."""
    return segment.startswith(_PRIVATE)


@frozen
class Held:
    """Where something is kept and which run it came from. `model` is as the caller named it."""

    provider: str
    model: str
    run: str
    session: str
    tokens: int = 0
    """How long the conversation was then: what going on from here reads again."""
    stands_for: str = ""
    """What the caller knows by another id: an answer that was finished by a second one under the first one's
    id, since a stream cannot change its id. `NOTHING` when the provider keeps none that was finished."""


@dataclass(slots=True)
class ProviderState:
    """The records of one worker's store."""

    store: Store
    lineage: Lineage

    async def find(self, caller: Principal, ids: Collection[str]) -> dict[str, Held]:
        """What is known of those ids; all of them, unless the caller brings its own credential.

        Raises `CallerError` `unknown_reference` for one that was not handed to this caller.
        """
        wanted = [i for i in ids if not i.startswith(_SHARED)]
        keys = {self.lineage.state_key(caller.id, i): i for i in wanted}
        records = await self.store.recall(list(keys)) if keys else {}
        known = {keys[key]: _held(raw) for key, raw in records.items()}
        for provider_id in wanted:
            held = known.get(provider_id)
            if (held is None and caller.credential is None) or (held and held.stands_for == NOTHING):
                raise unknown(provider_id)
        return known

    async def remember(self, caller: Principal, ids: Iterable[str], held: Held) -> None:
        """The provider has handed these ids to the caller."""
        raw = orjson.dumps(held)
        records: Mapping[str, bytes] = {self.lineage.state_key(caller.id, i): raw for i in ids}
        if records:
            await self.store.remember(records, KEPT_MS)

    async def forget(self, caller: Principal, provider_id: str) -> None:
        """It is deleted at the provider."""
        await self.store.forget([self.lineage.state_key(caller.id, provider_id)])


def _held(raw: bytes) -> Held:
    return Held(**orjson.loads(raw))


def unknown(provider_id: str) -> CallerError:
    """The refusal for an id that is not this caller's, whether it exists or not."""
    shown = provider_id[:64].encode("ascii", "replace").decode()
    return CallerError("unknown_reference", f"Nothing with the id {shown!r} was found.")
