"""Work that is not done twice: shortened tool results, and answers that are given again."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.policy.fields import Count, Mode, ModelName, Seconds, Share, Whole, unexpected
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match
from gateway.policy.sections.screening import _score


class Context(Section):
    """Shortens old and huge tool results before the model reads them again. Nothing else of a request is
    touched, and a result is shortened the same way on every later step, so that prompt caches hold."""

    mode: Mode = "enforce"
    """`shadow` records what would be saved, and never acts."""
    keep_results: Count = 4
    """Steps whose tool results stay whole. Older ones are cut so many steps at a time."""
    result_tokens: Whole = 400
    """Tokens that are left of an older result, at four bytes a token; 0 leaves but a line that says so."""
    clip_tokens: Count = 8000
    """Tokens over which any result loses its middle."""
    match: Match = EVERYTHING
    """Calls it applies to."""


def _temperature(value: Any) -> Any:
    try:
        # A value from the environment is a text.
        number = float(value) if isinstance(value, str) else _score(value)
    except ValueError:
        number = math.nan
    if 0 <= number <= 2:
        return number
    raise unexpected("a temperature from 0 to 2 such as 0")


class AnswerReuse(Section):
    """When an answer may be given a second time."""

    mode: Mode = "enforce"
    """`shadow` records what would have been answered so, and never acts."""
    ttl_s: Seconds = 3600.0
    """Seconds for which an answer is kept."""
    scope: Literal["user", "key", "team", "global"] = "user"
    """Who shares answers: one user of one key, all users of a key, a team, or everyone."""
    max_temperature: Annotated[float, BeforeValidator(_temperature), Field(ge=0, le=2)] = 0.0
    """The highest `temperature` of a request that is answered so. A request without one counts as 1."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class ExactCache(AnswerReuse):
    """Answers to requests that are the same but for who sends them and how they are delivered."""


class SemanticCache(AnswerReuse):
    """Answers to requests that are the same but for the wording of the user's last message."""

    model: ModelName
    """The model that makes the embeddings, on a provider that serves embeddings; the texts go there."""
    threshold: Share = 0.95
    """The cosine from which on two wordings ask the same."""
    max_entries: Count = 10_000
    """Wordings that each worker remembers."""


class Cache(Section):
    """Answers that are given again without asking the provider. What was flagged, edited or cut short is
    never kept, nor what a provider keeps or does on its own side."""

    exact: ExactCache | None = None
    """For the same request; absent means none."""
    semantic: SemanticCache | None = None
    """For the same request in other words; absent means none."""
