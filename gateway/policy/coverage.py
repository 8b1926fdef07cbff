"""Which calls of one rule another one covers, and a policy with what checks of its rules ask of it."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.policy.document import Document, KeyPath
from gateway.policy.messages import path_text, quoted
from gateway.policy.models import Policy
from gateway.policy.sections.callers import EVERYTHING, Match, model_allowed

Finding = tuple[KeyPath, str]
"""Where a rule is, and what is wrong with it, as the end of a sentence."""

MOST_COMPARED = 200
"""Rules of one section that are compared with each other: the work grows with their square."""
MOST_CASES = 100_000
"""How often it is looked whether a rule takes a kind of step, for all routing rules of a policy together.
Beyond that the rules before a rule are only looked at one by one."""
FRESH = "\ufdd0"
"""Stands for a name that no policy can hold: whatever matches it matches every name."""
MADE = "; keys made by the admin API may differ"


class View:
    """A policy with what several checks want to know of it."""

    def __init__(self, document: Document, policy: Policy) -> None:
        self.document = document
        self.policy = policy
        self.mode = policy.auth.mode
        self.by_key = self.mode == "keys" and bool(policy.keys)
        """Callers have keys, and some stand in the policy."""
        self.cases_left = MOST_CASES
        self._reach: tuple[str, ...] | None = None
        if self.by_key and all(key.models is not None for key in policy.keys):
            self._reach = tuple(dict.fromkeys(name for key in policy.keys for name in key.models or ()))
        self._names = frozenset(self._reach or ())
        self._wildcards = [name for name in self._reach or () if name.endswith("*")]

    def no_key_reaches(self, model: str) -> bool:
        """Whether the policy has keys, and none of them may use a model."""
        if self._reach is None or model in self._names:
            return False
        return not model_allowed(self._wildcards, model)

    def at(self, path: KeyPath) -> str:
        """`budgets[2] (p.yaml:7)`: another rule, as a sentence names it."""
        place = self.document.place(path)
        return f"{path_text(path)} ({place.file}:{place.line})"

    def named(self, path: KeyPath, name: str) -> str:
        """`"user-day" (p.yaml:7)`: another rule that has a name."""
        place = self.document.place(path)
        return f"{quoted(name)} ({place.file}:{place.line})"


def pattern_within(pattern: str, patterns: Sequence[str]) -> bool:
    """Whether every name that a pattern matches is matched by one of the others."""
    name = pattern[:-1] + FRESH if pattern.endswith("*") else pattern
    return model_allowed(patterns, name)


def patterns_within(inner: Sequence[str] | None, outer: Sequence[str] | None) -> bool:
    """As `pattern_within` for several; None stands for all names."""
    if outer is None:
        return True
    return inner is not None and all(pattern_within(each, outer) for each in inner)


def within(inner: Sequence[object] | None, outer: Sequence[object] | None) -> bool:
    """Whether a list of names is part of another; None stands for all names."""
    return outer is None or (inner is not None and set(inner) <= set(outer))


def covers(outer: Match, inner: Match) -> bool:
    """Whether every call that `inner` is about is one that `outer` is about."""
    return outer == EVERYTHING or (
        within(inner.key, outer.key)
        and within(inner.user, outer.user)
        and within(inner.team, outer.team)
        and within(inner.agent, outer.agent)
        and within(inner.surface, outer.surface)
        and within(inner.tag, outer.tag)
        and patterns_within(inner.model, outer.model)
    )


def other_provider(name: str, policy: Policy) -> str:
    """Why `passthrough` never reaches a model."""
    return (
        f"is never reached: it is served by {quoted(name)}, and callers' own credentials go to "
        f"{quoted(str(policy.auth.provider))} alone"
    )


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
