"""Which tests a worker gets together, and in which order they begin.

Tests of one module stay together, so that what they share is made once and not by every worker; a long module is
cut into pieces. What takes longest begins first, so that no worker is left alone with it at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

USUAL_S = 0.05
SECONDS = {
    "tests/chaos/": 10.0,
    "tests/clients/": 1.0,
    "tests/deployment/": 0.5,
    "tests/docs/": 0.5,
    "tests/docs/test_commands.py": 4.0,
    "tests/integration/": 0.5,
    "tests/integration/admin/": 0.1,
    "tests/integration/admin/test_cli.py": 3.0,
    "tests/integration/admin/test_doctor.py": 3.0,
    "tests/integration/admin/test_workers.py": 10.0,
    "tests/integration/backtest/": 2.0,
    "tests/integration/incidents/": 1.0,
    "tests/integration/incidents/test_parallel_agents.py": 10.0,
    "tests/integration/processes/": 8.0,
    "tests/integration/screening/": 1.0,
    "tests/integration/telemetry/test_traces.py": 1.5,
    "tests/integration/test_demo.py": 3.0,
    "tests/parity/": 0.15,
    "tests/security/": 0.5,
}
"""What a test takes, by the beginning of its id, where that is far from usual. The longest beginning counts."""
PIECE_S = 20.0


def seconds(test: str) -> float:
    """About what a test takes."""
    known = [beginning for beginning in SECONDS if test.startswith(beginning)]
    return SECONDS[max(known, key=len)] if known else USUAL_S


def family(test: str) -> str:
    """The group that a test names, else its module."""
    # As xdist writes a group; a value among the parameters may have an `@` too.
    if test.rfind("@") > test.rfind("]"):
        return test.rpartition("@")[2]
    return test.partition("::")[0]


def pieces(tests: Sequence[str]) -> list[str]:
    """The name of the piece that each test belongs to. A group is one piece."""
    found: list[str] = []
    before: defaultdict[str, float] = defaultdict(float)
    for test in tests:
        name = family(test)
        if name.endswith(".py"):
            before[name] += seconds(test)
            name = f"{name} {int(before[name] // PIECE_S)}"
        found.append(name)
    return found


def longest_first(tests: Sequence[str]) -> list[int]:
    """The order to run tests in: those of a family as they were, after families whose pieces take longer."""
    takes: defaultdict[str, float] = defaultdict(float)
    longest: dict[str, float] = {}
    families = [family(test) for test in tests]
    for test, name, piece in zip(tests, families, pieces(tests), strict=True):
        takes[piece] += seconds(test)
        longest[name] = max(longest.get(name, 0.0), takes[piece])
    return sorted(range(len(tests)), key=lambda at: (-longest[families[at]], families[at], at))


class Pieces(LoadGroupScheduling):  # type: ignore[misc]
    """Hands out pieces in the order of the collection."""

    def schedule(self) -> None:
        """See `LoadScopeScheduling.schedule`."""
        self.config.option.loadscopereorder = False
        collection = next(iter(self.registered_collections.values()))
        self._pieces: dict[str, str] = dict(zip(collection, pieces(collection), strict=True))
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._pieces[nodeid]
