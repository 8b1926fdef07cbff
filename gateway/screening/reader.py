"""The third stage: a small convolutional network that reads a piece of a text word by word.

The first two stages count words and weigh them; this one sees what each word means, as a vector made from
the word embeddings of a sentence model, and in which order they stand. So it finds orders in words that no
text of the training had. It is asked about the few windows that are left after the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.screening.features import Floats, Grams, Ints, Windows
from gateway.values import frozen

VOCABULARY = Path(__file__).parent / "weights" / "words.npz"

Singles = NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)

WORDS, STEP = 64, 40
"""Words in a piece, and from the beginning of one to that of the next; the last one ends with the text."""
DILATIONS = (1, 2, 4)
"""How far apart the three words are that a convolution sees at once."""
FLAGS = 2
"""Inputs beside the vector: whether a sentence begins here, and whether the word is unknown."""


@frozen
class Vocabulary:
    """Words by the hash of `Grams.names`, in rising order, and a vector for each."""

    names: NDArray[np.uint64]
    vectors: NDArray[np.int8]
    step: float
    """What one unit of the vectors stands for."""

    def inputs(self, g: Grams, starts: Ints) -> tuple[Singles, NDArray[np.bool_]]:
        """The pieces that begin at these words, as (pieces, words, inputs), and which words are there."""
        count = len(g.names)
        at = starts[:, None] + np.arange(min(WORDS, count))
        present = at < count
        at = np.minimum(at, count - 1)
        names = g.names[at]
        found = np.minimum(self.names.searchsorted(names), len(self.names) - 1)
        begins = np.zeros(count, np.bool_)
        begins[g.unit_words[:-1]] = True
        width = self.vectors.shape[1]
        known = self.names[found] == names
        x = np.empty((*at.shape, width + FLAGS), np.float32)
        np.multiply(self.vectors[found], (np.float32(self.step) * known)[:, :, None], out=x[:, :, :width])
        x[:, :, width] = begins[at]
        x[:, :, width + 1] = ~known
        x[~present] = 0
        return x, present


@lru_cache(maxsize=2)
def vocabulary(path: Path = VOCABULARY) -> Vocabulary:
    """The words of a file that `benchmarks.word_vectors` wrote. Raises OSError or ValueError without one."""
    with np.load(path, allow_pickle=False) as file:
        return Vocabulary(file["names"], file["vectors"], float(file["step"]))


def pieces(words: int) -> Ints:
    """Where the pieces of a text of so many words begin."""
    return np.arange(0, max(words - WORDS + STEP - 1, 0) // STEP + 1) * STEP


def piece_of(g: Grams, windows: Windows, chosen: Ints) -> Ints:
    """For each of the windows `chosen` the piece in whose middle it stands most nearly, by its number."""
    middle = (g.unit_words[windows.first[chosen]] + g.unit_words[windows.last[chosen]]) // 2
    nearest = (middle - WORDS // 2 + STEP // 2) // STEP
    result: Ints = np.minimum(np.maximum(nearest, 0), len(pieces(len(g.names))) - 1)
    return result


def side_by_side(x: NDArray[Real], dilation: int) -> NDArray[Real]:
    """For each word the one so far before it, itself, and the one so far behind it; zeros at the ends."""
    count, length, width = x.shape
    result = np.empty((count, length, 3 * width), x.dtype)
    result[:, :dilation, :width] = 0
    result[:, dilation:, :width] = x[:, :-dilation]
    result[:, :, width : 2 * width] = x
    result[:, :-dilation, 2 * width :] = x[:, dilation:]
    result[:, -dilation:, 2 * width :] = 0
    return result


def product(x: NDArray[Real], matrix: NDArray[Real]) -> NDArray[Real]:
    """`x @ matrix` in one call of BLAS instead of one for each piece."""
    result: NDArray[Real] = (x.reshape(-1, x.shape[2]) @ matrix).reshape(*x.shape[:2], -1)
    return result


def attention(scores: NDArray[Real], present: NDArray[np.bool_]) -> NDArray[Real]:
    """Each head's shares of the words of a piece, which add up to 1."""
    if not present.all():
        scores = np.where(present[:, :, None], scores, np.array(-1e4, scores.dtype))
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: NDArray[Real] = raised / raised.sum(axis=1, keepdims=True)
    return result


@frozen
class Reader:
    """Three convolutions, of which the second and the third add to what they see; then attention and maximum
    over the words of the piece; then one hidden layer."""

    words: Vocabulary
    kernels: tuple[Singles, ...]
    """Three times the inputs, by channels."""
    biases: tuple[Singles, ...]
    heads: Singles
    """Channels by heads of the attention."""
    hidden: Singles
    """Heads and maximum, each of all channels, by units; the last row is the bias."""
    out: Singles
    """One for each unit, and the bias."""

    def logits(self, g: Grams, starts: Ints) -> Floats:
        """One score for each piece of a text, given where they begin."""
        return self.read(*self.words.inputs(g, starts))

    def read(self, x: Singles, present: NDArray[np.bool_]) -> Floats:
        """The same of pieces as `Vocabulary.inputs` gives them."""
        absent = None if present.all() else ~present[:, :, None]
        for number, (kernel, bias, dilation) in enumerate(
            zip(self.kernels, self.biases, DILATIONS, strict=True)
        ):
            y = product(side_by_side(x, dilation), kernel)
            y += bias
            np.maximum(y, 0, out=y)
            if number:
                y += x
            if absent is not None:
                np.copyto(y, 0, where=absent)
            x = y
        shares = attention(product(x, self.heads), present)
        pooled = (shares.transpose(0, 2, 1) @ x).reshape(len(x), -1)
        # Nothing is negative here, so that words that are not there change no maximum.
        both = np.concatenate((pooled, x.max(axis=1)), axis=1)
        units = np.maximum(both @ self.hidden[:-1] + self.hidden[-1], 0)
        result: Floats = (units @ self.out[:-1] + self.out[-1]).astype(np.float64)
        return result

    def arrays(self, name: str) -> dict[str, Any]:
        """What `of_arrays` makes the same of, in half precision."""
        listed: dict[str, Any] = {f"{name}_heads": self.heads, f"{name}_hidden": self.hidden}
        listed[f"{name}_out"] = self.out
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            listed[f"{name}_kernel{number}"], listed[f"{name}_bias{number}"] = kernel, bias
        return {key: value.astype(np.float16) for key, value in listed.items()}


def of_arrays(file: Mapping[str, NDArray[Any]], name: str) -> Reader:
    """The reader of a file of weights, with the shipped vocabulary. Raises KeyError where it has none of that
    name, and what `vocabulary` does."""

    def one(key: str) -> Singles:
        return file[f"{name}_{key}"].astype(np.float32)

    layers = range(len(DILATIONS))
    return Reader(
        words=vocabulary(),
        kernels=tuple(one(f"kernel{number}") for number in layers),
        biases=tuple(one(f"bias{number}") for number in layers),
        heads=one("heads"),
        hidden=one("hidden"),
        out=one("out"),
    )
