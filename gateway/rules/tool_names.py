"""What the name of a tool says of it: that it polls, pauses, keeps books, writes, or acts on a page.

Names are hints, not facts: each of them only ever decides how long a loop is waited for, or what counts as
progress, and none of them makes a loop by itself.
"""

from __future__ import annotations

import re
from functools import lru_cache


def words_of(text: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(text.split())


_POLLS = words_of(
    """poll polling status progress check watch monitor ready readiness health await describe inspect job jobs
    logs tail queue state get list wait fetch result results"""
)
_SHELLS = words_of("bash shell sh terminal exec execute command powershell ssh kubectl")
_WAITS = words_of("sleep wait delay pause")
_THINKS = words_of("think thinking thought reflect sequentialthinking")
_WRITES = words_of(
    """write edit update create set save put patch replace insert append add delete remove apply modify upsert
    upload move rename copy assign tag label grant revoke approve reject cancel charge pay refund book order
    schedule complete close mark toggle switch turn fill submit commit merge
    scale deploy rollback restart start stop enable disable lock unlock transition"""
)
_ASKS = words_of("get list search find query fetch check show look lookup read view describe count")
_READS = words_of("read view open cat")
_PAGE_ACTS = words_of("click tap type press fill hover drag scroll computer mouse keyboard swipe")
_PAGES = words_of("browser page playwright puppeteer")
_PAGE_CHOICES = words_of("select key check uncheck toggle drop choose")
_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_BOOKS = re.compile(
    r"(?:add|write|take|save|make|create|set|update|append)?(?:note|notes|memo|todo|todos|plan)"
    r"|(?:todo|todos|plan|note|notes)(?:write|update|add)"
    r"|(?:get)?(?:current|local)?(?:time|datetime|date|now)"
    r"|log(?:event|message|step|info|action|progress|thought|entry)?"
    r"|whoami|listtools|scratchpad"
)
_HANDS_OVER = ("transfer_to_", "handoff_to_", "transfer_back_to_", "hand_off_to_")


@lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _NAME_WORD.findall(name[:128]))


def _last(name: str) -> str:
    """The name without that of its server."""
    return name[:128].replace(".", "__").replace("/", "__").rsplit("__", 1)[-1]


def waits(name: str) -> bool:
    """It pauses."""
    return not _WAITS.isdisjoint(_words(name))


def thinks(name: str) -> bool:
    """It takes down a thought."""
    return not _THINKS.isdisjoint(_words(name))


@lru_cache(maxsize=4096)
def is_idle(name: str) -> bool:
    """It pauses, thinks or keeps books (notes, plans, a log, the time of day): that is neither progress nor
    the lack of it."""
    plain = "".join(_NAME_WORD.findall(_last(name))).lower()
    return waits(name) or thinks(name) or _BOOKS.fullmatch(plain) is not None


def may_poll(name: str) -> bool:
    """It may ask how something is getting on. Alone that says nothing: a result has to say that it is
    pending."""
    words = _words(name)
    return not (_POLLS.isdisjoint(words) and _SHELLS.isdisjoint(words))


@lru_cache(maxsize=4096)
def writes(name: str) -> bool:
    """It changes something, so that a call with other arguments did something else, whatever it answers."""
    if _WRITES.isdisjoint(_words(name)):
        return False
    # An order that is asked for is a thing.
    first = _NAME_WORD.search(_last(name))
    return first is None or first[0].lower() not in _ASKS


def reads(name: str) -> bool:
    """It shows a file or a page, which may speak of failures without being one."""
    return not _READS.isdisjoint(_words(name))


def acts_on_a_page(name: str) -> bool:
    """It clicks, types or scrolls, and shows the page that comes of it."""
    words = _words(name)
    if not _PAGE_ACTS.isdisjoint(words):
        return True
    return not (_PAGES.isdisjoint(words) or _PAGE_CHOICES.isdisjoint(words))


def names_an_identifier(name: str) -> bool:
    """It looks traces up, so that the id of one is what is asked for."""
    return not {"trace", "traces", "span", "spans", "correlation"}.isdisjoint(_words(name))


def hands_over(name: str) -> bool:
    """It passes the conversation on to another agent; what it is given is a reason for that."""
    return name.startswith(_HANDS_OVER)
