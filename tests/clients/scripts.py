"""What the simulated provider plays for each client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.testing import Ask, ProviderServer, Reply
from gateway.testing.models import find
from tests.clients.clients import STEPS, Client

Play = Callable[[Ask], Reply]


def in_turn(replies: Sequence[Reply]) -> Play:
    """One reply per assistant turn so far; the last again and again."""

    def play(ask: Ask) -> Reply:
        said = sum(turn.role == "assistant" for turn in ask.turns)
        return replies[min(said, len(replies) - 1)]

    return play


_OWN: dict[str, Play] = {
    # An agent that answers by a tool.
    "smol-tools": in_turn(
        [
            *(Reply(tool_calls=[("search", {"query": f"step {n}"})]) for n in range(1, STEPS)),
            Reply(tool_calls=[("final_answer", {"answer": "Done after 5 steps."})]),
        ]
    ),
    # As a provider answers that honours the stop sequence `</code>`: it is no part of the answer.
    "smol-code": in_turn(
        [
            *(
                Reply(f"Thought: look up part {n}.\n<code>\nprint(search(query='step {n}'))\n")
                for n in range(1, STEPS)
            ),
            Reply("Thought: I know.\n<code>\nfinal_answer('Done after 5 steps.')\n"),
        ]
    ),
}


def script_of(client: Client) -> Play:
    """The five steps of a client, to be played as they are or with faults."""
    play = _OWN.get(client.script) or find(client.script)
    assert callable(play)
    return play


def teach(provider: ProviderServer) -> None:
    """Give the provider the scripts that are not in its catalogue."""
    for name, play in _OWN.items():
        provider.script(name, play)
