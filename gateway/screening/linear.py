"""The shipped models, for users' and for other texts: up to three stages each.

The first is linear: weights of hashed n-grams and of patterns. The second sees, for every window that the
first finds suspicious, what it is made of and how it differs from the text around it, and adds to its score.
The third reads the words in their order, where what the others say leaves it open (`reader`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.screening.features import Floats, Grams, Ints, Windows, describe, sums
from gateway.screening.patterns import NAMES
from gateway.screening.reader import Reader, of_arrays, piece_of, pieces
from gateway.values import frozen

WEIGHTS = Path(__file__).parent / "weights" / "injection.npz"

Hits = list[tuple[int, int, int]]


@frozen
class Thresholds:
    """Scores before they are scaled: from `flag` on a text is suspicious."""

    flag: float

    def raised(self, by: float) -> Thresholds:
        """The same, by so much stricter about what is an attack."""
        return Thresholds(self.flag + by)


@frozen
class Judge:
    """The second stage: a few small networks over what `describe` says, whose outputs are averaged."""

    shift: Floats
    scale: Floats
    hidden: tuple[Floats, ...]
    """Columns (the last is the bias) by units."""
    out: tuple[Floats, ...]

    def logits(self, rows: Floats) -> Floats:
        """One score for each row."""
        scaled = np.minimum(np.maximum((rows - self.shift) * self.scale, -4), 4)
        total = np.zeros(len(rows))
        for hidden, out in zip(self.hidden, self.out, strict=True):
            total += np.tanh(scaled @ hidden[:-1] + hidden[-1]) @ out[:-1] + out[-1]
        return total / len(self.hidden)


GATE = -3.0
"""Windows with a lower linear score are harmless, whatever is around them..."""
LEAST, MOST = 8, 4096
"""...but for the highest few; and no more than so many are looked at twice, the highest. In a text with more,
the others keep their linear score."""

SHARE = 0.5
"""How much of what the third stage says is added..."""
UP, DOWN = 2.0, 1.5
"""...but no more than so much, and no less than that: words chosen to please it do not hide an attack of
which the others are sure. Windows that it could not lift to the threshold are not read."""
MOST_PIECES = 8
"""Pieces of a text that are read, those with the highest scores so far; the others keep theirs."""


@frozen
class Model:
    """The model of a channel. The linear score of a window is a sum of weights over its length, plus patterns
    and bias; the second and the third stage, where there are any, add theirs."""

    words: Floats
    chars: Floats
    shapes: Floats
    patterns: Floats
    bias: float
    thresholds: Thresholds
    judge: Judge | None = None
    reader: Reader | None = None

    def parts(self, grams: Grams, windows: Windows, hits: Hits) -> Floats:
        """A row for each window: its linear score by words, characters, shapes and patterns, and their
        sum."""
        by_word, by_char, by_shape = sums(grams, windows, self.words, self.chars, self.shapes)
        by_pattern = np.zeros(len(by_word))
        first, last = grams.units[windows.first], grams.units[windows.last]
        for index, listed in places_of(hits).items():
            places = np.array(listed)
            held = places.searchsorted(last) > places.searchsorted(first)
            by_pattern += self.patterns[index] * held
        total = by_word + by_char + by_shape + by_pattern + self.bias
        return np.stack((by_word, by_char, by_shape, by_pattern, total), axis=1)

    def scores(self, grams: Grams, windows: Windows, hits: Hits) -> Floats:
        """One score for each window; a pattern counts once in a window."""
        parts = self.parts(grams, windows, hits)
        result = parts[:, -1].copy()
        if self.judge is not None:
            chosen = candidates(result)
            result = np.where(result < GATE, GATE - 9, result)
            result[chosen] = parts[chosen, -1]
            result[chosen] += self.judge.logits(described(grams, windows, hits, chosen, parts))
        if self.reader is not None:
            self._read(self.reader, grams, windows, result)
        return result

    def _read(self, reader: Reader, grams: Grams, windows: Windows, scores: Floats) -> None:
        """Add what the third stage says of the pieces that hold the windows that are left open."""
        open_ = (scores >= self.thresholds.flag - UP).nonzero()[0]
        if not len(open_):
            return
        held = piece_of(grams, windows, open_)
        asked = np.unique(held)
        if len(asked) > MOST_PIECES:
            highest = np.full(asked[-1] + 1, -np.inf)
            np.maximum.at(highest, held, scores[open_])
            asked = np.sort(np.argsort(-highest)[:MOST_PIECES])
        said = np.zeros(held.max() + 1)
        said[asked] = reader.logits(grams, pieces(len(grams.names))[asked])
        scores[open_] += np.minimum(np.maximum(SHARE * said[held], -DOWN), UP)


def candidates(scores: Floats) -> Ints:
    """The windows that the second stage looks at."""
    chosen = (scores >= GATE).nonzero()[0]
    if LEAST <= len(chosen) <= MOST:
        return chosen
    count = min(len(scores), LEAST if len(chosen) < LEAST else MOST)
    return np.sort(np.argpartition(-scores, count - 1)[:count])


def described(grams: Grams, windows: Windows, hits: Hits, chosen: Ints, parts: Floats) -> Floats:
    """The rows of the second stage."""
    present = np.zeros((len(grams.units) - 1, len(NAMES)))
    if hits:
        found = np.array(hits)
        unit = np.searchsorted(grams.units, found[:, 2] - 1, side="right") - 1
        present[np.clip(unit, 0, len(present) - 1), found[:, 0]] = 1
    return describe(grams, windows, chosen, parts, present)


def places_of(hits: Hits) -> dict[int, list[int]]:
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
        for table in ("words", "chars", "shapes"):
            weights = getattr(model, table)[:-1]
            steps[table] = float(np.abs(weights).max()) / 127 or 1.0
            arrays[f"{name}_{table}"] = np.round(weights / steps[table]).astype(np.int8)
        about[name] = {
            "steps": steps,
            "patterns": [round(float(w), 4) for w in model.patterns],
            "bias": round(model.bias, 4),
            "flag": round(model.thresholds.flag, 3),
            "judges": 0,
            "reads": False,
        }
        if model.judge is not None:
            about[name]["judges"] = len(model.judge.hidden)
            arrays[f"{name}_scale"] = np.stack((model.judge.shift, model.judge.scale)).astype(np.float32)
            arrays[f"{name}_hidden"] = np.stack(model.judge.hidden).astype(np.float16)
            arrays[f"{name}_out"] = np.stack(model.judge.out).astype(np.float16)
        if model.reader is not None:
            about[name]["reads"] = True
            arrays |= model.reader.arrays(f"{name}_reader")
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
                shapes=_table(file[f"{name}_shapes"], facts["steps"]["shapes"]),
                patterns=np.array(facts["patterns"]),
                bias=facts["bias"],
                thresholds=Thresholds(facts["flag"]),
                judge=_judge(file, name) if facts["judges"] else None,
                reader=of_arrays(file, f"{name}_reader") if facts.get("reads") else None,
            )
            for name, facts in about.items()
        }


def _judge(file: Mapping[str, NDArray[Any]], name: str) -> Judge:
    shift, scale = file[f"{name}_scale"].astype(np.float64)
    hidden, out = (file[f"{name}_{part}"].astype(np.float64) for part in ("hidden", "out"))
    return Judge(shift, scale, tuple(hidden), tuple(out))
