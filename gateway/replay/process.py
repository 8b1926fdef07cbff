"""A backtest in a process of its own, so that serving is not disturbed: one at a time, with an end.

    worker ──what is wanted, pickled──► child: own connection to the ledger, reads alone ──JSON──► worker

The child gets the policies without any key of a provider or a caller, and the gateway's own secret, which
opens recordings. It is told by its standard input: nothing stands in its arguments or its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import resource
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from pydantic import SecretStr

from gateway.auth import Secrets
from gateway.domain import Json
from gateway.policy.models import Policy
from gateway.settings import of_child
from gateway.stores.ledger_credentials import KeyRecord

if TYPE_CHECKING:
    from gateway.replay.backtest import Wanted

log = logging.getLogger("gateway.backtest")

TIME_S = 240.0
"""No step begins after so long; what is done by then is the result."""
GRACE_S = 60.0
"""For the start of the child, and the end of its last steps."""
MAX_MEMORY = 4 << 30
"""Bytes of address space."""
NICENESS = 10
MAX_ERROR = 500


class BacktestFailed(Exception):  # noqa: N818 - read as a sentence
    """There is no result; the text says why. `is_mistake` when it is the policy's fault."""

    def __init__(self, why: str, *, is_mistake: bool = False) -> None:
        super().__init__(why)
        self.is_mistake = is_mistake


class BacktestBusy(Exception):  # noqa: N818 - read as a state
    """Another one is under way in this worker."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the child is told."""

    wanted: Wanted
    ledger_url: str | None
    data_dir: Path
    secrets: Secrets


@dataclass(slots=True)
class Backtests:
    """One per worker."""

    ledger_url: str | None
    data_dir: Path
    secrets: Secrets
    time_s: float = TIME_S
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, wanted: Wanted) -> Json:
        """The result. Raises `BacktestBusy`, `BacktestFailed`."""
        if self._lock.locked():
            raise BacktestBusy
        async with self._lock:
            plain = replace(wanted, policy=without_secrets(wanted.policy), base=without_secrets(wanted.base))
            order = Order(plain, self.ledger_url, self.data_dir.absolute(), self.secrets)
            return await self._run(pickle.dumps(order))

    async def _run(self, order: bytes) -> Json:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.replay.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=of_child(),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self.time_s + GRACE_S):
                out, errors = await child.communicate(order)
        except TimeoutError:
            raise BacktestFailed("It took too long; try fewer steps or a shorter time.") from None
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        try:
            told = orjson.loads(out)
        except orjson.JSONDecodeError:
            log.error(
                "a backtest ended with %s: %s", child.returncode, errors.decode(errors="replace")[-4000:]
            )
            raise BacktestFailed("It ended without a result; the gateway's log says why.") from None
        if "error" in told:
            raise BacktestFailed(told["error"], is_mistake=told["is_mistake"])
        result: Json = told["result"]
        return result


_NO_SECRET = SecretStr("-" * 16)


def without_secrets(policy: Policy) -> Policy:
    """The policy as it can be handed to a process that calls nobody."""
    providers = {
        name: provider.model_copy(update={"api_key": None}) for name, provider in policy.providers.items()
    }
    keys = tuple(key.model_copy(update={"key": _NO_SECRET}) for key in policy.keys)
    copy = policy.model_copy(update={"providers": providers, "keys": keys, "alerts": ()})
    copy.model_post_init(None)
    copy._document = {}
    copy._secret_files = {}
    return copy


def callers_of(keys: Iterable[KeyRecord]) -> dict[str, Json]:
    """What the keys of the ledger may reach, by id."""
    return {
        key.id: {"models": key.models, "max_tool_level": key.max_tool_level, "priority": key.priority}
        for key in keys
    }


# -- the child ------------------------------------------------------------------------------------------


def main() -> None:
    """Read an order from standard input, write the result to standard output."""
    order: Order = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the worker that started this
    os.nice(NICENESS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    # What the code of a library prints must not be taken for the result.
    out, sys.stdout = sys.stdout, sys.stderr
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    told = asyncio.run(_told(order))
    out.buffer.write(orjson.dumps(told))
    out.buffer.flush()


async def _told(order: Order) -> Json:
    from gateway.policy.messages import PolicyError
    from gateway.replay.backtest import backtest
    from gateway.settings import SettingsError
    from gateway.stores.ledger import LedgerError, LedgerUnavailable, SqlLedger

    ledger = SqlLedger(order.ledger_url, data_dir=order.data_dir)
    try:
        await ledger.start()
        with tempfile.TemporaryDirectory(prefix="gateway-backtest-") as directory:
            result = await backtest(order.wanted, ledger, order.secrets, Path(directory))
        return {"result": result}
    except (PolicyError, SettingsError) as error:
        return {"error": str(error)[:MAX_ERROR], "is_mistake": True}
    except (LedgerError, LedgerUnavailable) as error:
        return {"error": f"The ledger cannot be read: {error}"[:MAX_ERROR], "is_mistake": False}
    except MemoryError:
        return {"error": "It needs too much memory; try fewer steps.", "is_mistake": False}
    finally:
        await ledger.close()


if __name__ == "__main__":
    main()
