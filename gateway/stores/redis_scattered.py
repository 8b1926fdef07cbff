"""Keys of a Cluster that lie in other slots than ours: kill flags that somebody set by hand.

No script of ours can reach them, so each is read from the node that owns it, all keys of a node in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from redis.crc import key_slot

from gateway.errors import StoreUnavailable
from gateway.stores.redis_url import Address
from gateway.stores.redis_where import Cluster, Place
from gateway.stores.redis_wire import Pipe, Refused, Reply, ReplyError, pack

FRESH_S = 0.25
"""How long what was read is good enough for an admission; whoever polls reads anew."""
MAX_KEPT = 10_000
LOOK_AGAIN_S = 0.5


class Scattered:
    """`connect` makes a pipe to a node that has not begun to dial."""

    def __init__(self, cluster: Cluster, connect: Callable[[Address], Pipe]) -> None:
        self._cluster = cluster
        self._connect = connect
        self._pipes: dict[Place, Pipe] = {}
        self._kept: dict[bytes, tuple[float, bytes | None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    async def close(self) -> None:
        """Hang up."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(pipe.close() for pipe in self._pipes.values()))

    async def get(self, keys: Sequence[bytes], *, fresh: bool) -> list[bytes | None]:
        """The value of each key; when not `fresh`, as it was a moment ago. Raises: `StoreUnavailable`."""
        now = asyncio.get_running_loop().time()
        found: dict[bytes, bytes | None] = {}
        for key in keys:
            read_at, value = self._kept.get(key, (float("-inf"), None))
            if not fresh and now - read_at < FRESH_S:
                found[key] = value
        wanted = [key for key in dict.fromkeys(keys) if key not in found]
        if len(self._kept) + len(wanted) > MAX_KEPT:
            self._kept.clear()
        for key, reply in zip(wanted, await self._ask("GET", wanted), strict=True):
            self._kept[key] = (now, reply)
            found[key] = reply
        return [found[key] for key in keys]

    async def delete(self, key: bytes) -> bool:
        """Whether there was one. Raises: `StoreUnavailable`."""
        (reply,) = await self._ask("DEL", [key])
        self._kept.pop(key, None)
        return bool(reply == 1)

    async def _ask(self, command: str, keys: Sequence[bytes]) -> list[Reply]:
        replies: dict[bytes, Reply] = {}
        for last in (False, True):
            missing = [key for key in keys if key not in replies]
            replies.update(await self._ask_owners(command, missing))
            if len(replies) == len(keys):
                break
            if last:
                raise Refused
            await self._look()
        return [replies[key] for key in keys]

    async def _ask_owners(self, command: str, keys: Iterable[bytes]) -> dict[bytes, Reply]:
        """The replies of those owners that still are."""
        by_owner: dict[Place, list[bytes]] = {}
        view = self._cluster.view
        for key in keys:
            owner = view.owner(key_slot(key)) if view is not None else None
            if owner is not None:
                by_owner.setdefault(owner, []).append(key)
        answers = await asyncio.gather(
            *(
                self._pipe(owner).call_all([pack(command, key) for key in theirs])
                for owner, theirs in by_owner.items()
            ),
            return_exceptions=True,
        )
        replies: dict[bytes, Reply] = {}
        for theirs, answer in zip(by_owner.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, StoreUnavailable):
                    raise answer
                # Somebody else may serve its slots by now.
                self._look_soon()
                raise answer
            for key, reply in zip(theirs, answer, strict=True):
                if isinstance(reply, ReplyError):
                    reply = await self._elsewhere(command, key, str(reply))
                if not isinstance(reply, ReplyError):
                    replies[key] = reply
        return replies

    async def _elsewhere(self, command: str, key: bytes, said: str) -> Reply:
        """What the node says to which we are sent; the error where we have to look again who owns the key."""
        words = said.split()
        if words[0] == "MOVED":
            return ReplyError(said)
        if words[0] != "ASK" or len(words) < 3:
            raise Refused
        host, _, port = words[2].rpartition(":")
        pipe = self._pipe((host.strip("[]"), int(port)))
        _, reply = await pipe.call_all([pack("ASKING"), pack(command, key)])
        return reply

    def _pipe(self, place: Place) -> Pipe:
        pipe = self._pipes.get(place)
        if pipe is None:
            pipe = self._pipes[place] = self._connect(self._cluster.address(place))
            pipe.start()
        return pipe

    async def _look(self) -> None:
        """Wait for a new view. Raises: `StoreUnavailable`."""
        self._look_soon()
        if self._looking is not None:
            await asyncio.shield(self._looking)

    def _look_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        if (self._looking is None or self._looking.done()) and now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = now
            self._looking = asyncio.create_task(self._look_now(), name="redis cluster")

    async def _look_now(self) -> None:
        try:
            await self._cluster.look()
        except StoreUnavailable:
            return
        view = self._cluster.view
        assert view is not None
        gone = self._pipes.keys() - set(view.nodes)
        await asyncio.gather(*(self._pipes.pop(place).close() for place in gone))
