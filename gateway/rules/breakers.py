"""How circuit breakers are called: what broke, for whom, and its name, in one text that reads back.

    tool:team/cx:send_email        a tool as one team sees it
    tool:key/support-bot:search    a tool of a key without a team
    tool:shared:search             a tool that fails for everyone
    provider:shared:openai         a provider; models likewise

The parts are percent-encoded, so a name may hold anything.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args
from urllib.parse import quote, unquote

BreakerKind = Literal["tool", "provider", "model"]
SHARED = "shared"
_SCOPES = ("team", "key")


class BreakerName(NamedTuple):
    """A breaker's key, taken apart. `scope` is `team/TEAM`, `key/KEY` or `shared`."""

    kind: BreakerKind
    scope: str
    name: str


def breaker_key(kind: BreakerKind, scope: str, name: str) -> str:
    """The key of a breaker in the store. `scope` is `team/TEAM`, `key/KEY` or `shared`."""
    word, slash, whose = scope.partition("/")
    return f"{kind}:{word}{slash}{_quoted(whose)}:{_quoted(name)}"


def parse_breaker_key(key: str) -> BreakerName | None:
    """What a key stands for; None for anything that `breaker_key` does not make."""
    parts = key.split(":")
    if len(parts) != 3 or parts[0] not in get_args(BreakerKind):
        return None
    kind, scope, name = parts
    word, slash, whose = scope.partition("/")
    if (word not in _SCOPES or not slash) if scope != SHARED else False:
        return None
    try:
        found = BreakerName(kind, word + slash + _unquoted(whose), _unquoted(name))  # type: ignore[arg-type]  # checked above
    except UnicodeDecodeError:
        return None
    return found if breaker_key(*found) == key else None


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogatepass")
