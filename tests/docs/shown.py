"""Whether what came is what a page shows.

What has to differ from one run to the next is compared by its form: ids, times, versions, names of workers, how
long something took. `…` stands for anything on its line, and alone on a line for any lines. White space counts as
one space, since the widths of tables follow their values. Scores are those of a trained model, and are compared by
their form too. Everything else has to be the same, money too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ID = r"\b(?:run|ses|dec|req|apr|key|tok|era|evt|kill)_[0-9a-f]{4,}\b"
_FORMS: tuple[tuple[str, str], ...] = (
    # what a page shows, and what may come in its place
    (r"[ \t]*…[ \t]*", ".*?"),
    (_ID, "an id of the same kind"),
    (r"\bchatcmpl-sim-\w+", r"chatcmpl-sim-\w+"),
    (r"\bg[kt]_\w+", r"g[kt]_[\w-]+"),
    (
        r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?Z?)?",
        r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?Z?)?",
    ),
    (r"\b[\w.-]+-\d+-[0-9a-f]{6}\b", r"[\w.-]+-\d+-[0-9a-f]{6}"),
    (r"\b[0-9a-f]{12}\b", r"[0-9a-f]{12}"),
    (r"\b[0-9a-f]{64}\b", r"[0-9a-f]{64}"),
    (r"\b\d+(?:\.\d+)? (?:ms|s)\b", r"\d+(?:\.\d+)? (?:ms|s)"),
    (r"\bscore [01]\.\d{3}\b", r"score [01]\.\d{3}"),
    (r"(?<=\d)[ \t]+[01]\.\d\d$", r"[ \t]+[01]\.\d\d"),
    (r"\b\d+[smhd]\b", r"\d+[smhd]"),
    (r"[ \t]+", r"[ \t]+"),
)
_ANY = re.compile("|".join(f"(?P<f{number}>{shown})" for number, (shown, _) in enumerate(_FORMS)))


def pattern(lines: Sequence[str]) -> tuple[re.Pattern[str], list[str]]:
    """A pattern for a whole output, and the ids that its groups stand for, in order."""
    parts: list[str] = []
    ids: list[str] = []
    for line in lines:
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
            continue
        made, at = "", 0
        for found in _ANY.finditer(line.strip()):
            made += re.escape(line.strip()[at : found.start()])
            assert found.lastgroup is not None
            form = int(found.lastgroup[1:])
            if form == 1:
                ids.append(found[0])
                made += f"({found[0].partition('_')[0]}_[0-9a-f]+)"
            else:
                made += _FORMS[form][1]
            at = found.end()
        made += re.escape(line.strip()[at:])
        parts.append(rf"[ \t]*{made}[ \t]*\n")
    return re.compile("".join(parts) + r"\s*"), ids


def compare(lines: Sequence[str], came: str) -> dict[str, str] | None:
    """The ids of the page with those that came in their place; `None` when something else came."""
    wanted, ids = pattern(lines)
    found = wanted.fullmatch(came.strip("\n") + "\n")
    return None if found is None else dict(zip(ids, found.groups(), strict=True))
