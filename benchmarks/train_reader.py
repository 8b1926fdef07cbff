"""The third stage's training: gradients by hand, Adam, on one core; called by `train_injection`.

Every document gives a few pieces an epoch: of an attack those that hold most of it, and now and then one
without any of it; of a harmless document any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.screening.features import Grams
from gateway.screening.reader import (
    DILATIONS,
    FLAGS,
    WORDS,
    Reader,
    Singles,
    Vocabulary,
    attention,
    pieces,
    product,
    side_by_side,
)

CHANNELS, HEADS, UNITS = 64, 4, 32
EPOCHS, BATCH, EACH = 3, 64, 2
RATE, DECAY, LONGEST = 2e-3, 0.02, 1.0
"""Adam's step at its highest, the decay of weights, and the longest gradient."""
_WARM = 200
"""Steps until the rate is at its highest; from there it falls to zero."""
_WITHOUT, _WITHOUT_WORDS, _WITHOUT_LAST = 0.15, 0.1, 0.2
"""Shares of inputs, of whole words, and of what the hidden layer sees, that are left out at each step."""
_MOST = 0.6
"""How much of an attack, or of a piece, makes it one."""
_MOST_PIECES = 6
"""Pieces of a harmless document that are drawn from."""

Array = NDArray[np.floating]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Example:
    """A document as the third stage learns from it."""

    grams: Grams
    attack: tuple[int, int] | None
    """Where the attack stands, in characters; (0, 0) where that is not known; `None` in a harmless text."""


@dataclass(frozen=True)
class _Piece:
    example: int
    start: int
    label: float
    rest: bool
    """A harmless piece of a document with an attack."""


def initial(width: int, rng: np.random.Generator) -> Weights:
    """Weights to begin with, uniform within one over the root of what each unit sees."""

    def uniform(*shape: int) -> Array:
        bound = shape[0] ** -0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    weights = {"heads": uniform(CHANNELS, HEADS)}
    for number in range(len(DILATIONS)):
        weights[f"kernel{number}"] = uniform(3 * (CHANNELS if number else width), CHANNELS)
        weights[f"bias{number}"] = np.zeros(CHANNELS, np.float32)
    weights["hidden"] = np.concatenate(
        (uniform((HEADS + 1) * CHANNELS, UNITS), np.zeros((1, UNITS), np.float32))
    )
    weights["out"] = np.append(uniform(UNITS), np.float32(0)).astype(np.float32)
    return weights


def loss_and_gradients(
    w: Weights, x: Array, present: NDArray[np.bool_], labels: Array, kept: Array
) -> tuple[float, Weights]:
    """The mean logistic loss of pieces, and its gradient by every weight.

    `x` is (pieces, words, inputs); `kept` is what the hidden layer sees of heads and maximum: zero for what
    is left out, and more than one for the rest.
    """
    here = present[:, :, None]
    seen, active, layers = [], [], []
    for number, dilation in enumerate(DILATIONS):
        seen.append(side_by_side(x, dilation))
        y = np.maximum(product(seen[-1], w[f"kernel{number}"]) + w[f"bias{number}"], 0) * here
        active.append(y > 0)
        x = y if number == 0 else x + y
        layers.append(x)
    count, length, channels = x.shape
    shares = attention(product(x, w["heads"]), present)
    pooled = (shares.transpose(0, 2, 1) @ x).reshape(count, -1)
    at = np.where(here, x, np.array(-1e4, x.dtype)).argmax(axis=1)
    highest = np.take_along_axis(x, at[:, None, :], axis=1)[:, 0]
    both = np.concatenate((pooled, highest), axis=1) * kept
    units = np.maximum(both @ w["hidden"][:-1] + w["hidden"][-1], 0)
    margin = units @ w["out"][:-1] + w["out"][-1]
    loss = float(np.logaddexp(0, (1 - 2 * labels) * margin).mean())

    slope = ((1 / (1 + np.exp(-margin)) - labels) / count).astype(x.dtype)
    g: Weights = {"out": np.append(units.T @ slope, slope.sum())}
    back = np.outer(slope, w["out"][:-1]) * (units > 0)
    g["hidden"] = np.concatenate((both.T @ back, back.sum(axis=0, keepdims=True)))
    back = (back @ w["hidden"][:-1].T) * kept
    by_head = back[:, : pooled.shape[1]].reshape(count, -1, channels)
    to_x = shares @ by_head
    to_shares = x @ by_head.transpose(0, 2, 1)
    to_scores = shares * (to_shares - (shares * to_shares).sum(axis=1, keepdims=True))
    g["heads"] = x.reshape(-1, channels).T @ to_scores.reshape(count * length, -1)
    to_x += to_scores @ w["heads"].T
    rows = np.arange(count)[:, None], at, np.arange(channels)[None]
    to_x[rows] += back[:, pooled.shape[1] :]
    for number in reversed(range(len(DILATIONS))):
        to_y = (to_x * active[number]).reshape(count * length, channels)
        g[f"kernel{number}"] = seen[number].reshape(count * length, -1).T @ to_y
        g[f"bias{number}"] = to_y.sum(axis=0)
        if number:
            to_x = to_x + _together(to_y @ w[f"kernel{number}"].T, count, length, DILATIONS[number])
    return loss, g


def _together(gradient: Array, count: int, length: int, dilation: int) -> Array:
    """The gradient by what `side_by_side` was given, from that by what it made of it."""
    parts = gradient.reshape(count, length, 3, -1)
    result = parts[:, :, 1].copy()
    result[:, :-dilation] += parts[:, dilation:, 0]
    result[:, dilation:] += parts[:, :-dilation, 2]
    return result


class _Adam:
    """Adam, with the decay of weights apart from the gradient."""

    def __init__(self, weights: Weights) -> None:
        self._first = {name: np.zeros_like(w) for name, w in weights.items()}
        self._second = {name: np.zeros_like(w) for name, w in weights.items()}
        self._steps = 0

    def step(self, weights: Weights, gradients: Weights, rate: float) -> None:
        """Change the weights in place."""
        length = sum(float((g * g).sum()) for g in gradients.values()) ** 0.5
        shorten = min(1.0, LONGEST / (length + 1e-6))
        self._steps += 1
        for name, w in weights.items():
            g = gradients[name] * shorten
            first, second = self._first[name], self._second[name]
            first += 0.1 * (g - first)
            second += 0.001 * (g * g - second)
            mean, spread = first / (1 - 0.9**self._steps), second / (1 - 0.999**self._steps)
            w *= 1 - rate * DECAY
            w -= rate * mean / (np.sqrt(spread) + 1e-8)


def _pieces(examples: Sequence[Example]) -> list[_Piece]:
    """All pieces that may be drawn."""
    found = []
    for index, example in enumerate(examples):
        g = example.grams
        count = len(g.names)
        starts = pieces(count).tolist()
        if example.attack is None:
            found += [_Piece(index, start, 0.0, rest=False) for start in starts]
            continue
        first, last = _words(g, *example.attack)
        for start in starts:
            overlap = min(start + WORDS, count, last) - max(start, first)
            if overlap >= _MOST * min(last - first, WORDS):
                found.append(_Piece(index, start, 1.0, rest=False))
            elif overlap <= 0:
                found.append(_Piece(index, start, 0.0, rest=True))
    return found


def _words(g: Grams, start: int, end: int) -> tuple[int, int]:
    """The words of the sentences that stand between these characters."""
    if end <= start:
        return 0, len(g.names)
    first = max(0, int(g.units.searchsorted(start, side="right")) - 1)
    last = max(first + 1, int(g.units.searchsorted(end)))
    return int(g.unit_words[first]), int(g.unit_words[min(last, len(g.unit_words) - 1)])


def _batches(
    listed: Sequence[_Piece], lengths: NDArray[np.int64], rng: np.random.Generator
) -> list[list[int]]:
    """An epoch: pieces by their number, of like length together, in no order."""
    taken: dict[tuple[int, bool], int] = {}
    chosen = []
    for number in rng.permutation(len(listed)).tolist():
        piece = listed[number]
        key = piece.example, piece.rest
        most = EACH if not piece.rest else int(rng.random() < 0.5)
        if taken.get(key, 0) < most:
            taken[key] = taken.get(key, 0) + 1
            chosen.append(number)
    near = lengths[chosen] + rng.random(len(chosen)) * 20
    ordered = np.array(chosen)[near.argsort()].tolist()
    batches = [ordered[k : k + BATCH] for k in range(0, len(ordered), BATCH)]
    return [batches[k] for k in rng.permutation(len(batches))]


def train(
    examples: Sequence[Example], words: Vocabulary, seed: int, tell: Callable[[str], None] = print
) -> Reader:
    """A reader of these documents."""
    rng = np.random.default_rng(seed)
    listed = _pieces(examples)
    lengths = np.array([min(WORDS, len(examples[p.example].grams.names) - p.start) for p in listed])
    weights = initial(words.vectors.shape[1] + FLAGS, rng)
    width = weights["hidden"].shape[0] - 1
    adam = _Adam(weights)
    batches = [batch for _ in range(EPOCHS) for batch in _batches(listed, lengths, rng)]
    total = 0.0
    for number, batch in enumerate(batches, 1):
        x, present = _inputs([listed[k] for k in batch], examples, words)
        vectors = x[:, :, :-FLAGS]
        vectors *= (rng.random(vectors.shape, np.float32) >= _WITHOUT) / np.float32(1 - _WITHOUT)
        vectors *= (rng.random(present.shape, np.float32) >= _WITHOUT_WORDS)[:, :, None]
        kept = (rng.random((len(batch), width), np.float32) >= _WITHOUT_LAST) / np.float32(1 - _WITHOUT_LAST)
        labels = np.array([listed[k].label for k in batch], np.float32)
        loss, gradients = loss_and_gradients(weights, x, present, labels, kept)
        rate = RATE * min(1.0, number / _WARM) * (1 - (number - 1) / len(batches))
        adam.step(weights, gradients, rate)
        total += loss
        if number % 500 == 0:
            tell(f"    reader: {number} of {len(batches)} steps, loss {total / 500:.4f}")
            total = 0.0
    return as_reader(weights, words)


def _inputs(
    batch: Sequence[_Piece], examples: Sequence[Example], words: Vocabulary
) -> tuple[Singles, NDArray[np.bool_]]:
    """The pieces of a batch, as long as the longest."""
    found = [words.inputs(examples[piece.example].grams, np.array([piece.start])) for piece in batch]
    length = max(p.shape[1] for _, p in found)
    x = np.zeros((len(batch), length, found[0][0].shape[2]), np.float32)
    present = np.zeros((len(batch), length), np.bool_)
    for number, (rows, here) in enumerate(found):
        x[number, : rows.shape[1]] = rows[0]
        present[number, : here.shape[1]] = here[0]
    return x, present


def as_reader(w: Weights, words: Vocabulary) -> Reader:
    """Weights as a reader."""
    layers = range(len(DILATIONS))
    return Reader(
        words=words,
        kernels=tuple(w[f"kernel{number}"].astype(np.float32) for number in layers),
        biases=tuple(w[f"bias{number}"].astype(np.float32) for number in layers),
        heads=w["heads"].astype(np.float32),
        hidden=w["hidden"].astype(np.float32),
        out=w["out"].astype(np.float32),
    )
