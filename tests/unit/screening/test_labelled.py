"""Floors under what is found in labelled texts.

The texts are data beside the repository (`GATEWAY_SHARED_DATA` or `../shared/data`) and are not copied into
it; without them these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.screening_pii import pii_by_type, secrets_by_subtype

DATA = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
PII, SECRETS = DATA / "pii_dev.jsonl.gz", DATA / "secrets_dev.jsonl.gz"
STRUCTURED = [
    "CREDIT_CARD",
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "IP_ADDRESS",
    "PHONE_NUMBER",
    "URL",
    "US_DRIVER_LICENSE",
    "US_SSN",
]

pytestmark = pytest.mark.skipif(
    not PII.exists() or not SECRETS.exists(), reason=f"no labelled texts at {DATA}"
)


def test_structured_types_are_found_in_running_text() -> None:
    tallies = pii_by_type(PII, probes=False)
    assert {name: round(tallies[name].f2, 3) for name in STRUCTURED if tallies[name].f2 < 0.985} == {}
    assert tallies["STREET_ADDRESS"].recall > 0.45
    assert tallies["STREET_ADDRESS"].precision > 0.98


def test_samples_of_one_type_are_told_from_those_that_are_none() -> None:
    usual = pii_by_type(PII, probes=True)
    assert {name: one.wrong for name, one in usual.items() if one.wrong > 1} == {}
    unsure = pii_by_type(PII, probes=True, threshold=0.0)
    assert {
        name: one.missed for name, one in unsure.items() if one.recall < 0.9 and name != "US_DRIVER_LICENSE"
    } == {}


def test_secrets_are_found_and_texts_without_one_left_alone() -> None:
    tallies, clean, flagged = secrets_by_subtype(SECRETS)
    found, missed = sum(one.found for one in tallies.values()), sum(one.missed for one in tallies.values())
    assert found / (found + missed) >= 0.98
    # Of these, all are keys by their look: docs/secrets.md.
    assert flagged <= 16 < clean
