"""An agent's whole loop is one run, with nothing changed but the base URL; two agents are two runs."""

from __future__ import annotations

import pytest

from gateway.testing import ProviderServer
from tests.clients.clients import (
    AGENTS,
    EVERY,
    LANGGRAPH,
    NODE,
    NODE_REACT,
    OPENAI,
    REACT,
    SMOL_CODE,
    SMOL_TOOLS,
    STEPS,
    Client,
    Drivers,
    each,
)
from tests.clients.records import runs_of
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ThreadedGateway

pytestmark = pytest.mark.clients

PROMPT = "Why does the printer on the third floor print everything twice?"
ACTS = [f"step {n}" for n in range(1, STEPS)]


def finished(client: Client) -> str:
    """The status of a run that has got its answer."""
    return "completed"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("client", each(EVERY))
def test_a_loop_of_five_steps_is_one_run(
    client: Client, stream: bool, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    (result,) = drivers.play(client, gateway, PROMPT, stream=stream)
    assert result.error is None, result.error
    assert "Done after 5 steps" in (result.answer or "")
    assert len(result.executed) == STEPS - 1
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2, 3, 4, 5]
    assert len(run.attempts) == STEPS
    assert run.status == "completed"
    assert run.name is None
