"""Train the injection models: `python -m benchmarks.train_injection DATA_DIR [--output FILE]`.

DATA_DIR holds `injection_dev.jsonl.gz`: one JSON object a line with `text`, `channel` (`user`, `tool`),
`label` (0, 1), `source` and `attack`. To these come texts of our own (`injection_corpus`). Everything is
seeded; the same data give the same weights.

Every document is a bag of windows. An attack has at least one window that is an attack, and a harmless
document none; so training alternates between choosing windows (the highest score of each document) and
fitting a logistic regression to them. The second stage learns from the scores of first stages that saw
nothing of a document's family. The third learns by itself (`train_reader`), from the words of
`benchmarks.word_vectors`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import sysconfig
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import injection_corpus as corpus
from benchmarks import injection_talk as talk
from benchmarks import injection_written as written
from benchmarks import train_reader
from benchmarks.injection_corpus import Text
from gateway.screening.features import (
    BITS,
    MIN_CHARS,
    MIN_WORDS,
    NONE,
    Floats,
    Grams,
    Windows,
    grams,
    windows,
)
from gateway.screening.linear import (
    WEIGHTS,
    Hits,
    Judge,
    Model,
    Thresholds,
    candidates,
    described,
    save,
)
from gateway.screening.normalise import normalise
from gateway.screening.patterns import NAMES, hits
from gateway.screening.reader import Reader, vocabulary

SEED = 20
EASE = 60
"""How much less patterns are held back than n-grams: what they say carries over to other texts."""
CHANNELS = (("tool", 50), ("user", 70))
"""The channels, and how many texts of our own are made for each kind."""
JUDGED = ("tool",)
"""Channels with a second stage. Users' prompts have no text around an attack to compare it with, and a second
stage does not find more of them."""
READ = ("tool", "user")
"""Channels with a third stage."""
FOLDS = 3
"""Parts into which the families are dealt for the second stage."""
SIZE = 1 << BITS
THRESHOLDS = {"tool": Thresholds(2.6), "user": Thresholds(1.2)}
"""Chosen by hand between what cross-validation says, which leaves out whole kinds of texts that the shipped
models have seen, and what texts of no source in training score; see the model card."""
COLUMNS = 3 * SIZE + len(NAMES) + 1
"""Words, characters, shapes, patterns, bias."""

WEAK = frozenset(
    (
        "Information Retrieval",
        "Learning and Tutoring",
        "Programming Help",
        "Conversational Agent",
        "Research Assistance",
        "Task Automation",
        "Business Intelligence",
        "Content Creation",
        "Sentiment Analysis",
        "Language Translation",
    )
)
"""BIPIA's harmless questions out of context; attacks only by where they stand."""


@dataclass(frozen=True)
class Document:
    """A text as windows of features."""

    text: Text
    family: str
    weight: float
    grams: Grams
    windows: Windows
    hits: Hits


def is_weak(attack: str) -> bool:
    """Whether an attack is a mere question."""
    if attack == f"written/{written.ERRANDS}":
        return True
    return attack.startswith("bipia/") and attack.split("/")[1] in WEAK


def records(data: Path, channel: str) -> list[tuple[Text, str]]:
    """The data's texts of a channel, each with its family."""
    with gzip.open(data / "injection_dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["channel"] == channel]
    contexts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if not row["label"]:
            for key in (row["text"][:_KEY], row["text"][-_KEY:]):
                contexts[row["source"], key].append(row["text"])
    return [(_labelled(row, contexts), _FAMILY.sub("", row["source"])) for row in rows]


_FAMILY = re.compile("_(train|test|direct)$")
_KEY = 40


def _labelled(row: dict[str, Any], contexts: dict[tuple[str, str], list[str]]) -> Text:
    text, source = row["text"], row["source"]
    if not row["label"]:
        return Text(text, False, str(row.get("kind") or source), 0, 0, source, source)
    around = contexts[source, text[:_KEY]] + contexts[source, text[-_KEY:]]
    start, end = min(
        (_difference(text, context) for context in around), key=lambda s: s[1] - s[0], default=(0, 0)
    )
    return Text(text, True, str(row["attack"]), start, end, source, source)


def _difference(text: str, context: str) -> tuple[int, int]:
    """Where `text` differs from the harmless text that it was made of."""
    start = _shared(text, context)
    return start, len(text) - _shared(text[start:][::-1], context[start:][::-1])


def _shared(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def background(count: int) -> list[tuple[Text, str]]:
    """Harmless prose and code that every checkout has at hand: pieces of Python's library, of the
    descriptions of the packages installed for development, and of the types of two provider SDKs."""
    rng = random.Random(SEED)
    library = Path(sysconfig.get_path("stdlib"))
    folders = (".", "email", "json", "http", "asyncio", "unittest", "pydoc_data")
    files = [file for folder in folders for file in sorted((library / folder).glob("*.py"))]
    packages = {
        d.metadata["Name"].lower(): (d.read_text("METADATA") or "").partition("\n\n")[2]
        for d in distributions()
    }
    clients = [Path(str(root)) for root in map(files_of, ("openai", "anthropic"))]
    code = [file for root in clients for file in sorted((root / "types").rglob("*.py"))]
    sources = {
        "python": [file.read_text("utf-8", "replace") for file in files],
        "clients": [file.read_text("utf-8") for file in code],
        "packages": [text for _, text in sorted(packages.items())],
    }
    found = []
    for name, texts in sources.items():
        long_enough = [text for text in texts if len(text) > 1000]
        for _ in range(count // (3 if name == "clients" else 1)):
            text = rng.choice(long_enough)
            at = text.rfind("\n", 0, rng.randrange(len(text) - 300) + 1) + 1
            found.append((Text(text[at : at + rng.randint(300, 2500)], False, name, source=name), name))
    return found


def conversations(rows: Sequence[tuple[Text, str]]) -> list[tuple[Text, str]]:
    """What users say, as transcripts and lists that a tool may return."""
    rng = random.Random(SEED)
    said = [text.text for text, _ in rows if text.source in ("sgd_user", "apibank_user")]
    stories = [text.text for text, _ in rows if text.source == "gsm8k"]
    found = [(Text(story, False, "stories", source="gsm8k"), "gsm8k") for story in stories]
    # Every other one is left for measuring.
    said = [text for text in said if zlib.crc32(text.encode()) % 2]
    for number in range(600):
        text = talk.listed(rng, said) if number % 5 == 0 else talk.transcript(rng, said)
        found.append((Text(text, False, "transcripts", source="transcripts"), "transcripts"))
    return found


def own(data: Sequence[tuple[Text, str]], channel: str, each: int) -> list[tuple[Text, str]]:
    """Texts of our own for a channel; harmless texts of the data are their hosts."""
    rng = random.Random(SEED)
    hosts = [(text.text, text.source) for text, _ in data if not text.attack]
    made: list[tuple[Text, str]] = []

    def add(texts: Iterable[Text], family: str | None = None) -> None:
        made.extend((text, family or "own/" + text.kind.split("/")[0]) for text in texts)

    add(corpus.tool_attacks(rng, hosts, each) if channel == "tool" else corpus.user_attacks(rng, hosts, each))
    add(
        corpus.tool_benign(rng, each)
        if channel == "tool"
        else corpus.user_benign(rng, hosts, max(2, each // 20))
    )
    if channel == "tool":
        add(corpus.generated(rng, hosts, each * 3))
        add(written.attacks(rng, hosts))
        add(written.harmless(rng))
    else:
        add(corpus.users_grammar(rng, hosts, each * 12))
        add(written.users(rng, hosts))
    for half in (0, 1):
        family = f"own/languages {half + 1}"
        if channel == "tool":
            add(corpus.foreign_attacks(rng, hosts, each * 3 // 5, half), family)
        else:
            add(corpus.foreign_user_attacks(rng, each // 5, half), family)
        add(corpus.foreign_benign(rng, each // 3, half), family)
    return made


_SOURCE = 600
"""Texts of one source with one label count as at most so many."""


def prepare(texts: Iterable[tuple[Text, str]]) -> list[Document]:
    """Features of texts. Large sources count less, so that none outweighs the rest."""
    listed = list(texts)
    sizes = Counter((text.source, text.attack) for text, _ in listed if text.source != "own")
    documents = []
    for text, family in listed:
        form = normalise(text.text)
        g = grams(form.text)
        if g is None:
            continue
        weight = 1.0
        if text.source != "own":
            weight = min(1.0, _SOURCE / sizes[text.source, text.attack])
        weight *= 0.25 if is_weak(text.kind) else 1.0
        documents.append(Document(text, family, weight, g, windows(g), hits(g.folded)))
    return documents


# --- choosing windows

Row = tuple[int, int, int]
"""A document, and the first and last sentence of a window of it."""


def _inside(document: Document) -> NDArray[np.bool_]:
    """The windows that overlap the attack by half of themselves; all, where it is not known where it is."""
    text, view = document.text, document.windows
    if text.end == 0:
        return np.ones(len(view.first), bool)
    start, end = document.grams.units[view.first], document.grams.units[view.last]
    overlap = np.minimum(end, text.end) - np.maximum(start, text.start)
    half: NDArray[np.bool_] = overlap * 2 >= np.minimum(end - start, text.end - text.start)
    return half if half.any() else overlap == overlap.max()


def choose(documents: Sequence[Document], model: Model | None, rng: np.random.Generator) -> set[Row]:
    """The windows to train on next."""
    rows: set[Row] = set()
    for index, document in enumerate(documents):
        view = document.windows
        allowed = np.arange(len(view.first))
        if document.text.attack:
            if model is None and document.text.end == 0:
                continue
            allowed = allowed[_inside(document)]
        if model is None:
            chosen = rng.choice(allowed, min(len(allowed), 2 if document.text.attack else 3), replace=False)
            if document.text.attack:
                chosen = np.append(chosen, allowed[np.argmax(view.last[allowed] - view.first[allowed])])
        else:
            scores = model.scores(document.grams, view, document.hits)[allowed]
            chosen = (
                allowed[np.argsort(scores)[-4:]]
                if not document.text.attack
                else allowed[[int(np.argmax(scores))]]
            )
        rows |= {(index, int(view.first[k]), int(view.last[k])) for k in chosen}
    return rows


# --- the regression

Sparse = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


def matrix(documents: Sequence[Document], rows: Sequence[Row]) -> Sparse:
    """Columns, values and row starts of the chosen windows."""
    columns: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    starts = [0]
    for index, first, last in rows:
        document = documents[index]
        g = document.grams
        words = g.words[:, g.unit_words[first] : g.unit_words[last]]
        at = g.squeezed[g.units]
        chars = g.chars[:, at[first] : at[last]]
        shapes = g.shapes[:, g.unit_words[first] : g.unit_words[last]]
        words, chars, shapes = words[words != NONE], chars[chars != NONE], shapes[shapes != NONE]
        low, high = g.units[first], g.units[last]
        present = {pattern for pattern, _, end in document.hits if low < end <= high}
        seen = [3 * SIZE + pattern for pattern in sorted(present)]
        listed = (words, SIZE + chars, 2 * SIZE + shapes, seen, [COLUMNS - 1])
        columns.append(np.concatenate(listed).astype(np.int64))
        value = np.ones(len(columns[-1]), np.float32)
        value[: len(words)] = 1 / max(len(words), MIN_WORDS) ** 0.5
        value[len(words) : len(words) + len(chars)] = 1 / max(len(chars), MIN_CHARS) ** 0.5
        done = len(words) + len(chars)
        value[done : done + len(shapes)] = 1 / max(len(shapes), MIN_WORDS) ** 0.5
        values.append(value)
        starts.append(starts[-1] + len(columns[-1]))
    return np.concatenate(columns), np.concatenate(values), np.array(starts)


def fit(sparse: Sparse, labels: Floats, weights: Floats, start: Floats, penalty: float, steps: int) -> Floats:
    """Logistic regression with an L2 penalty, by L-BFGS."""
    columns, values, starts = sparse
    lengths = np.diff(starts)
    decay = np.full(COLUMNS, penalty)
    decay[3 * SIZE : -1] = penalty / EASE
    decay[-1] = 0

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = np.add.reduceat(w.astype(np.float32)[columns] * values, starts[:-1]).astype(np.float64)
        signed = margin * (2 * labels - 1)
        value = float((weights * np.logaddexp(0, -signed)).sum() + 0.5 * (decay * w * w).sum())
        slope = weights * (1 / (1 + np.exp(-np.clip(margin, -60, 60))) - labels)
        gradient = np.bincount(columns, weights=values * np.repeat(slope, lengths), minlength=COLUMNS)
        return value, gradient + decay * w

    return _minimise(loss, start, steps)


Loss = Callable[[Floats], tuple[float, Floats]]
"""Weights to the loss and its gradient."""


def _minimise(loss: Loss, w: Floats, steps: int, memory: int = 8) -> Floats:
    value, gradient = loss(w)
    pairs: list[tuple[Floats, Floats, float]] = []
    for _ in range(steps):
        direction = -_two_loops(gradient, pairs)
        slope = float(direction @ gradient)
        size = 1.0 if pairs else 1.0 / max(1.0, float(np.abs(gradient).sum()) ** 0.5)
        for _ in range(20):
            candidate = w + size * direction
            new, new_gradient = loss(candidate)
            if new <= value + 1e-4 * size * slope:
                break
            size /= 2
        s, y = candidate - w, new_gradient - gradient
        if float(s @ y) > 1e-10:
            pairs = [*pairs[1 - memory :], (s, y, 1 / float(s @ y))]
        done = value - new < 1e-5 * abs(value)
        w, value, gradient = candidate, new, new_gradient
        if done:
            break
    return w


def _two_loops(gradient: Floats, pairs: Sequence[tuple[Floats, Floats, float]]) -> Floats:
    q = gradient.copy()
    alphas = []
    for s, y, rho in reversed(pairs):
        alphas.append(rho * float(s @ q))
        q -= alphas[-1] * y
    if pairs:
        s, y, rho = pairs[-1]
        q /= rho * float(y @ y)
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - rho * float(y @ q)) * s
    return q


def as_model(w: Floats) -> Model:
    """Weights as a model, without thresholds."""
    return Model(
        np.append(w[:SIZE], 0.0),
        np.append(w[SIZE : 2 * SIZE], 0.0),
        np.append(w[2 * SIZE : 3 * SIZE], 0.0),
        w[3 * SIZE : -1].copy(),
        float(w[-1]),
        Thresholds(0.0),
    )


def train(documents: Sequence[Document], rounds: int = 3, penalty: float = 1.0, steps: int = 30) -> Model:
    """A model for a channel's documents."""
    rng = np.random.default_rng(SEED)
    rows = choose(documents, None, rng)
    w = np.zeros(COLUMNS)
    for turn in range(rounds):
        listed = sorted(rows)
        labels = np.array([float(documents[i].text.attack) for i, _, _ in listed])
        weights = np.array([documents[i].weight for i, _, _ in listed])
        w = fit(matrix(documents, listed), labels, weights, w, penalty, steps)
        if turn + 1 < rounds:
            found = choose(documents, as_model(w), rng)
            # Earlier windows of attacks were guesses; harmless windows stay harmless.
            rows = {
                row for row in rows if not documents[row[0]].text.attack or documents[row[0]].text.end
            } | found
            steps = 18
    return as_model(w)


# --- the second stage


@dataclass(frozen=True)
class Candidates:
    """The windows of a document that the second stage sees."""

    rows: NDArray[Any]
    allowed: NDArray[np.bool_]
    """Those that may stand for the document's attack."""
    linear: Floats
    """Their scores by the first stage."""


_LOOKED_AT = 60
_UNITS, _DECAY, _STEPS, _ROUNDS = 4, 1e-3, (25, 12), 2
"""Few units and few steps: more fit the families seen, and find less of others."""


def describe_all(model: Model, documents: Sequence[Document]) -> list[Candidates]:
    """What the second stage sees of documents after a first stage."""
    found = []
    for document in documents:
        view = document.windows
        parts = model.parts(document.grams, view, document.hits)
        chosen = candidates(parts[:, -1])
        if len(chosen) > _LOOKED_AT:
            chosen = chosen[np.argsort(-parts[chosen, -1])[:_LOOKED_AT]]
        rows = described(document.grams, view, document.hits, chosen, parts).astype(np.float32)
        allowed = _inside(document)[chosen] if document.text.attack else np.ones(len(chosen), bool)
        found.append(Candidates(rows, allowed, parts[chosen, -1]))
    return found


def _balance(documents: Sequence[Document]) -> Floats:
    """Weights such that from no source come more attacks than harmless texts, or the other way round.

    Otherwise the second stage learns what the documents look like that attacks were put into.
    """
    hosts = [d.text.host or d.text.source for d in documents]
    attacks: Counter[str] = Counter()
    harmless: Counter[str] = Counter()
    for document, host in zip(documents, hosts, strict=True):
        (attacks if document.text.attack else harmless)[host] += document.weight  # type: ignore[assignment]
    weights = []
    for document, host in zip(documents, hosts, strict=True):
        a, b = attacks[host], harmless[host]
        share = 1.0
        if host != "own" and document.text.attack:
            share = min(1.0, b / a) if b else 0.3
        elif host != "own" and a:
            share = min(1.0, a / b)
        weights.append(document.weight * share)
    return np.array(weights)


def judge(
    documents: Sequence[Document], seen: Sequence[Candidates], seeds: Sequence[int] = (0, 1, 2)
) -> Judge:
    """A second stage. As in the first, choosing windows and fitting alternate."""
    rows = np.concatenate([c.rows for c in seen])
    owner = np.repeat(np.arange(len(seen)), [len(c.rows) for c in seen])
    begin = np.concatenate(([0], np.cumsum([len(c.rows) for c in seen])))
    shift, scale = rows.mean(axis=0).astype(float), 1 / np.maximum(rows.std(axis=0), 1e-3).astype(float)
    scaled = np.clip((rows - shift) * scale, -4, 4).astype(np.float32)
    balance = _balance(documents)
    labels = np.array([float(d.text.attack) for d in documents])[owner]
    scores = np.concatenate([c.linear for c in seen])
    nets: list[Floats | None] = [None] * len(seeds)
    negatives: set[int] = set()
    result = Judge(shift, scale, (), ())
    for turn in range(_ROUNDS):
        positives = set()
        for index, (document, c) in enumerate(zip(documents, seen, strict=True)):
            own = scores[begin[index] : begin[index + 1]]
            if not document.text.attack:
                negatives |= {int(begin[index] + k) for k in np.argsort(-own)[:3]}
            elif c.allowed.any():
                positives.add(int(begin[index] + np.argmax(np.where(c.allowed, own, -np.inf))))
        listed = np.array(sorted(positives | negatives))
        weights = balance[owner[listed]]
        for label in (0.0, 1.0):
            weights[labels[listed] == label] /= weights[labels[listed] == label].sum()
        for k, seed in enumerate(seeds):
            nets[k] = _network(scaled[listed], labels[listed], weights / 2, seed, nets[k], _STEPS[turn])
        result = _as_judge(shift, scale, [n for n in nets if n is not None])
        scores = result.logits(rows)
    return result


def _network(
    rows: NDArray[np.float32], labels: Floats, weights: Floats, seed: int, start: Floats | None, steps: int
) -> Floats:
    """The weights of a network with one hidden layer, by L-BFGS."""
    columns = rows.shape[1]
    split = (columns + 1) * _UNITS
    if start is None:
        rng = np.random.default_rng(seed)
        hidden = rng.normal(0, columns**-0.5, (columns + 1, _UNITS))
        hidden[-1] = 0
        start = np.concatenate((hidden.ravel(), rng.normal(0, _UNITS**-0.5, _UNITS), [0.0]))
    decay = np.full(len(start), _DECAY)
    decay[columns * _UNITS : split] = decay[-1] = 0

    def loss(v: Floats) -> tuple[float, Floats]:
        hidden, out = v[:split].reshape(columns + 1, _UNITS).astype(np.float32), v[split:].astype(np.float32)
        active = np.tanh(rows @ hidden[:-1] + hidden[-1])
        margin = (active @ out[:-1] + out[-1]).astype(float)
        value = float(
            (weights * np.logaddexp(0, (1 - 2 * labels) * margin)).sum() + 0.5 * (decay * v * v).sum()
        )
        slope = (weights * (1 / (1 + np.exp(-np.clip(margin, -60, 60))) - labels)).astype(np.float32)
        back = np.outer(slope, out[:-1]) * (1 - active * active)
        gradient = np.concatenate(
            ((rows.T @ back).ravel(), back.sum(axis=0), active.T @ slope, [slope.sum()])
        )
        return value, gradient + decay * v

    return _minimise(loss, start, steps, memory=12)


def _as_judge(shift: Floats, scale: Floats, nets: Sequence[Floats]) -> Judge:
    split = (len(shift) + 1) * _UNITS
    return Judge(
        shift,
        scale,
        tuple(net[:split].reshape(-1, _UNITS) for net in nets),
        tuple(net[split:] for net in nets),
    )


# --- the third stage


def reader(documents: Sequence[Document]) -> Reader:
    """A third stage. A request that is all there is of a text is not for it to judge: it sees no more of a
    document around it than a piece."""
    examples = [
        train_reader.Example(d.grams, (d.text.start, d.text.end) if d.text.attack else None)
        for d in documents
        if d.family != "requests alone"
    ]
    return train_reader.train(examples, vocabulary(), SEED)


# --- families left out

SCATTERED = ("transcripts", "gsm8k", "requests alone")
"""Families that are dealt out text by text: the only ones of their kind."""
CONTEXT_ONLY = ("transcripts", "requests alone")
"""Families that only the second stage learns from: their sentences are harmless for what is around them, and
a first stage that learns them finds fewer orders in documents."""


def folds(documents: Sequence[Document], count: int) -> NDArray[np.int64]:
    """A fold for each document: whole families together, dealt out by size."""
    sizes = Counter(d.family for d in documents)
    load = np.zeros(count)
    chosen = {}
    for family, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        chosen[family] = int(np.argmin(load))
        load[chosen[family]] += size
    return np.array(
        [
            zlib.crc32(d.text.text.encode()) % count if d.family in SCATTERED else chosen[d.family]
            for d in documents
        ]
    )


def left_out(documents: Sequence[Document], count: int) -> tuple[list[Candidates], NDArray[np.int64]]:
    """All documents as first stages see them that saw nothing of their families, not even as a host of
    attacks; and the fold of each."""
    fold = folds(documents, count)
    seen: list[Candidates | None] = [None] * len(documents)
    for k in range(count):
        held = np.flatnonzero(fold == k).tolist()
        hosts = {documents[i].text.source for i in held if documents[i].family not in SCATTERED} - {"own"}
        rest = [
            d
            for d, f in zip(documents, fold, strict=True)
            if f != k and d.text.host not in hosts and d.family not in CONTEXT_ONLY
        ]
        model = train(rest)
        for i, c in zip(held, describe_all(model, [documents[i] for i in held]), strict=True):
            seen[i] = c
    return [c for c in seen if c is not None], fold


def auc(attacks: Floats, harmless: Floats) -> float:
    """The chance that an attack scores higher than a harmless text."""
    if not len(attacks) or not len(harmless):
        return float("nan")
    ordered = np.sort(harmless)
    below = np.searchsorted(ordered, attacks, "left") + np.searchsorted(ordered, attacks, "right")
    return float(below.mean() / 2 / len(harmless))


def report(documents: Sequence[Document], scores: Floats, threshold: float) -> None:
    """Tables: attacks found by family, and false alarms by kind of harmless text."""
    attack = np.array([d.text.attack for d in documents])
    weak = np.array([is_weak(d.text.kind) for d in documents])
    harmless = scores[~attack]
    print(
        f"  threshold {threshold:.2f}   all: AUC {auc(scores[attack], harmless):.4f},"
        f" found {np.mean(scores[attack] >= threshold):.3f},"
        f" without weak {np.mean(scores[attack & ~weak] >= threshold):.3f},"
        f" false alarms {np.mean(harmless >= threshold):.4f}"
    )
    for wanted, title in ((True, "found"), (False, "false alarms")):
        families = sorted({d.family for d, a in zip(documents, attack, strict=True) if a == wanted})
        for family in families:
            mask = np.array([d.family == family for d in documents]) & (attack == wanted)
            extra = f"  AUC {auc(scores[mask], harmless):.4f}" if wanted else ""
            if wanted and (mask & weak).any():
                extra += f"  without weak {np.mean(scores[mask & ~weak] >= threshold):.3f}"
            print(
                f"    {title:12} {family:28} n={mask.sum():5}"
                f"  {np.mean(scores[mask] >= threshold):.3f}{extra}"
            )


def threshold_for(channel: str, documents: Sequence[Document], scores: Floats, rate: float) -> float:
    """The score that harmless texts exceed at this rate; a source counts as at most 300 texts.

    For results of tools our own are left aside, for they are made to be hard; among users' prompts the hard
    ones are what matters.
    """
    left_aside = (*SCATTERED, "own") if channel == "tool" else ()
    listed = [
        (d, score)
        for d, score in zip(documents, scores.tolist(), strict=True)
        if not d.text.attack and d.text.source not in left_aside and d.family not in left_aside
    ]
    sizes = Counter(d.family for d, _ in listed)
    listed.sort(key=lambda pair: -pair[1])
    share = np.cumsum([min(1.0, 300 / sizes[d.family]) for d, _ in listed])
    return float(listed[int(np.searchsorted(share, rate * share[-1]))][1])


_ALIKE = 16
"""Attacks of one kind and place that are taken from a source."""


def _thinned(rows: Sequence[tuple[Text, str]]) -> list[tuple[Text, str]]:
    """Without most of the attacks of which there are many alike."""
    rng = random.Random(SEED)
    shuffled = rng.sample(rows, len(rows))
    taken: Counter[str] = Counter()
    kept = []
    for text, family in shuffled:
        taken[text.kind] += 1
        if not text.attack or not text.kind.startswith("bipia/") or taken[text.kind] <= _ALIKE:
            kept.append((text, family))
    return kept


_ASKED = ("bfcl_questions", "self_instruct_user", "self_instruct_seed", "mt_bench", "apibank_user")


def asked(data: Path, given: Sequence[tuple[Text, str]]) -> list[tuple[Text, str]]:
    """What users ask: an attack inside a tool's result, harmless where it is all there is."""
    rng = random.Random(SEED)
    users = [
        text
        for text, _ in records(data, "user")
        if not text.attack and text.source in _ASKED and 15 < len(text.text) < 500
    ]
    rng.shuffle(users)
    hosts = [(text.text, text.source) for text, _ in given if not text.attack]
    inside = corpus.requests(rng, [(text.text, text.source) for text in users[:1300]], hosts)
    alone = [
        Text(talk.alone(rng, text.text), False, "requests alone", source="requests alone")
        for text in users[1300:1900]
    ]
    return [*((text, text.kind) for text in inside), *((text, text.kind) for text in alone)]


def build(data: Path, channel: str, each: int) -> list[Document]:
    """All documents of a channel."""
    given = _thinned(records(data, channel))
    if channel == "tool":
        more = [*background(900), *conversations(records(data, "user")), *asked(data, given)]
    else:
        more = background(150)
    return prepare([*given, *more, *own(given, channel, each)])


def held_out(channel: str, documents: Sequence[Document], count: int) -> None:
    """Print what models find of sources of attacks, and flag of harmless sources, that they saw nothing of.

    The sources are dealt into `count` parts, and each part is left out by models of its own, also as hosts of
    attacks. These differ in how high they score; each has a threshold of its own, here at 0. Texts of our own
    are always trained on.
    """
    foreign = [i for i, d in enumerate(documents) if not d.family.startswith("own/")]
    part = np.full(len(documents), -1)
    part[foreign] = folds([documents[i] for i in foreign], count)
    seen = left_out(documents, FOLDS)[0] if channel in JUDGED else []
    scores: dict[str, Floats] = {}
    for k in range(count):
        held, kept = (np.flatnonzero((part == k) == same).tolist() for same in (True, False))
        hosts = {documents[i].text.source for i in held if documents[i].family not in SCATTERED} - {"own"}
        kept = [i for i in kept if documents[i].text.host not in hosts]
        rest, left = [documents[i] for i in kept], [documents[i] for i in held]
        stages = {"one stage": train([d for d in rest if d.family not in CONTEXT_ONLY])}
        if seen:
            second = judge(rest, [seen[i] for i in kept])
            stages["two stages"] = replace(stages["one stage"], judge=second)
        if channel in READ:
            before = list(stages.values())[-1]
            # Every piece is read, since the threshold is not known yet.
            stages["all stages"] = replace(before, reader=reader(rest), thresholds=Thresholds(-np.inf))
        for title, model in stages.items():
            found = np.array([model.scores(d.grams, d.windows, d.hits).max() for d in left])
            of_stage = scores.setdefault(title, np.zeros(len(documents)))
            of_stage[held] = found - threshold_for(channel, left, found, 0.01)
    for title, of_stage in scores.items():
        print(f"  {channel}, {title}; thresholds at 1 % false alarms")
        report([documents[i] for i in foreign], of_stage[foreign], 0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, report, and write the weights."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_injection", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("data", type=Path, help="the folder with injection_dev.jsonl.gz")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    models = {}
    for channel, each in CHANNELS:
        began = time.monotonic()
        documents = build(options.data, channel, each)
        print(f"{channel}: {len(documents)} texts, features in {time.monotonic() - began:.0f} s", flush=True)
        model = train([d for d in documents if d.family not in CONTEXT_ONLY])
        if channel in JUDGED:
            seen, _fold = left_out(documents, FOLDS)
            model = replace(model, judge=judge(documents, seen))
        if channel in READ:
            model = replace(model, reader=reader(documents))
        models[channel] = replace(model, thresholds=THRESHOLDS[channel])
        for name, weight in zip(NAMES, model.patterns, strict=True):
            print(f"    {name:24} {weight:+.2f}")
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    # Those who load the file while it is written get the old one.
    unfinished = options.output.with_name("unfinished.npz")
    save(models, unfinished)
    unfinished.replace(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
