"""The texts written for training: read whole, each once, and none of the unseen ones among them."""

from __future__ import annotations

import random

import pytest

from benchmarks import injection_written as written
from benchmarks.screening import UNSEEN_SETS, unseen


def test_every_piece_is_read_once_and_has_a_kind() -> None:
    for name in (*written.ORDERS, *written.HARMLESS, *written.USERS, written.PLANTED):
        found = written.pieces(name)
        assert len(found) == len({text for _, text in found}) >= 300
        assert all(kind and text and "%%" not in text and "#kind" not in text for kind, text in found)


def test_no_unseen_order_is_among_them() -> None:
    said = {text for name in (*written.ORDERS, *written.USERS) for _, text in written.pieces(name)}
    rows = [row for name, _ in UNSEEN_SETS for row in unseen(name)]
    assert not said & {row[key] for row in rows for key in ("text", "order") if key in row}


@pytest.mark.parametrize("name", [name for name, _ in UNSEEN_SETS])
def test_an_unseen_set_has_both_labels_each_text_once_and_every_order_in_its_text(name: str) -> None:
    rows = unseen(name)
    assert len({row["text"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    assert {row["label"] for row in rows} == {0, 1}
    assert all(row["family"] and row.get("order", "") in row["text"] for row in rows)


def test_an_order_stands_where_its_document_says() -> None:
    rng = random.Random(1)
    texts = list(written.attacks(rng, [("A harmless page. It has two sentences.", "page")]))
    pieces = [piece for name in written.ORDERS for piece in written.pieces(name)]
    assert len(texts) == 2 * len(pieces) + len(written.pieces(written.PLANTED))
    assert sum(0 <= t.start < t.end <= len(t.text) for t in texts) > 0.99 * len(texts)
    assert not any(text.attack for text in written.harmless(rng))


def test_reserved_domains_are_housed() -> None:
    assert written.housed(random.Random(3), "a@b.test and x.invalid") != "a@b.test and x.invalid"
    assert written.housed(random.Random(3), "for example. A test.") == "for example. A test."


def test_a_document_is_harmless_without_the_order_planted_in_it() -> None:
    for (with_order, without), (_, whole) in zip(
        written.planted(random.Random(5)), written.pieces(written.PLANTED), strict=True
    ):
        assert whole.count("««") == whole.count("»»") == 1
        assert with_order.attack
        assert not without.attack
        assert with_order.text[: with_order.start] + with_order.text[with_order.end :] == without.text
        assert 10 < with_order.end - with_order.start < len(with_order.text)
