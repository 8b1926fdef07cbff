"""What streams of an agent usually come to, so that a short answer need not reserve a long one's price."""

from __future__ import annotations

from collections import OrderedDict, deque

FIRST_RESERVE = 1024
"""Output tokens to reserve for a stream of an agent that has not been seen."""
HEADROOM = 1.25
_SAMPLES = 64
_MIN_SAMPLES = 8
_PERCENTILE = 0.95
_MAX_AGENTS = 8192


class OutputEstimates:
    """A high percentile of the last outputs per principal, agent and model. Local to a worker."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, str], tuple[deque[int], int]] = OrderedDict()

    def reserve(self, principal: str, agent: str, model: str) -> int:
        """Output tokens to reserve per choice."""
        known = self._seen.get((principal, agent, model))
        return known[1] if known is not None else FIRST_RESERVE

    def learn(self, principal: str, agent: str, model: str, output_tokens: int) -> None:
        """Take the output of one finished answer, per choice."""
        key = (principal, agent, model)
        samples = self._seen[key][0] if key in self._seen else deque(maxlen=_SAMPLES)
        samples.append(output_tokens)
        reserve = FIRST_RESERVE
        if len(samples) >= _MIN_SAMPLES:
            high = sorted(samples)[min(len(samples) - 1, int(len(samples) * _PERCENTILE))]
            reserve = int(high * HEADROOM) + 16
        self._seen[key] = (samples, reserve)
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_AGENTS:
            self._seen.popitem(last=False)
