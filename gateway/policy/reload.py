"""Keeps a policy in step with its files.

The files are polled, for file events do not tell of every swap of a Kubernetes ConfigMap. A poll compares
names, sizes and times first and reads the bytes when they differ. New bytes are loaded when two polls in a
row saw the same ones, so that a file is not taken half-written; they are loaded whole or refused whole,
and the last good policy stays. Files are read and parsed in a thread, one poll at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.domain import Millis
from gateway.policy.expansion import read_secret, secret_digest
from gateway.policy.loading import SourceFile, load_files, read_files
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy

POLL_S = 0.5
"""A change is in force within 2 s: two polls to see it whole, and the time to load it."""

FRESH_S = 2.0
"""A file changed so recently may change again without another size or time, so its bytes are read."""

OnChange = Callable[[Policy], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """How the source stands, for `/readyz`, metrics and the dashboard."""

    generation: int
    """Policies loaded since the start; 0 before the first."""
    version: str
    """Of the policy in force."""
    loaded_at: Millis
    """When the policy in force was loaded."""
    last_error: str | None = None
    """Every mistake of the refused files, one a line, while they are refused."""
    failing_since: Millis | None = None
    """When the files were first refused, while they are."""
    failures: int = 0
    """Contents refused since the start."""

    @property
    def healthy(self) -> bool:
        """Whether the policy in force is the one in the files."""
        return self.last_error is None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a poll saw: the outside of the files, and a digest of their bytes and of secret files."""

    outside: tuple[object, ...]
    digest: str
    files: tuple[SourceFile, ...]
    error: PolicyError | None
    fresh: bool


def _wall_clock() -> Millis:
    return time.time_ns() // 1_000_000


class PolicySource:
    """The policy of a file or folder, as it is now.

    `start()` loads it and raises when it is broken; `run()` follows it until cancelled. All of it belongs
    to one event loop.
    """

    def __init__(
        self,
        path: Path,
        env: Mapping[str, str],
        *,
        poll_s: float = POLL_S,
        clock: Callable[[], Millis] = _wall_clock,
    ) -> None:
        self._path = path
        self._env = env
        self._poll_s = poll_s
        self._clock = clock
        self._policy: Policy | None = None
        self._status = PolicyStatus(0, "", 0)
        self._loaded_digest = ""
        self._seen: _Seen | None = None

    @property
    def policy(self) -> Policy:
        """The policy in force. Raises: `RuntimeError` before `start()`."""
        if self._policy is None:
            raise RuntimeError("the policy source is not started")
        return self._policy

    def status(self) -> PolicyStatus:
        """How the source stands."""
        return self._status

    def start(self) -> Policy:
        """Loads the policy for the first time, in this thread.

        Raises: `PolicyError` when it is broken; there is no last good one to stay with.
        """
        seen = self._look()
        if seen.error is not None:
            raise seen.error
        policy = load_files(seen.files, self._env)
        self._accept(policy, _digest(seen.files, policy.secret_files))
        return policy

    async def run(self, on_change: OnChange) -> None:
        """Polls until cancelled. `on_change` gets each new policy before it is in force.

        It may raise `PolicyError` to refuse one, which is then treated as a broken file; whatever else it
        raises ends this. No two calls of it overlap.
        """
        while True:
            await asyncio.sleep(self._poll_s)
            await self.poll(on_change)

    async def poll(self, on_change: OnChange) -> bool:
        """Looks once; whether a new policy is in force. The same bytes must be seen by two polls."""
        before = self._seen
        self._seen = seen = await asyncio.to_thread(self._look)
        if before is None or before.digest != seen.digest:
            return False
        if seen.digest == self._loaded_digest:
            self._status = replace(self._status, last_error=None, failing_since=None)
            return False
        try:
            if seen.error is not None:
                raise seen.error
            policy = await asyncio.to_thread(load_files, seen.files, self._env)
            told = on_change(policy)
            if inspect.isawaitable(told):
                await told
        except PolicyError as error:
            self._refuse(str(error))
            return False
        self._accept(policy, _digest(seen.files, policy.secret_files))
        return True

    def _accept(self, policy: Policy, digest: str) -> None:
        self._policy = policy
        self._loaded_digest = digest
        self._status = PolicyStatus(
            generation=self._status.generation + 1,
            version=policy.version,
            loaded_at=self._clock(),
            failures=self._status.failures,
        )

    def _refuse(self, error: str) -> None:
        # A refused content is tried at every poll, for what it lacks may be a secret file that comes
        # later; it counts once.
        if error == self._status.last_error:
            return
        self._status = replace(
            self._status,
            last_error=error,
            failing_since=self._status.failing_since or self._clock(),
            failures=self._status.failures + 1,
        )

    def _look(self) -> _Seen:
        """What the files are now; reads them only when their outside changed, or did so just now."""
        secret_files = tuple(self._policy.secret_files) if self._policy else ()
        outside, fresh = self._outside(secret_files)
        before = self._seen
        if before is not None and before.outside == outside and not before.fresh and not fresh:
            return before
        try:
            files = read_files(self._path)
        except PolicyError as error:
            return _Seen(outside, f"unreadable: {error}", (), error, fresh)
        after, _ = self._outside(secret_files)
        if after != outside:
            # A swap went on while reading. The digest that no other look has makes the next poll decide.
            return _Seen(after, f"moving: {time.monotonic_ns()}", files, None, fresh=True)
        secrets = {path: secret_digest(read_secret(path)[0]) for path in secret_files}
        return _Seen(outside, _digest(files, secrets), files, None, fresh)

    def _outside(self, secret_files: tuple[Path, ...]) -> tuple[tuple[object, ...], bool]:
        """Name, file number, size and time of each file, and whether one changed just now."""
        try:
            paths = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        except OSError:
            paths = [self._path]
        rows: list[object] = []
        newest = 0.0
        for path in (*paths, *secret_files):
            try:
                stat = os.stat(path)
            except (OSError, ValueError):
                rows.append((str(path), None))
                continue
            rows.append(
                (str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            )
            newest = max(newest, stat.st_mtime, stat.st_ctime)
        return tuple(rows), abs(self._clock() / 1000 - newest) < FRESH_S


def _digest(files: tuple[SourceFile, ...], secrets: Mapping[Path, str]) -> str:
    """Of the names and bytes of policy files, each with its length, and of the digests of secret files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{len(file.content)}\0".encode("utf-8", "surrogateescape") + file.content)
    for path, content in sorted(secrets.items()):
        digest.update(f"{path}\0{content}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
