"""What is asked of Redis: the keys, the scripts, and one call at a time.

Every failure becomes `StoreUnavailable`: `Unsent` and `Refused` where it is known that nothing was done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from time import perf_counter
from typing import TypeVar

from gateway.domain import Millis
from gateway.errors import StoreUnavailable
from gateway.protocols import Clock
from gateway.stores.redis_wire import Arg, Health, Pipe, Refused, Reply, ReplyError, pack

T = TypeVar("T")

BATCH = 500
"""Names, counters or attempts in one script call: a few milliseconds of the server at most."""
NOT_THE_MASTER = ("READONLY", "LOADING", "MASTERDOWN", "MOVED", "CLUSTERDOWN")
"""Errors after which another connection may reach the server to talk to."""


class Keys:
    """Every key of a gateway. A stored format: the scripts derive theirs from `epoch` in the same way.

    All share one hash tag, so that one script can reach them on a Cluster. A record's id is whatever
    follows the second colon, so that no id, however hostile, is another's.
    """

    def __init__(self, namespace: str) -> None:
        self.tag = f"{{{namespace}}}:"
        self.epoch = f"{self.tag}epoch"
        self.events = f"{self.tag}events"
        self.rebuild = f"{self.tag}rebuild"
        self.breakers = f"{self.tag}breakers"
        self.kill_channel = f"{self.tag}kills"

    def of(self, kind: str, record_id: str) -> bytes:
        """Key of one record: a run, index, retry, counter, bucket, flight, attempt, kill, acks, object,
        quota, breaker or baseline."""
        return as_bytes(f"{self.tag}{kind}:{record_id}")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as it is sent; `sha` is its name on the server."""

    name: str
    source: str
    sha: str


_SHARED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("resolve", "admit", "extend", "counters", "reseed", "link", "restore"), ("state",)),
    **dict.fromkeys(("settle", "reap", "void"), ("state", "settling")),
    **dict.fromkeys(("report", "probe", "breakers", "reset_breaker"), ("breaking",)),
    **dict.fromkeys(("observe", "baseline"), ("observing",)),
}
"""The parts, after `common`, that a script begins with: no more than it uses, since Lua makes them anew for
every call and its collector goes through all that are loaded."""
_SCRIPT_NAMES = (
    "resolve", "admit", "extend", "restore", "settle", "void", "renew", "reap", "stop_run", "link",
    "counters", "reseed", "seeded", "unlock", "set_kill", "clear_kill", "kills", "acknowledge", "take",
    "report", "probe", "breakers", "reset_breaker", "observe", "baseline",
)  # fmt: skip


@cache
def scripts(clustered: bool = False) -> dict[str, Script]:
    """Every script, with the parts that it shares with others in front."""
    folder = files("gateway.stores").joinpath("lua")
    begins_with = ("common", "clustered") if clustered else ("common",)

    def part(name: str) -> str:
        return folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")

    loaded: dict[str, Script] = {}
    for name in _SCRIPT_NAMES:
        parts = (*begins_with, *_SHARED.get(name, ()), name)
        source = "\n".join(part(p) for p in parts)
        loaded[name] = Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return loaded


class Calls:
    """Scripts and commands over one pipe, timed and counted. `clock` takes the place of the server's time in
    the scripts; `took` and `failed` are told as `RedisStore` says."""

    def __init__(
        self,
        keys: Keys,
        pipe: Pipe,
        health: Health,
        *,
        clock: Clock | None,
        took: Callable[[str, float], None],
        failed: Callable[[], None],
    ) -> None:
        self.keys = keys
        self.pipe = pipe
        self.health = health
        self.scripts = scripts()
        self.failed = failed
        self._clock = clock
        self._took = took

    async def script(self, name: str, args: Sequence[Arg], epoch: str = "") -> list[Reply]:
        """Run a script; with an `epoch` it refuses a database of another."""
        script = self.scripts[name]
        time = "" if self._clock is None else str(self._clock())
        rest = (1, self.keys.epoch, time, epoch, *args)
        started = perf_counter()
        try:
            reply = await self.pipe.call(pack("EVALSHA", script.sha, *rest))
            if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
                reply = await self.pipe.call(pack("EVAL", script.source, *rest))
            checked: list[Reply] = self._checked(reply)
        except StoreUnavailable:
            self.failed()
            raise
        finally:
            self._took(name, perf_counter() - started)
        return checked

    async def command(self, *args: Arg) -> Reply:
        """Any other command."""
        started = perf_counter()
        try:
            return self._checked(await self.pipe.call(pack(*args)))
        except StoreUnavailable:
            self.failed()
            raise
        finally:
            self._took(str(args[0]).lower(), perf_counter() - started)

    def _checked(self, reply: Reply) -> Reply:
        """The reply. Raises: `Refused` for an error, whatever it is: no error leaves a limit kept."""
        if isinstance(reply, ReplyError):
            message = str(reply)
            cause = next((word for word in NOT_THE_MASTER if word in message), None)
            self.health.failed(cause or _told(message))
            if cause is not None:
                self.pipe.reconnect()
            raise Refused
        if self.health.failing:
            self.health.worked()
        return reply

    async def time(self) -> Millis:
        """The time that scripts go by."""
        return self._clock() if self._clock is not None else await self.server_time()

    async def server_time(self) -> Millis:
        """The server's own."""
        seconds, micros = await self.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def as_bytes(value: str) -> bytes:
    """Names may hold lone surrogates; they are told apart like any other character."""
    return value.encode("utf-8", "surrogatepass")


def as_str(value: bytes) -> str:
    """The other way."""
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # Only what an operator has set by hand can be no UTF-8.
        return value.decode("utf-8", "replace")


def batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """Parts of at most that many."""
    return (items[i : i + size] for i in range(0, len(items), size))


def _told(message: str) -> str:
    """An error as the log says it: one of few texts, and what to do where that is known."""
    if "non local key" in message:
        return "the slot of its keys is being moved to another node"
    return message.split(" script:", 1)[0][:120]
