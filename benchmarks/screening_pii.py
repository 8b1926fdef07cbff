"""How well and how fast personal data and secrets are found: `python -m benchmarks.screening_pii`.

Figures by type come from labelled texts that the caller names; without them, what is made here is measured:
hard negatives and time. A labelled file is JSON lines, gzipped: `text` (or `text_b64`), `spans` with `start`,
`end`, `type`, and where a text was written for one type alone, `probe`. A span counts as found when a finding
of its type touches it.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.hard_negatives import MAKERS, hard_negatives
from gateway.screening import pii, secrets
from gateway.screening.base import Finding

EACH = 300
"""Hard negatives of every kind."""
Record = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """Spans found and missed, and findings that touch no span."""

    found: int = 0
    missed: int = 0
    wrong: int = 0

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.wrong) if self.found + self.wrong else 1.0

    @property
    def recall(self) -> float:
        return self.found / (self.found + self.missed) if self.found + self.missed else 1.0

    @property
    def f2(self) -> float:
        p, r = self.precision, self.recall
        return 5 * p * r / (4 * p + r) if p + r else 0.0

    def add(self, spans: Sequence[tuple[int, int]], findings: Sequence[tuple[int, int]]) -> None:
        for span in spans:
            if any(touch(span, finding) for finding in findings):
                self.found += 1
            else:
                self.missed += 1
        self.wrong += sum(not any(touch(finding, span) for span in spans) for finding in findings)


def touch(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def records(path: Path) -> Iterator[Record]:
    with gzip.open(path) as lines:
        for line in lines:
            record: Record = orjson.loads(line)
            if "text_b64" in record:
                record["text"] = base64.b64decode(record["text_b64"]).decode()
            yield record


def _type(name: str) -> str | None:
    try:
        return pii.canonical(name)
    except ValueError:
        return None


def pii_by_type(path: Path, *, probes: bool, threshold: float = pii.THRESHOLD) -> dict[str, Tally]:
    """A tally for each type that the file labels. Texts: all of their labelled types are looked for at
    once. Probes: each is judged for its own type alone."""
    rows = [record for record in records(path) if bool(record.get("probe")) == probes]
    labelled = {kind for record in rows for span in record["spans"] if (kind := _type(span["type"]))}
    tallies: dict[str, Tally] = {}
    for record in rows:
        judged = [_type(record["probe"])] if probes else sorted(labelled)
        types = [kind for kind in judged if kind]
        findings = pii.scan(record["text"], types, threshold=threshold)
        for kind in types:
            spans = [(s["start"], s["end"]) for s in record["spans"] if _type(s["type"]) == kind]
            tallies.setdefault(kind, Tally()).add(
                spans, [(f.start, f.end) for f in findings if f.type == kind]
            )
    return tallies


def secrets_by_subtype(path: Path) -> tuple[dict[str, Tally], int, int]:
    """A tally for each kind of secret; how many texts have none, and how many of those are flagged."""
    tallies: dict[str, Tally] = {}
    clean = flagged = 0
    for record in records(path):
        findings = [(f.start, f.end) for f in secrets.scan(record["text"])]
        if record["spans"]:
            spans = [(s["start"], s["end"]) for s in record["spans"]]
            tallies.setdefault(record["subtype"], Tally()).add(spans, findings)
        else:
            clean += 1
            flagged += bool(findings)
    return tallies, clean, flagged


def flagged_negatives(scan: Callable[[str], Sequence[Finding]], each: int = EACH) -> dict[str, int]:
    """By kind, how many of `each` hard negatives are flagged."""
    flagged = dict.fromkeys(MAKERS, 0)
    for kind, text in hard_negatives(each):
        flagged[kind] += bool(scan(text))
    return flagged


_PROSE = (
    "The quarterly report describes how the team moved 3 services to the new cluster on 2024-05-12 at 10:30, "
    "and why 45 of 120 tests failed in version 2.3.1. "
)
_PERSONAL = (
    "Hi, I'm Anna, my card is 4111 1111 1111 1111, SSN 536-22-1234, mail anna@example.com, call "
    "+1 415 555 2671 or 0479 50 54 03. IBAN DE89 3704 0044 0532 0130 00. Server 10.2.3.4, born 1984-02-03. "
)
SPEED_TEXTS = {
    "200 characters": (_PROSE * 2)[:200],
    "5 KB": (_PROSE * 40)[:5000],
    "200 characters, 8 findings": _PERSONAL,
    "5 KB, 200 findings": _PERSONAL * 25,
}


def milliseconds(scan: Callable[[str], object], text: str, seconds: float = 0.2) -> float:
    """CPU time of one scan: the least of five runs of `seconds` each."""
    scan(text)
    best = float("inf")
    for _ in range(5):
        count, start = 0, time.process_time()
        while (spent := time.process_time() - start) < seconds:
            scan(text)
            count += 1
        best = min(best, spent / count)
    return best * 1000


def _print(console: Console, title: str, tallies: dict[str, Tally]) -> None:
    table = Table("type", "found", "missed", "wrong", "precision", "recall", "F2", title=title)
    total = Tally()
    for name, one in sorted(tallies.items()):
        total.found, total.missed, total.wrong = (
            total.found + one.found,
            total.missed + one.missed,
            total.wrong + one.wrong,
        )
        table.add_row(
            name,
            *map(str, (one.found, one.missed, one.wrong)),
            f"{one.precision:.3f}",
            f"{one.recall:.3f}",
            f"{one.f2:.3f}",
        )
    table.add_section()
    table.add_row(
        "all",
        *map(str, (total.found, total.missed, total.wrong)),
        f"{total.precision:.3f}",
        f"{total.recall:.3f}",
        f"{total.f2:.3f}",
    )
    console.print(table)


def report(console: Console, pii_file: Path | None, secrets_file: Path | None) -> None:
    """Prints every table that the given files allow."""
    if pii_file:
        _print(console, "personal data, texts", pii_by_type(pii_file, probes=False))
        _print(console, "personal data, one-type samples", pii_by_type(pii_file, probes=True))
        _print(
            console,
            "the same, with nothing too unsure to tell",
            pii_by_type(pii_file, probes=True, threshold=0.0),
        )
    if secrets_file:
        tallies, clean, flagged = secrets_by_subtype(secrets_file)
        _print(console, "secrets", tallies)
        console.print(f"texts without a secret: {clean}, flagged {flagged}")
    negatives = Table("kind", "personal data", "secrets", title=f"hard negatives flagged, of {EACH} each")
    found, known = flagged_negatives(pii.scan), flagged_negatives(secrets.scan)
    for kind in MAKERS:
        negatives.add_row(kind, str(found[kind]), str(known[kind]))
    share = EACH * len(MAKERS) / 100
    negatives.add_section()
    negatives.add_row("all", f"{sum(found.values()) / share:.2f} %", f"{sum(known.values()) / share:.2f} %")
    console.print(negatives)
    speed = Table("text", "personal data, ms", "secrets, ms", title="CPU time of one scan")
    for name, text in SPEED_TEXTS.items():
        speed.add_row(name, f"{milliseconds(pii.scan, text):.3f}", f"{milliseconds(secrets.scan, text):.3f}")
    console.print(speed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screening_pii", description=__doc__)
    parser.add_argument("--pii", type=Path, help="labelled texts with personal data")
    parser.add_argument("--secrets", type=Path, help="labelled texts with secrets")
    given = parser.parse_args(arguments)
    report(Console(width=110), given.pii, given.secrets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
