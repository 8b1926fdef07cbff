"""The texts written for training: read whole, each once, and none of the unseen ones among them."""

from __future__ import annotations

import random

import orjson

from benchmarks import injection_written as written
from benchmarks.screening import UNSEEN


def test_every_piece_is_read_once_and_has_a_kind() -> None:
    for name in (*written.ORDERS, *written.HARMLESS):
        found = written.pieces(name)
        assert len(found) == len({text for _, text in found}) >= 900
        assert all(kind and text and "%%" not in text and "#kind" not in text for kind, text in found)


def test_no_unseen_order_is_among_them() -> None:
    said = {text for name in written.ORDERS for _, text in written.pieces(name)}
    lines = (UNSEEN / "attacks.jsonl").read_bytes().splitlines()
    unseen = {orjson.loads(line)["order"] for line in lines}
    assert not said & unseen


def test_an_order_stands_where_its_document_says() -> None:
    rng = random.Random(1)
    texts = list(written.attacks(rng, [("A harmless page. It has two sentences.", "page")]))
    assert len(texts) == 2 * sum(len(written.pieces(name)) for name in written.ORDERS)
    assert sum(0 <= t.start < t.end <= len(t.text) for t in texts) > 0.99 * len(texts)
    assert not any(text.attack for text in written.harmless(rng))


def test_reserved_domains_are_housed() -> None:
    assert written.housed(random.Random(3), "a@b.test and x.invalid") != "a@b.test and x.invalid"
    assert written.housed(random.Random(3), "for example. A test.") == "for example. A test."
