"""Which of several deployments of a model is tried first, and which after it.

Pure but for `Latencies`, which remembers how fast each has been. Who is left alone because it fails is the
breakers' business.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Strategy = Literal["weight", "least_busy", "latency"]

NEAR = 1.2
"""Deployments within this factor of the fastest count as equally fast, so that not all calls go to one."""
HALF_LIFE_S = 30.0
"""A latency that nobody measures anew counts half after so long: a slow deployment gets another chance."""
NEW_SHARE = 0.3
"""How much the latest latency counts."""
MAX_KEYS = 4096


class Deployment(Protocol):
    """One place where a model is served."""

    @property
    def key(self) -> str:
        """Names it to `busy` and `latency`."""

    @property
    def weight(self) -> float:
        """Its share among the others; 0 for one that only stands in for them."""


def order(
    deployments: Sequence[Deployment],
    *,
    strategy: Strategy,
    busy: Callable[[str], int],
    latency: Callable[[str], float | None],
    draw: float,
) -> list[int]:
    """The indexes of all deployments in the order in which they are tried; the first one serves.

    `weight` draws by weight. `least_busy` takes the one with the fewest calls for its weight. `latency` takes
    one of the fastest; one of unknown latency counts as fast, since only a call can tell. Whoever is equal
    is drawn by weight. Deployments without a weight come last, as they are listed. `draw` is uniform in
    [0, 1) and decides the whole order.
    """
    drawn = _by_weight(deployments, draw)
    shares = [index for index in drawn if deployments[index].weight > 0]
    spare = drawn[len(shares) :]
    if strategy == "least_busy":
        shares.sort(key=lambda index: busy(deployments[index].key) / deployments[index].weight)
    elif strategy == "latency":
        known = {index: latency(deployments[index].key) for index in shares}
        fastest = min((seconds for seconds in known.values() if seconds is not None), default=0.0)

        def slowness(index: int) -> float:
            seconds = known[index]
            return 0.0 if seconds is None or seconds <= fastest * NEAR else seconds

        shares.sort(key=slowness)
    return shares + spare


def _by_weight(deployments: Sequence[Deployment], draw: float) -> list[int]:
    """Drawn by weight without putting back. What a choice leaves of the draw is as uniform as the draw was,
    and makes the next choice."""
    left = [index for index, deployment in enumerate(deployments) if deployment.weight > 0]
    spare = [index for index, deployment in enumerate(deployments) if not deployment.weight > 0]
    chosen: list[int] = []
    while left:
        point = draw * sum(deployments[index].weight for index in left)
        at = 0
        while at < len(left) - 1 and point >= deployments[left[at]].weight:
            point -= deployments[left[at]].weight
            at += 1
        index = left.pop(at)
        draw = min(max(point / deployments[index].weight, 0.0), 1.0)
        chosen.append(index)
    return chosen + spare


@dataclass(slots=True)
class Latencies:
    """Seconds to the first byte, per deployment. One per worker."""

    _known: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    """Latency and when it was measured; those measured last stand last."""

    def saw(self, key: str, seconds: float, now: float) -> None:
        """A call took so long to its first byte. `now` is in seconds of any clock that does not go back."""
        before, at = self._known.get(key, (seconds, now))
        # What was measured long ago says little about how fast it is now.
        kept = (1 - NEW_SHARE) * _share_left(now - at)
        self._known[key] = (kept * before + (1 - kept) * seconds, now)
        self._known.move_to_end(key)
        if len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)

    def of(self, key: str, now: float) -> float | None:
        """What is to be expected of a deployment; None for one that was never measured."""
        found = self._known.get(key)
        if found is None:
            return None
        seconds, at = found
        return seconds * _share_left(now - at)


def _share_left(age_s: float) -> float:
    return math.exp2(-max(age_s, 0.0) / HALF_LIFE_S)
