"""The periods of budgets: where a day, a week or a month begins in a time zone.

Boundaries are instants; the zone only says where they lie. A day across a change of the clock has 23 or 25
hours and is still one day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.admission import Window
from gateway.domain import Millis

HOUR_MS = 3_600_000


def windows_at(period: str, zone: ZoneInfo, now: Millis) -> tuple[Window, Window]:
    """The period (`1h 1d 1w 1mo`) that holds `now`, and the one after it."""
    start = _start(period, zone, now)
    middle = _next(period, zone, start)
    end = _next(period, zone, middle)
    return Window(_id(start), middle), Window(_id(middle), end)


def _id(start: Millis) -> str:
    return str(start // 1000)


def _start(period: str, zone: ZoneInfo, now: Millis) -> Millis:
    local = datetime.fromtimestamp(now / 1000, UTC).astimezone(zone)
    if period == "1h":
        # Zones whose offset is not whole hours begin their hours at other instants.
        offset = local.utcoffset() or timedelta()
        shift = int(offset.total_seconds()) * 1000 % HOUR_MS
        return (now + shift) // HOUR_MS * HOUR_MS - shift
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "1w":
        midnight -= timedelta(days=midnight.weekday())
    elif period == "1mo":
        midnight = midnight.replace(day=1)
    elif period != "1d":
        raise ValueError(f"no such period: {period}")
    return _instant(midnight)


def _next(period: str, zone: ZoneInfo, start: Millis) -> Millis:
    if period == "1h":
        return start + HOUR_MS
    local = datetime.fromtimestamp(start / 1000, UTC).astimezone(zone)
    # Some zones skip midnight when the clock changes: the day then begins at 01:00.
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if period == "1d":
        day += timedelta(days=1)
    elif period == "1w":
        day += timedelta(days=7)
    else:
        day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return _instant(day.replace(tzinfo=zone))


def _instant(local: datetime) -> Millis:
    return round(local.astimezone(UTC).timestamp() * 1000)
