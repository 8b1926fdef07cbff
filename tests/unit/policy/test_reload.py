"""Following the files of a policy. `poll()` is called by hand, so no test waits for a clock."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.policy.messages import Mistake, PolicyError
from gateway.policy.models import Policy
from gateway.policy.reload import PolicySource


def text(steps: int) -> str:
    return f"version: 1\nruns: {{max_steps: {steps}}}\n"


class Followed:
    """A source over a path, and every policy it told of."""

    def __init__(self, path: Path) -> None:
        self.source = PolicySource(path, {})
        self.told: list[Policy] = []
        self.source.start()

    async def settle(self) -> bool:
        """Two polls: the first sees a change, the second takes it."""
        first = await self.source.poll(self.told.append)
        return await self.source.poll(self.told.append) or first

    @property
    def steps(self) -> int | None:
        return self.source.policy.runs.max_steps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(text(1))
    return file


async def test_a_change_is_taken_over_and_told(path: Path) -> None:
    followed = Followed(path)
    assert not await followed.settle()
    path.write_text(text(2))
    assert await followed.settle()
    assert followed.steps == 2
    assert [policy.runs.max_steps for policy in followed.told] == [2]
    status = followed.source.status()
    assert (status.generation, status.version, status.healthy) == (2, followed.told[0].version, True)


async def test_a_change_of_the_same_size_in_the_same_instant_is_seen(path: Path) -> None:
    followed = Followed(path)
    await followed.settle()
    before = path.stat()
    path.write_text(text(7))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await followed.settle()
    assert followed.steps == 7


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("version: 1\nruns: {", "not valid YAML"),
        ("version: 1\nrunz: {}\n", "policy.yaml:2: runz: got an unknown key"),
        ("", "policy.yaml:1: got an empty file"),
        ("version: 1\nkeys: [{name: a, key: '${UNSET}'}]\n", "got ${UNSET}, which is unset or empty"),
    ],
)
async def test_a_broken_policy_is_refused_whole_and_the_last_good_one_stays(
    path: Path, broken: str, error: str
) -> None:
    followed = Followed(path)
    path.write_text(broken)
    for _ in range(3):
        assert not await followed.settle()
    assert followed.steps == 1
    assert followed.told == []
    status = followed.source.status()
    assert status.last_error is not None
    assert error in status.last_error
    assert status.failing_since is not None
    assert (status.generation, status.failures) == (1, 1)

    path.write_text(text(3))
    assert await followed.settle()
    status = followed.source.status()
    assert (followed.steps, status.generation, status.failures) == (3, 2, 1)
    assert (status.last_error, status.failing_since) == (None, None)


async def test_failing_since_is_when_it_began(path: Path) -> None:
    now = [1_000]
    source = PolicySource(path, {}, clock=lambda: now[0])
    source.start()
    for moment, broken in ((2_000, "a: 1"), (3_000, "b: 1")):
        now[0] = moment
        path.write_text(broken)
        await source.poll(lambda _: None)
        await source.poll(lambda _: None)
    status = source.status()
    assert (status.loaded_at, status.failing_since, status.failures) == (1_000, 2_000, 2)


async def test_going_back_to_the_policy_in_force_ends_the_failure(path: Path) -> None:
    followed = Followed(path)
    path.write_text("broken: 1")
    await followed.settle()
    assert not followed.source.status().healthy
    path.write_text(text(1))
    assert not await followed.settle()
    assert followed.source.status().healthy
    assert followed.source.status().generation == 1


async def test_a_file_is_not_taken_half_written(path: Path) -> None:
    """The first half of a file may be a valid policy with fewer rules."""
    path.write_text(whole := text(1) + "budgets:\n  - {name: a, per: run, limit_usd: 1}\n")
    followed = Followed(path)
    path.write_text("")
    assert not await followed.source.poll(followed.told.append)
    path.write_text(text(2))
    assert not await followed.source.poll(followed.told.append)
    path.write_text(whole.replace("limit_usd: 1", "limit_usd: 2"))
    assert not await followed.source.poll(followed.told.append)
    assert await followed.source.poll(followed.told.append)
    assert [len(policy.budgets) for policy in followed.told] == [1]
    assert followed.source.status().failures == 0


async def test_a_file_that_is_gone_for_good_is_a_failure_and_for_a_moment_is_none(path: Path) -> None:
    followed = Followed(path)
    path.unlink()
    assert not await followed.source.poll(followed.told.append)
    path.write_text(text(2))
    assert await followed.settle()
    assert followed.source.status().failures == 0
    path.unlink()
    await followed.settle()
    assert "no such file" in (followed.source.status().last_error or "")
    assert followed.steps == 2


async def test_a_folder_is_followed_when_files_change_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text(1))
    followed = Followed(tmp_path)
    (tmp_path / "b.yaml").write_text("runs: {max_steps: 2}")
    assert await followed.settle()
    assert followed.steps == 2
    (tmp_path / "b.yaml").rename(tmp_path / "0.yaml")
    assert await followed.settle()
    assert followed.steps == 1
    (tmp_path / "a.yaml").unlink()
    assert not await followed.settle()
    assert followed.steps == 1


async def test_the_symlink_swap_of_a_config_map_is_followed(tmp_path: Path) -> None:
    for steps in (1, 2):
        (tmp_path / f"..v{steps}").mkdir()
        (tmp_path / f"..v{steps}" / "policy.yaml").write_text(text(steps))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    by_folder, by_file = Followed(tmp_path), Followed(tmp_path / "policy.yaml")
    (tmp_path / "..data_tmp").symlink_to("..v2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    for followed in (by_folder, by_file):
        assert await followed.settle()
        assert followed.steps == 2


async def test_a_replaced_secret_file_is_taken_over(tmp_path: Path, path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("gw-0123456789-first")
    path.write_text(f"version: 1\nkeys: [{{name: a, key: 'file:{secret}'}}]\n")
    followed = Followed(path)
    version = followed.source.policy.version
    secret.write_text("gw-0123456789-other")
    assert await followed.settle()
    assert followed.source.policy.keys[0].key.get_secret_value() == "gw-0123456789-other"
    assert followed.source.policy.version == version


async def test_a_policy_that_lacks_a_secret_file_is_taken_when_the_file_comes(
    tmp_path: Path, path: Path
) -> None:
    followed = Followed(path)
    secret = tmp_path / "secret"
    path.write_text(f"version: 1\nkeys: [{{name: a, key: 'file:{secret}'}}]\n")
    assert not await followed.settle()
    secret.write_text("gw-0123456789abcdef")
    assert await followed.settle()
    assert followed.source.status().healthy


async def test_the_listener_may_refuse_a_policy(path: Path) -> None:
    followed = Followed(path)
    path.write_text(text(2))

    async def refuse(_: Policy) -> None:
        raise PolicyError([Mistake("policy.yaml", 2, "runs", "no")])

    await followed.source.poll(refuse)
    assert not await followed.source.poll(refuse)
    assert followed.steps == 1
    assert followed.source.status().last_error == "policy.yaml:2: runs: no"


def test_a_broken_policy_at_the_start_is_raised(path: Path) -> None:
    path.write_text("nonsense: 1")
    source = PolicySource(path, {})
    with pytest.raises(PolicyError):
        source.start()
    with pytest.raises(RuntimeError):
        _ = source.policy


async def test_run_follows_until_cancelled(path: Path) -> None:
    source = PolicySource(path, {}, poll_s=0.01)
    source.start()
    changed = asyncio.Event()
    task = asyncio.ensure_future(source.run(lambda _: changed.set()))
    path.write_text(text(2))
    await asyncio.wait_for(changed.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
