"""The shipped linear models: weights of hashed n-grams and of patterns, for users' and for other texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.screening.features import Floats, Grams, Windows, sums
from gateway.values import frozen

WEIGHTS = Path(__file__).parent / "weights" / "injection.npz"

Hits = list[tuple[int, int, int]]


@frozen
class Thresholds:
    """Scores before they are scaled: from `flag` on a text is suspicious, from `sure` on it is refused."""

    flag: float
    sure: float

    def raised(self, by: float) -> Thresholds:
        """The same, by so much stricter about what is an attack."""
        return Thresholds(self.flag + by, self.sure + by)


@frozen
class Model:
    """One linear model. The score of a window is a sum of weights over its length, plus patterns and bias."""

    words: Floats
    chars: Floats
    patterns: Floats
    bias: float
    thresholds: Thresholds

    def scores(self, grams: Grams, windows: Windows, hits: Hits) -> Floats:
        """One score for each window; a pattern counts once in a window."""
        total = sums(grams, windows, self.words, self.chars) + self.bias
        first, last = grams.units[windows.first], grams.units[windows.last]
        for index, places in by_pattern(hits).items():
            held = np.searchsorted(places, last) > np.searchsorted(places, first)
            total += self.patterns[index] * held
        return total


def by_pattern(hits: Hits) -> dict[int, list[int]]:
    """Where the matches of each pattern end, in order: at its last character, in the sentence it is about."""
    places: dict[int, list[int]] = {}
    for index, _start, end in hits:
        places.setdefault(index, []).append(end - 1)
    return places


def save(models: Mapping[str, Model], path: Path = WEIGHTS) -> None:
    """Write models to a file, n-gram weights rounded to one byte each."""
    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name, model in models.items():
        steps = {}
        for table in ("words", "chars"):
            weights = getattr(model, table)[:-1]
            steps[table] = float(np.abs(weights).max()) / 127 or 1.0
            arrays[f"{name}_{table}"] = np.round(weights / steps[table]).astype(np.int8)
        about[name] = {
            "steps": steps,
            "patterns": [round(float(w), 4) for w in model.patterns],
            "bias": round(model.bias, 4),
            "flag": round(model.thresholds.flag, 3),
            "sure": round(model.thresholds.sure, 3),
        }
    arrays["about"] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    np.savez_compressed(path, **arrays)


def _table(rounded: NDArray[np.int8], step: float) -> Floats:
    """Weights, with a last one of zero for n-grams that do not count."""
    return np.append(rounded * step, 0.0)


@lru_cache(maxsize=2)
def load(path: Path = WEIGHTS) -> dict[str, Model]:
    """The models of a file that `save` wrote. Raises OSError or ValueError where there is none."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        return {
            name: Model(
                words=_table(file[f"{name}_words"], facts["steps"]["words"]),
                chars=_table(file[f"{name}_chars"], facts["steps"]["chars"]),
                patterns=np.array(facts["patterns"]),
                bias=facts["bias"],
                thresholds=Thresholds(facts["flag"], facts["sure"]),
            )
            for name, facts in about.items()
        }
