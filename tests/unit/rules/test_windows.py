"""Where a budget's period begins: time zones, changes of the clock, leap days."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rules.windows import windows_at


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def at(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        ("1d", "UTC", "2026-11-21T13:59", "2026-11-21T00:00", "2026-11-22T00:00"),
        ("1d", "Asia/Kolkata", "2026-11-21T18:29", "2026-11-20T18:30", "2026-11-21T18:30"),
        ("1d", "Asia/Kolkata", "2026-11-21T18:30", "2026-11-21T18:30", "2026-11-22T18:30"),
        # 23 hours when the clock goes forward, 25 when it goes back.
        ("1d", "America/New_York", "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00"),
        ("1d", "America/New_York", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00"),
        # The second 01:30 of the night belongs to the same day.
        ("1d", "America/New_York", "2026-11-01T06:30", "2026-11-01T04:00", "2026-11-02T05:00"),
        ("1h", "UTC", "2026-11-21T13:59", "2026-11-21T13:00", "2026-11-21T14:00"),
        ("1h", "Asia/Kolkata", "2026-11-21T13:45", "2026-11-21T13:30", "2026-11-21T14:30"),
        ("1h", "Asia/Kathmandu", "2026-11-21T13:20", "2026-11-21T13:15", "2026-11-21T14:15"),
        ("1w", "UTC", "2026-11-22T23:59", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("1w", "UTC", "2026-11-23T00:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("1mo", "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("1mo", "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("1mo", "America/New_York", "2026-11-15T00:00", "2026-11-01T04:00", "2026-12-01T05:00"),
        # Midnight does not exist on this day: it begins at one o'clock.
        ("1d", "America/Santiago", "2026-09-06T12:00", "2026-09-06T04:00", "2026-09-07T03:00"),
    ],
)
def test_a_period_begins_and_ends_at_these_instants(
    period: str, zone: str, now: str, start: str, end: str
) -> None:
    current, following = windows_at(period, ZoneInfo(zone), ms(now))
    assert at(int(current.id) * 1000) == start
    assert at(current.ends_at) == end
    assert int(following.id) * 1000 == current.ends_at


@given(
    period=st.sampled_from(["1h", "1d", "1w", "1mo"]),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]),
    now=st.integers(1_700_000_000_000, 2_000_000_000_000),
)
def test_periods_hold_their_moment_and_follow_each_other_without_gap(
    period: str, zone: str, now: int
) -> None:
    current, following = windows_at(period, ZoneInfo(zone), now)
    assert int(current.id) * 1000 <= now < current.ends_at < following.ends_at
    assert windows_at(period, ZoneInfo(zone), current.ends_at)[0] == following
    assert windows_at(period, ZoneInfo(zone), current.ends_at - 1)[0] == current
