"""Training texts, each written by itself: orders to agents, and what is as imperative and harmless.

They stand in `injection_written/`, pieces apart by a line of `%%`, under headings `#kind: …`. An order is put into
results of tools; a document with an order is harmless without it; a harmless piece is a result by itself, is quoted by
one, or stands among others.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from benchmarks import injection_grammar as grammar
from benchmarks.injection_corpus import Host, Text, asked, found_in, insert, placed

FOLDER = Path(__file__).with_name("injection_written")
ORDERS = (
    "orders_actions", "orders_goals", "orders_override", "orders_short", "orders_side", "orders_tasks",
    "orders_web",
)  # fmt: skip
HARMLESS = (
    "harmless_data", "harmless_lists", "harmless_mails", "harmless_manuals", "harmless_people",
    "harmless_records", "harmless_technical", "harmless_web",
)  # fmt: skip
USERS = ("user_attacks", "user_harmless")
"""What users say."""
MIXED = ("orders_override", "orders_short")
"""Orders of which users try some as well."""
OF_USERS = frozenset((
    "override", "fakesystem", "persona", "leak", "multilingual",
    "access", "continuations", "hijack", "mixedlang", "persuasion", "resets", "sayexactly",
))  # fmt: skip
"""The kinds of these."""
PLANTED = "planted"
"""Whole documents with an order in each, between `««` and `»»`."""
ERRANDS = "offtask"
"""The kind of orders that are harmless in themselves; attacks only by where they stand."""
_DOMAINS = ("com", "com", "com", "net", "org", "io", "de", "co.uk", "fr", "app", "example")
_LEAST = 40
"""Characters of a harmless piece that makes a document of its own."""

Piece = tuple[str, str]
"""Kind and text."""


@cache
def pieces(name: str) -> tuple[Piece, ...]:
    """The pieces of a file, in its order, each once."""
    kind = ""
    found: dict[str, str] = {}
    for block in re.split(
        r"^(?:%%|(?=#kind:))", (FOLDER / f"{name}.txt").read_text("utf-8"), flags=re.MULTILINE
    ):
        text = block.strip("\n")
        if text.startswith("#kind:"):
            heading, _, text = text.partition("\n")
            kind = heading.removeprefix("#kind:").strip()
        if text.strip():
            found.setdefault(text.strip("\n"), kind)
    return tuple((kind, text) for text, kind in found.items())


_RESERVED = re.compile(r"\.(?:example|test|invalid)\b")


def housed(rng: random.Random, text: str) -> str:
    """With domains as they are met: reserved ones stand in more orders than harmless texts, and mean nothing."""
    return _RESERVED.sub(lambda _: f".{rng.choice(_DOMAINS)}", text)


def planted(rng: random.Random) -> Iterator[tuple[Text, Text]]:
    """Every document with its order, and without."""
    for kind, written in pieces(PLANTED):
        before, _, rest = housed(rng, written).partition("««")
        order, _, after = rest.partition("»»")
        start = len(before)
        yield (
            Text(f"{before}{order}{after}", True, f"written/{kind}", start, start + len(order)),
            Text(f"{before}{after}", False, f"written/{kind}"),
        )


def attacks(rng: random.Random, hosts: Sequence[Host]) -> Iterator[Text]:
    """Every order twice: in a document of the data or of the seeds, and among harmless pieces or in a record."""
    for with_order, _ in planted(rng):
        yield with_order
    around = [housed(rng, text) for name in HARMLESS for _, text in pieces(name)]
    for name in ORDERS:
        for kind, written in pieces(name):
            said = housed(rng, written)
            yield placed(rng, hosts, said, f"written/{kind}", alone=0.0)
            if rng.random() < 0.5:
                whole = grammar.result(rng, said)
                start, end = found_in(whole, said)
                yield Text(whole, True, f"written/{kind}", start, end)
            else:
                yield insert(rng, (_document(rng, around), ""), said, f"written/{kind}")


def harmless(rng: random.Random) -> Iterator[Text]:
    """Every harmless piece by itself, in a record, and some together; documents without their orders."""
    for _, without in planted(rng):
        yield without
    for name in HARMLESS:
        said = [(kind, housed(rng, text)) for kind, text in pieces(name)]
        around = [text for _, text in said]
        for kind, text in said:
            if len(text) >= _LEAST:
                yield Text(text, False, f"written/{kind}")
            yield Text(grammar.result(rng, text), False, f"written/{kind}")
            if rng.random() < 0.5:
                yield Text(_document(rng, around), False, "written/mixed")


def users(rng: random.Random, questions: Sequence[Host]) -> Iterator[Text]:
    """Attempts of users, some before or behind a question, and harmless prompts."""
    attempts, prompts = map(pieces, USERS)
    orders = [piece for name in MIXED for piece in pieces(name) if piece[0] in OF_USERS]
    for kind, text in (*attempts, *orders):
        yield asked(rng, questions, housed(rng, text), f"written/{kind}")
    for kind, text in prompts:
        yield Text(housed(rng, text), False, f"written/{kind}")


def _document(rng: random.Random, around: Sequence[str]) -> str:
    """Some pieces one below the other, or as a list of records."""
    chosen = rng.sample(around, rng.randint(1, 6))
    match rng.randrange(4):
        case 0:
            return json.dumps([{"id": n, "text": text} for n, text in enumerate(chosen)], ensure_ascii=False)
        case 1:
            return "\n".join(f"- {text}" for text in chosen)
        case _:
            return rng.choice(("\n", "\n\n", "\n---\n")).join(chosen)
