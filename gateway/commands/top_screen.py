"""What `gateway top` shows: an overview of the admin API as lines of a terminal. Pure.

Every line fits the width, colour says nothing that words do not say too, and nothing of a caller's reaches
the terminal but printable characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from gateway.commands.views import Row, duration, moment, plain, several

NARROWEST = 40
MIDDLING, WIDE = 96, 110
"""From so many columns on there is more to be seen."""
Order = Literal["burn", "cost", "steps", "age", "limit"]
ORDERS: Mapping[str, Order] = {"b": "burn", "c": "cost", "s": "steps", "a": "age", "l": "limit"}
"""Keys that sort the runs."""
_BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#@"


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and how it would look in colour: a style of rich, or nothing."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What the operator has chosen."""

    order: Order = "burn"
    selected: int = 0
    message: str = ""
    """What came of the last key."""
    keys: bool = True
    """There is a keyboard."""
    unicode: bool = True


def ordered(overview: Row, order: Order) -> list[Row]:
    """The live runs, the one that matters most first."""
    by: dict[str, Callable[[Row], Any]] = {
        "burn": lambda run: (Decimal(run["burn_usd_per_min"]), Decimal(run["cost_usd"])),
        "cost": lambda run: Decimal(run["cost_usd"]),
        "steps": lambda run: run["steps"],
        "limit": lambda run: (run["nearest"] or {}).get("ratio", 0.0),
    }
    if order == "age":
        return sorted(overview["runs"]["data"], key=lambda run: str(run["started_at"]))
    return sorted(overview["runs"]["data"], key=by[order], reverse=True)


def screen(overview: Row, view: View, width: int, height: int | None) -> list[Line]:
    """The whole picture; with a `height` exactly so many lines, the runs taking what the rest leaves."""
    width = max(NARROWEST, width)
    head = _head(overview, view, width)
    budgets = _section("BUDGETS, the fullest first", _budgets(overview["budgets"], view, width))
    breakers = _section("NOT CLOSED", _breakers(overview, width))
    lately = _section("LATELY", _lately(overview, width))
    foot = _foot(view, width)
    rows = ordered(overview, view.order)
    if height is None:
        runs = _runs(overview, rows, view, width, len(rows))
        return _fitted([*head, *runs, *budgets, *breakers, *lately], width)
    # Runs come first; of what is left budgets, breakers and what happened get a share each.
    room = max(0, height - len(head) - len(foot))
    wanted = min(len(rows), max(3, room // 2)) + 2
    runs = _runs(overview, rows, view, width, max(1, min(wanted, room) - 2))
    left = max(0, room - len(runs))
    middle: list[Line] = []
    for section, share in ((budgets, 0.45), (breakers, 0.5), (lately, 1.0)):
        part = section[: max(0, int(left * share) if share < 1 else left)]
        if len(part) > 2 or (part and len(part) == len(section)):
            middle += part
            left -= len(part)
    body = [*head, *runs, *middle][: max(0, height - len(foot))]
    body += [Line("")] * max(0, height - len(foot) - len(body))
    return _fitted([*body, *foot], width)[:height]


def _fitted(lines: Iterable[Line], width: int) -> list[Line]:
    return [Line(line.text[:width].rstrip(), line.style) for line in lines]


def _section(title: str, lines: Sequence[Line]) -> list[Line]:
    return [Line(""), Line(title, "bold"), *lines] if lines else []


# -- the head ------------------------------------------------------------------------------------------


def _head(overview: Row, view: View, width: int) -> list[Line]:
    spend, health = overview["spend"], overview["health"]
    policy = health["policy"]
    saved = f"  saved {money(spend['saved_today_usd'])}" if Decimal(spend["saved_today_usd"]) > 0 else ""
    troubles = []
    if health["store"] != "ok":
        troubles.append("the store does not answer")
    if not policy["healthy"]:
        troubles.append("the policy file is refused")
    if kills := overview["kills"]:
        names = ", ".join(_short(f"{kill['scope']} {kill['id']}", 24) for kill in kills[:3])
        troubles.append(f"killed: {names}" + (f" and {len(kills) - 3} more" if len(kills) > 3 else ""))
    waiting = len(overview["approvals"]["data"])
    if waiting:
        least = "at least " if overview["approvals"]["more"] else ""
        troubles.append(f"{least}{several(waiting, 'tool call')} held for approval")
    lines = [
        Line(f"gateway top  {moment(overview['at'])} UTC  policy {_short(policy['version'], 16)}", "bold"),
        Line(
            f"{money(spend['usd_per_min'])}/min (before {money(spend['before_usd_per_min'])})  hour "
            f"{money(spend['hour_usd'])}  today {money(spend['today_usd'])}  {spend['steps_per_min']:g} "
            f"steps/min{saved}"
        ),
    ]
    if troubles:
        lines.append(Line("! " + "; ".join(troubles), "bold red"))
    points = [Decimal(each["cost_usd"]) for each in spend["minutes"]]
    if any(points):
        bars = sparkline(points[-max(10, width - 14) :], unicode=view.unicode)
        lines.append(Line(f"last {len(bars):>3} min  {bars}", "cyan"))
    return lines


def sparkline(points: Sequence[Decimal], *, unicode: bool) -> str:
    """One character for each figure, by its share of the greatest; anything above nothing is seen."""
    bars = _BARS if unicode else _ASCII_BARS
    most = max(points, default=Decimal(0))
    if most <= 0:
        return bars[0] * len(points)
    top = len(bars) - 1
    return "".join(bars[0] if p <= 0 else bars[max(1, min(top, round(p / most * top)))] for p in points)


# -- runs ----------------------------------------------------------------------------------------------


def _runs(overview: Row, rows: Sequence[Row], view: View, width: int, most: int) -> list[Line]:
    live = overview["runs"]["live"]
    title = f"LIVE RUNS {live}, by {view.order}"
    if not rows:
        return [Line(""), Line(title, "bold"), Line("  none")]
    selected = min(max(0, view.selected), len(rows) - 1)
    # The selected one stays in sight.
    first = max(0, min(selected - most + 1, len(rows) - most)) if selected >= most else 0
    shown = rows[first : first + most]
    wide = width >= WIDE
    columns = [("RUN", 28), ("USER", 16 if wide else 8)]
    if wide:
        columns.append(("MODEL", 18))
    columns += [(">STEPS", 5), (">COST", 8), (">BURN/MIN", 8)]
    if width >= MIDDLING:
        columns.append((">AGE", 7))
    left = max(8, width - sum(size + 1 for _, size in columns) - 2)
    columns.append(("NEAREST LIMIT", left))
    lines = [
        Line(""),
        Line(title, "bold"),
        Line("  " + _cells([name.lstrip(">") for name, _ in columns], columns), "dim"),
    ]
    now = datetime.fromisoformat(overview["at"])
    for number, run in enumerate(shown, first):
        cells = [run["id"], run["user"]]
        if wide:
            cells.append(next(iter(run["model_mix"]), "-"))
        cells += [run["steps"], money(run["cost_usd"]), money(run["burn_usd_per_min"])]
        if width >= MIDDLING:
            cells.append(duration(now - datetime.fromisoformat(run["started_at"])).replace(" ", ""))
        cells.append(_nearest(run["nearest"]))
        chosen = view.keys and number == selected
        ratio = (run["nearest"] or {}).get("ratio", 0)
        style = "reverse" if chosen else "red" if ratio >= 0.9 else "yellow" if ratio >= 0.75 else ""
        lines.append(Line(("> " if chosen else "  ") + _cells(cells, columns), style))
    return lines


def _nearest(nearest: Row | None) -> str:
    if nearest is None:
        return "-"
    return f"{round(nearest['ratio'] * 100)}% {nearest['rule']}"


def _cells(cells: Sequence[Any], columns: Sequence[tuple[str, int]]) -> str:
    told = []
    for cell, (name, size) in zip(cells, columns, strict=True):
        text = _short("-" if cell is None else cell, size)
        told.append(text.rjust(size) if name.startswith(">") else text.ljust(size))
    return " ".join(told).rstrip()


# -- budgets, breakers, what happened ------------------------------------------------------------------


def _budgets(budgets: Sequence[Row], view: View, width: int) -> list[Line]:
    lines = []
    full, empty = ("█", "░") if view.unicode else ("#", ".")
    size = 20 if width >= WIDE else 10 if width >= MIDDLING else 8
    for budget in budgets:
        ratio = max(0.0, float(budget["ratio"]))
        filled = min(size, round(ratio * size))
        bar = full * filled + empty * (size - filled)
        name, per, whom = budget["name"], budget["per"], budget["id"]
        if width >= MIDDLING:
            whose = f"{_short(name, 16):<16} {_short(per, 7):<7} {_short(whom, 14):<14}"
        else:
            whose = f"{_short(name, 12):<12} {_short(whom, 12):<12}"
        left = f"{money(budget['remaining_usd'])} of {money(budget['limit_usd'])} left"
        out = f", out {moment(budget['runs_out_at'])[11:16]}" if budget.get("runs_out_at") else ""
        shadow = " (shadow)" if budget["mode"] == "shadow" else ""
        style = "red" if ratio >= 0.9 else "yellow" if ratio >= 0.75 else ""
        lines.append(Line(f"  {whose} {bar}{round(ratio * 100):>4}%  {left}{out}{shadow}", style))
    return lines


def _breakers(overview: Row, width: int) -> list[Line]:
    lines = [
        Line(
            f"  breaker {_short(each['state'], 10)}: {_short(each['kind'], 10)} {_short(each['name'], 30)} "
            f"({_short(each['scope'], 20)}), {each['failed']} failed, {each['ok']} fine",
            "red" if each["state"] == "open" else "yellow",
        )
        for each in overview["breakers"]
    ]
    lines += [
        Line(
            f"  failing: {_short(each['provider'], 20)} {_short(each['model'], 30)} x{each['count']}: "
            f"{_short(each['error'], 40)}",
            "yellow",
        )
        for each in overview["failures"][:5]
    ]
    return lines


def _lately(overview: Row, width: int) -> list[Line]:
    return [
        Line(f"  {moment(each['at'])[11:]}  {_event(each)}", "red" if each.get("level") == "bad" else "")
        for each in overview["happened"]
    ]


def _event(event: Row) -> str:
    kind = event["kind"]
    if kind == "refusal":
        times = f" x{event['count']}" if event["count"] > 1 else ""
        rule, run = _short(event["rule"], 24), _short(event["run"], 32)
        return f"refused {_short(event['code'], 32)}{times} by {rule} {run}"
    if kind == "run_stopped":
        run, why = _short(event["run"], 32), _short(event["reason"], 60)
        return f"{_short(event['status'], 16)} {run} {money(event['cost_usd'])} {why}"
    about = " ".join(
        _short(event[name], 40)
        for name in ("scope", "id", "budget", "breaker", "version", "reason")
        if event.get(name)
    )
    return f"{_short(kind, 24)} {about} by {_short(event.get('by'), 24)}"


def _foot(view: View, width: int) -> list[Line]:
    if view.message:
        return [Line(plain(view.message), "bold")]
    keys = "q quit  up/down select  k kill  p pause  sort: b burn c cost s steps a age l limit"
    if width < len(keys):
        keys = "q quit  up/down select  k kill  p pause  sort: b c s a l"
    return [Line(keys if view.keys else "Ctrl-C ends", "dim")]


# -- shared --------------------------------------------------------------------------------------------


def money(amount: str) -> str:
    """Dollars as short as can be read: `$0.0004`, `$1.23`, `$1,234`."""
    value = Decimal(amount)
    if value and abs(value) < Decimal("0.1"):
        return f"${value:.4f}"
    return f"${value:,.0f}" if abs(value) >= 1000 else f"${value:.2f}"


def _short(text: Any, longest: int) -> str:
    told = "-" if text is None else plain(text)
    return told if len(told) <= longest else told[: longest - 1] + "…"
