"""Names and labels that a PromQL expression uses. Enough of the language for our own rules and dashboards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<variable>\$\{?\w+\}?)
      | (?P<name>[A-Za-z_:][\w:]*)
      | (?P<number>\d+(?:\.\d+)?(?:[smhdwy]|ms)?)
      | (?P<match>=~|!~|!=|=)
      | (?P<other>.)""",
    re.X,
)
_WORDS = frozenset(
    (
        *(
            "by",
            "without",
            "on",
            "ignoring",
            "group_left",
            "group_right",
            "and",
            "or",
            "unless",
            "offset",
            "bool",
        ),
        *("sum", "min", "max", "avg", "count", "topk", "bottomk", "rate", "increase", "histogram_quantile"),
        *("predict_linear", "absent", "vector", "clamp_min", "clamp_max", "time"),
    )
)
_LABEL_LISTS = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))


@dataclass
class Used:
    """One selector: a metric, and the labels that it is narrowed by, with their matchers."""

    metric: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Expression:
    """What an expression reads, and the labels that it groups by."""

    selectors: list[Used] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, token) without spaces."""
    for found in _TOKEN.finditer(text):
        if not found[0].isspace():
            yield str(found.lastgroup), found[0]


def read(text: str) -> Expression:
    """Read an expression. Raises `ValueError` for what cannot be one."""
    found = Expression()
    pending = list(tokens(text))
    i, depth = 0, 0
    while i < len(pending):
        kind, token = pending[i]
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        if kind == "name" and token in _LABEL_LISTS:
            i += 2
            while pending[i][1] != ")":
                if pending[i][0] == "name":
                    found.grouped_by.add(pending[i][1])
                i += 1
        elif kind == "name" and token not in _WORDS:
            used = Used(token)
            if i + 1 < len(pending) and pending[i + 1][1] == "{":
                i += 2
                while pending[i][1] != "}":
                    if pending[i][0] == "name" and pending[i + 1][0] == "match":
                        used.labels[pending[i][1]] = pending[i + 2][1][1:-1]
                        i += 2
                    i += 1
            found.selectors.append(used)
        i += 1
    if depth:
        raise ValueError(f"brackets do not match: {text}")
    return found
