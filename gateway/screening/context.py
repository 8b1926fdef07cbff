"""Words beside a number that say what it is, or that it is something else."""

from __future__ import annotations

import re

import re2

BEFORE = 64
"""Characters before a value in which a word may announce it."""
AFTER = 24
"""Characters after it."""


class Words:
    """Words and beginnings of words, in whatever languages. One that starts with `=` must stand by itself,
    so that `=tel` is not found in `hotel`; the others may be part of a longer word or an identifier."""

    def __init__(self, *words: str) -> None:
        parts = [re2.escape(word).replace(r"\ ", r"[\s_-]?") for word in words if word[0] != "="]
        alone = "|".join(re2.escape(word[1:]).replace(r"\ ", r"[\s_-]?") for word in words if word[0] == "=")
        if alone:
            parts.append(rf"(?:^|\PL)(?:{alone})(?:\PL|$)")
        self._search = re2.compile(f"(?i){'|'.join(parts)}").search

    def before(self, text: str, start: int, reach: int = BEFORE) -> bool:
        return self._within(text[max(0, start - reach) : start])

    def follows(self, text: str, end: int, reach: int = AFTER) -> bool:
        return self._within(text[end : end + reach])

    def beside(self, text: str, start: int, end: int) -> bool:
        return self.before(text, start) or self.follows(text, end)

    def _within(self, window: str) -> bool:
        # RE2 is quicker with bytes. A surrogate is in no word.
        return self._search(window.encode("utf-8", "replace")) is not None


# What has numbers and is nobody: a word right before a value unmakes it.
LABELS = frozenset((
    "order", "orders", "bestellung", "bestellnummer", "commande", "pedido", "ticket", "invoice",
    "rechnung", "rechnungsnummer", "factura", "facture", "tracking", "shipment", "parcel", "package",
    "consignment", "waybill", "awb", "isbn", "issn", "ean", "gtin", "upc", "asin", "sku", "barcode",
    "serial", "part", "model", "version", "release", "build", "revision", "commit", "sha", "hash",
    "digest", "checksum", "md5", "crc", "uuid", "guid", "trace", "span", "request", "correlation",
    "event", "job", "task", "batch", "lot", "run", "process", "thread", "pid", "tid", "port", "seed",
    "nonce", "offset", "cursor", "bytes", "size", "length", "count", "total", "sum", "amount", "price",
    "cost", "balance", "revenue", "population", "latency", "duration", "elapsed", "time", "timestamp",
    "timestamps", "ts", "epoch", "unix", "created", "updated", "expires", "expiry", "exp", "iat", "nbf",
    "date", "year", "lat", "lon", "lng", "latitude", "longitude", "coordinate", "coordinates", "coords",
    "geo", "bbox", "loss", "accuracy", "score", "step", "page", "row", "col", "column", "index",
    "section", "chapter", "paragraph", "figure", "fig", "table", "clause", "rfc", "doi", "pmid", "arxiv",
    "ticker", "case", "docket", "bug", "issue", "pr", "reference", "confirmation", "booking",
    "reservation", "flight", "transaction", "txn", "item", "product", "article", "catalog", "catalogue",
    "po", "quote", "contract", "claim", "policy", "warranty", "firmware", "resolution", "bitrate",
    "frequency", "temperature", "weight", "height", "width", "session", "meter", "odometer", "iso",
))  # fmt: skip
_FILLERS = frozenset((
    "no", "nos", "nr", "num", "number", "nummer", "numero", "id", "ids", "code", "ref", "key", "value",
    "in", "ms", "ns", "us", "is", "was", "of",
))  # fmt: skip
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+")  # camelCase is words
_LABEL_REACH = 32
_LABEL_GAP = " \t'\"`:=#.([{<>-_*|"
VERSIONS = frozenset((
    "version", "release", "build", "revision", "firmware", "model", "section", "chapter", "paragraph",
    "clause", "figure", "fig", "table", "page", "step", "rfc", "iso", "paketversion", "programmversion",
    "softwareversion", "ec",
))  # fmt: skip
"""What has numbers with dots."""


def other_label(text: str, start: int, labels: frozenset[str] = LABELS) -> bool:
    """Whether the words right before `start` name a number that is nobody's, such as `order no.` or
    `"trace_id":`."""
    words = _label(text, start)
    for word in reversed(words):
        if word in labels:
            return True
        if word not in _FILLERS:
            return False
    return False


def any_id(text: str, start: int) -> bool:
    """Whether what is right before `start` ends in `id`, as `tool_call_id:` does."""
    return _label(text, start)[-1:] == ["id"]


def bare_id(text: str, start: int) -> bool:
    """Whether all that is said right before `start` is that it is an `id`."""
    words = _label(text, start)
    return words[-1:] == ["id"] and (len(words) == 1 or words[-2] in _FILLERS)


def _label(text: str, start: int) -> list[str]:
    """The last words before `start`, when nothing but a colon, quotes or the like is between."""
    window = text[max(0, start - _LABEL_REACH) : start]
    label = window.rstrip(_LABEL_GAP)
    if not label or len(window) - len(label) > 5 or not label[-1].isalpha():
        return []
    return [word.lower() for word in _WORD.findall(label)[-4:]]
