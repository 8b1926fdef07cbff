"""Whether an answer repeats the operator's prompt.

Both are compared by their words alone, so punctuation, case and layout do not matter. A passage counts when
so many words in a row stand in the prompt in the same order; single phrases, which a prompt may ask for, do
not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from gateway.screening.base import Finding

DETECTOR = "leak"
IN_A_ROW = 16
"""Words in a row that are no chance."""
_SHINGLE = 6
MAX_PROMPT = 200_000
"""Characters of a prompt that are compared."""
_WORD = re.compile(r"\w+")


def scan(text: str, prompts: Sequence[str]) -> list[Finding]:
    """The passages of `text` that stand in one of the prompts."""
    known = _shingles(tuple(prompts))
    if not known:
        return []
    words = [(match.group().casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]
    found: list[Finding] = []
    first = -1
    for i in range(len(words) - _SHINGLE + 2):
        last = i + _SHINGLE > len(words)
        if not last and hash(tuple(word for word, _, _ in words[i : i + _SHINGLE])) in known:
            first = i if first < 0 else first
            continue
        if first >= 0 and i - first + _SHINGLE - 1 >= IN_A_ROW:
            found.append(Finding(DETECTOR, "SYSTEM_PROMPT", words[first][1], words[i + _SHINGLE - 2][2], 1.0))
        first = -1
    return found


@lru_cache(maxsize=64)
def _shingles(prompts: tuple[str, ...]) -> frozenset[int]:
    """Every few words in a row of the prompts. Agents send the same prompt with every step."""
    out: set[int] = set()
    for prompt in prompts:
        words = [word.casefold() for word in _WORD.findall(prompt[:MAX_PROMPT])]
        out.update(hash(tuple(words[i : i + _SHINGLE])) for i in range(len(words) - _SHINGLE + 1))
    return frozenset(out)
