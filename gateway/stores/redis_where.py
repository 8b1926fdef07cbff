"""Finds the server that is the master now: one that Sentinels name, or the owner of our slot of a Cluster.

Every witness is asked, for any of them may be dead, cut off or behind. The one with the newest epoch is
believed first; who is named is dialled by `redis_wire` and has to be a master to be used.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from redis.crc import key_slot

from gateway.errors import StoreUnavailable
from gateway.stores.redis_url import Address, StoreUrl
from gateway.stores.redis_wire import Fixed, Health, Link, Pipe, Reply, ReplyError, dial, explained, pack

log = logging.getLogger(__name__)

Place = tuple[str, int]

POLL_S = 1.0
"""How often the sentinels are asked whether somebody else is the master."""
MAX_ASKED = 12
"""Nodes of a Cluster that are asked at once who owns what."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one witness says: who the master is, and how new its knowledge is."""

    place: Place
    epoch: int


def ranked(claims: Iterable[Claim]) -> list[Place]:
    """The places that are named, the most credible first: by the newest epoch, then by how many name it."""
    told = list(claims)
    newest: dict[Place, int] = {}
    for claim in told:
        newest[claim.place] = max(claim.epoch, newest.get(claim.place, 0))
    votes = Counter(claim.place for claim in told)
    return sorted(votes, key=lambda place: (newest[place], votes[place]), reverse=True)


class Sentinels:
    """The master that sentinels name. One connection to each of them is kept."""

    def __init__(self, url: StoreUrl, *, timeout_s: float, connect_timeout_s: float) -> None:
        self._name = url.master
        self._login = url.login
        self._shown = str(url)
        self._believed: Place | None = None
        self._pipes = [
            Pipe(
                Fixed(address),
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
                handshake=_nothing,
                health=Health(f"sentinel {address.host}:{address.port}"),
            )
            for address in url.servers
        ]

    def __str__(self) -> str:
        return self._shown

    def start(self) -> None:
        """Begin to dial them."""
        for pipe in self._pipes:
            pipe.start()

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(pipe.close() for pipe in self._pipes))

    async def find(self) -> Sequence[Address]:
        """Everybody who is named as the master. Raises: `StoreUnavailable` with what each sentinel said."""
        claims, problems = await self._ask()
        if not claims:
            raise StoreUnavailable(f"no sentinel names a master {self._name!r}: {'; '.join(problems)}")
        places = ranked(claims)
        if places[0] != self._believed:
            log.info("redis %s: the master is %s:%d", self, *places[0])
        self._believed = places[0]
        return [self._login.at(*place) for place in places]

    async def watch(self, moved: Callable[[], None]) -> None:
        """Call `moved` whenever the sentinels name another master than the last time they were asked."""
        while True:
            await asyncio.sleep(POLL_S)
            claims, _ = await self._ask()
            if claims and self._believed is not None and (now := ranked(claims)[0]) != self._believed:
                log.warning("redis %s: the sentinels name %s:%d as the master now", self, *now)
                moved()

    async def replicas(self) -> list[Address]:
        """The master's replicas, as far as they are told."""
        found: set[Place] = set()
        asked = (pipe.call(pack("SENTINEL", "REPLICAS", self._name)) for pipe in self._pipes)
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            for row in answer if isinstance(answer, list) else ():
                fields = _fields(row)
                if "ip" in fields and fields.get("port", "").isdigit():
                    found.add((fields["ip"], int(fields["port"])))
        return [self._login.at(*place) for place in sorted(found)]

    async def _ask(self) -> tuple[list[Claim], list[str]]:
        """What the sentinels say, and why others said nothing."""
        commands = (
            pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name),
            # Tells how old the knowledge is, where we may ask; in a failover the first is ahead of it.
            pack("SENTINEL", "MASTER", self._name),
        )
        answers = await asyncio.gather(
            *(pipe.call_all(commands) for pipe in self._pipes), return_exceptions=True
        )
        claims: list[Claim] = []
        problems: list[str] = []
        for pipe, answer in zip(self._pipes, answers, strict=True):
            claim = self._claim(pipe, answer)
            if isinstance(claim, Claim):
                claims.append(claim)
            else:
                problems.append(f"{pipe.where} {claim}")
        return claims, problems

    def _claim(self, pipe: Pipe, answer: list[Reply] | BaseException) -> Claim | str:
        if isinstance(answer, BaseException):
            if not isinstance(answer, StoreUnavailable):
                raise answer
            return f"does not answer ({pipe.last_error})"
        named, row = answer
        if isinstance(named, ReplyError):
            return f"says {named}"
        if not isinstance(named, list) or len(named) != 2 or not _str(named[1] or b"").isdecimal():
            return "knows no such master"
        epoch = _fields(row).get("config-epoch", "0")
        return Claim((_str(named[0]), int(named[1])), int(epoch) if epoch.isdigit() else 0)


@dataclass(frozen=True, slots=True)
class View:
    """A Cluster as one of its nodes sees it."""

    epoch: int
    owners: tuple[tuple[int, int, Place], ...]
    """First slot, last slot, their master."""
    nodes: tuple[Place, ...]
    """Masters first."""

    def owner(self, slot: int) -> Place | None:
        """Who serves a slot."""
        return next((place for first, last, place in self.owners if first <= slot <= last), None)


class Cluster:
    """The owner of one slot of a Cluster, in which all our keys lie."""

    def __init__(self, servers: Sequence[Address], tag_key: str, *, timeout_s: float) -> None:
        """`servers` are nodes of it, one that answers is enough; the slot is that of `tag_key`."""
        self._servers = list(servers)
        self._login = servers[0]
        self._slot = key_slot(tag_key.encode())
        self._timeout_s = timeout_s
        self._believed: Place | None = None
        self.view: View | None = None
        """The latest that was seen."""

    def __str__(self) -> str:
        return f"cluster {','.join(f'{server.host}:{server.port}' for server in self._servers)}"

    def start(self) -> None:
        """Nothing is kept open."""

    async def close(self) -> None:
        """Nothing is kept open."""

    async def find(self) -> Sequence[Address]:
        """Everybody who is taken for the owner. Raises: `StoreUnavailable` with what each node said."""
        views = await self.look()
        owners = [place for view in views if (place := view.owner(self._slot)) is not None]
        if not owners:
            raise StoreUnavailable(f"CLUSTERDOWN: nobody serves slot {self._slot}, where all keys lie")
        if owners[0] != self._believed:
            log.info("redis %s: slot %d is served by %s:%d", self, self._slot, *owners[0])
        self._believed = owners[0]
        return [self._login.at(*place) for place in dict.fromkeys(owners)]

    async def look(self) -> list[View]:
        """What the nodes that answer see, the newest first. Raises: `StoreUnavailable` when none answers."""
        known = [server.place for server in self._servers]
        if self.view is not None:
            known = [*self.view.nodes, *known]
        asked = [self._login.at(*place) for place in dict.fromkeys(known)][:MAX_ASKED]
        answers = await asyncio.gather(*(self._ask(address) for address in asked))
        views = [answer for answer in answers if isinstance(answer, View)]
        if not views:
            said = "; ".join(
                f"{address.host}:{address.port} {answer}"
                for address, answer in zip(asked, answers, strict=True)
            )
            raise StoreUnavailable(f"no node of the Cluster tells who serves what: {said}")
        views.sort(key=lambda view: view.epoch, reverse=True)
        self.view = views[0]
        return views

    def nodes(self) -> list[Address]:
        """Every node that was seen."""
        return [self._login.at(*place) for place in self.view.nodes] if self.view is not None else []

    def address(self, place: Place) -> Address:
        """How a node is entered."""
        return self._login.at(*place)

    async def _ask(self, address: Address) -> View | str:
        link: Link | None = None
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                link = await dial(address, timeout_s=self._timeout_s)
                slots, nodes = await asyncio.gather(
                    link.send(pack("CLUSTER", "SLOTS")), link.send(pack("CLUSTER", "NODES"))
                )
        except (OSError, StoreUnavailable, ReplyError) as error:
            return f"does not answer ({explained(error)})"
        finally:
            if link is not None:
                link.abort()
        if isinstance(slots, ReplyError):
            return f"says {slots}"
        try:
            return read_view(slots, nodes, address.host)
        except (TypeError, ValueError, IndexError):
            return "says what makes no sense"


def read_view(slots: Reply, nodes: Reply, asked: str) -> View:
    """What `CLUSTER SLOTS` and `CLUSTER NODES` of a node say; without these no view is newer than another.

    A node that does not know how it is reached is reached as it was `asked`.
    """
    owners: list[tuple[int, int, Place]] = []
    masters: list[Place] = []
    replicas: list[Place] = []
    for row in slots if isinstance(slots, list) else ():
        first, last, *served_by = row
        places = [(_host(node[0]) or asked, int(node[1])) for node in served_by]
        if places:
            owners.append((int(first), int(last), places[0]))
            masters.append(places[0])
            replicas += places[1:]
    return View(_newest_epoch(nodes), tuple(owners), tuple(dict.fromkeys((*masters, *replicas))))


def _newest_epoch(nodes: Reply) -> int:
    if not isinstance(nodes, bytes):
        return 0
    rows = (line.split() for line in _str(nodes).splitlines())
    return max((int(row[6]) for row in rows if len(row) > 6 and row[6].isdigit()), default=0)


def _host(value: bytes | None) -> str:
    """An endpoint; nothing where the node names none."""
    return "" if value in (None, b"", b"?") else _str(value or b"")


def _fields(row: Reply) -> dict[str, str]:
    """A reply of names and values in turn."""
    if not isinstance(row, list):
        return {}
    texts = [_str(each) for each in row if isinstance(each, bytes)]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _str(value: bytes) -> str:
    return value.decode("utf-8", "replace")


async def _nothing(_link: Link) -> None:
    return None
