"""Finds personal data of a fixed form: e-mail addresses, telephone, card, account and identity numbers,
addresses of devices, and, where a pattern can tell, of houses.

One pass over the text says which patterns occur (`matching.PatternSet`); numbers are told apart by the
shapes of their groups. What has the right form is then checked: check digits, lengths, dates, the characters
at its edges and the words beside it. Names and places need a language model: `presidio`.

Time is linear in the text, and there is no limit on its length. Findings never overlap.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from gateway.screening import phones
from gateway.screening import pii_validators as check
from gateway.screening.base import Finding
from gateway.screening.context import LABELS, VERSIONS, Words, any_id, bare_id, other_label
from gateway.screening.matching import PatternSet, to_ascii
from gateway.screening.pii_rules import NUMBER_AFTER, NUMBERS, PATTERNS, PHONE, Rule
from gateway.values import frozen

DETECTOR = "pii"
THRESHOLD = 0.5

ALIASES = {
    "EMAIL": "EMAIL_ADDRESS",
    "PHONE": "PHONE_NUMBER",
    "TELEPHONE": "PHONE_NUMBER",
    "CARD": "CREDIT_CARD",
    "CREDIT_CARD_NUMBER": "CREDIT_CARD",
    "IBAN": "IBAN_CODE",
    "SSN": "US_SSN",
    "IP": "IP_ADDRESS",
    "MAC": "MAC_ADDRESS",
    "ADDRESS": "STREET_ADDRESS",
    "ZIP": "ZIP_CODE",
    "DOB": "DATE_OF_BIRTH",
    "NHS": "UK_NHS",
    "NINO": "UK_NINO",
    "IN_VEHICLE": "IN_VEHICLE_REGISTRATION",
    "DE_ID": "DE_PASSPORT",
    "FI_HETU": "FI_PERSONAL_IDENTITY_CODE",
}
"""Other names of types, as policies and data sets write them."""

ENTITIES = frozenset(
    {"EMAIL_ADDRESS", "IBAN_CODE", "PHONE_NUMBER"} | {rule.type for rule in (*NUMBERS, *PATTERNS)}
)
"""Every type there is."""
DEFAULT_ENTITIES = ENTITIES - {"URL", "DATE_TIME", "AGE", "ZIP_CODE", "UK_POSTCODE"}
"""The types looked for when none are named: those that point at one person, account or device."""

# The part after the local part: counted repetitions before an `@` would cost RE2 much memory.
_EMAIL = r"[A-Za-z0-9_%+-]@(?:[A-Za-z0-9-]+\.)+(?:[Xx][Nn]--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})\b"
_LOCAL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_%+'-]|\.(?=[A-Za-z0-9_%+'-])){0,63}\Z")
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 255
_NO_DOMAINS = frozenset((
    "png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico", "js", "mjs", "cjs", "jsx", "tsx", "css",
    "scss", "json", "xml", "html", "htm", "txt", "pdf", "yml", "yaml", "toml", "exe", "dll", "woff", "ttf",
    "map", "lock", "jar", "war", "gz", "tgz", "zip", "tar", "deb", "rpm", "whl", "log", "local", "internal",
    "localdomain",
))  # fmt: skip
_IBAN = rf"(?i)\b(?:{'|'.join(sorted(check.IBAN_LENGTHS))})\d\d[ -]?[A-Z0-9]{{3}}"
_STRONG = 0.8
"""A score alone that a bare `id` before the value does not unmake."""
_CERTAIN = 0.9
"""A score alone from which a number is told even inside a row of numbers."""
_ODD_IP = 0.35
"""The score of an address that is no host's: under the usual threshold."""
_TIGHT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_FREE = frozenset((
    "EMAIL_ADDRESS", "URL", "DATE_TIME", "DATE_OF_BIRTH", "AGE", "STREET_ADDRESS", "CRYPTO", "MAC_ADDRESS",
    "IBAN_CODE", "ZIP_CODE",
))  # fmt: skip
"""Types whose look says enough: neither what touches them nor a label of something else unmakes them."""

# Finders of their own for what a pattern and a check do not settle; the rest of the set are the rules.
_AT_EMAIL, _AT_IBAN, _AT_ALONE = 0, 1, 2
_AT_NAMED = _AT_ALONE + len(phones.ALONE)
_AT_RULES = _AT_NAMED + len(phones.NAMED)
_SET = PatternSet((_EMAIL, _IBAN, *phones.ALONE, *phones.NAMED, *(rule.pattern for rule in PATTERNS)))

_PHONE_REACH = 48
_THOUSANDS = 3
"""Digits between the commas of a large number."""
_DIGITS = re.compile(r"[0-9]+")
_SHAPE = re.compile(r"\d+|\D")


@frozen
class Custom:
    """A recogniser of the user's own."""

    name: str
    """The type of its findings."""
    pattern: str
    """RE2; a group, if there is one, is the value."""
    words: tuple[str, ...] = ()
    """Words of which one must stand beside the value; with none, nothing need stand there."""
    score: float = 0.8
    validator: Literal["luhn", "mod97", "none"] = "none"


_VALIDATORS: dict[str, Callable[[str], bool]] = {
    "luhn": lambda value: value.isdecimal() and check.luhn(value),
    "mod97": check.mod97,
    "none": lambda value: True,
}


def canonical(entity: str) -> str:
    """The type that `entity` names. Raises `ValueError` for a name that is none."""
    name = entity.strip().upper()
    name = ALIASES.get(name, name)
    if name not in ENTITIES:
        raise ValueError(f"{entity!r}: no such type of personal data")
    return name


def scan(
    text: str,
    entities: Collection[str] | None = None,
    custom: Sequence[Custom] = (),
    threshold: float = THRESHOLD,
) -> list[Finding]:
    """Personal data in `text`, in order of position.

    `entities` are the types to look for (`ENTITIES` or `ALIASES`; `None`: `DEFAULT_ENTITIES`); `custom`
    recognisers come on top. Findings under `threshold` are left out; where two overlap, the surer one
    stays, then the longer.
    Raises: `ValueError` for an unknown type, or for a custom pattern that RE2 does not accept.
    """
    plan = _plan(DEFAULT_ENTITIES if entities is None else frozenset(entities))
    ascii_text = to_ascii(text)
    found = [Finding(DETECTOR, *candidate) for candidate in _candidates(text, ascii_text, plan)]
    if custom:
        found += _custom(text, ascii_text, tuple(custom))
    return resolve(finding for finding in found if finding.score >= threshold)


def resolve(findings: Iterable[Finding]) -> list[Finding]:
    """Without overlaps, in order of position: of two, the surer stays, then the longer, then the first."""
    kept: list[Finding] = []
    cluster: list[Finding] = []
    end = 0
    for finding in sorted(findings, key=lambda f: f.start):
        if cluster and finding.start >= end:
            kept += _surest(cluster)
            cluster = []
        end = max(end, finding.end) if cluster else finding.end
        cluster.append(finding)
    return kept + _surest(cluster)


def _surest(cluster: list[Finding]) -> list[Finding]:
    """Of findings that touch one another, those that stay."""
    if len(cluster) < 2:
        return cluster
    kept: list[Finding] = []
    starts: list[int] = []
    for finding in sorted(cluster, key=lambda f: (-f.score, f.start - f.end, f.start)):
        at = bisect_left(starts, finding.start)
        if (at and kept[at - 1].end > finding.start) or (at < len(kept) and kept[at].start < finding.end):
            continue
        starts.insert(at, finding.start)
        kept.insert(at, finding)
    return kept


# -- what to look for ---------------------------------------------------------------------------------

Candidate = tuple[str, int, int, float]
"""Type, start, end, score."""


@frozen
class _Plan:
    """The rules of one selection of types, ready to be looked up."""

    shapes: dict[str, list[Rule]]
    beginnings: frozenset[str]
    """Each beginning of a shape, so that groups are joined only as far as some shape goes."""
    rules: dict[int, Rule]
    """By their place in `_SET`."""
    email: bool
    iban: bool
    phone: bool


@lru_cache(maxsize=64)
def _plan(entities: frozenset[str]) -> _Plan:
    wanted = {canonical(entity) for entity in entities}
    shapes: dict[str, list[Rule]] = {}
    for rule in NUMBERS:
        if rule.type in wanted:
            for shape in rule.shapes.split():
                shapes.setdefault(shape.replace("_", " "), []).append(rule)
    beginnings = set()
    for shape in shapes:
        parts = _SHAPE.findall(shape)
        beginnings |= {"".join(parts[:size]) for size in range(1, len(parts) + 1, 2)}
    rules = {_AT_RULES + i: rule for i, rule in enumerate(PATTERNS) if rule.type in wanted}
    return _Plan(
        shapes,
        frozenset(beginnings),
        rules,
        "EMAIL_ADDRESS" in wanted,
        "IBAN_CODE" in wanted,
        "PHONE_NUMBER" in wanted,
    )


# -- finding ------------------------------------------------------------------------------------------


def _candidates(text: str, ascii_text: str, plan: _Plan) -> Iterator[Candidate]:
    yield from _numbers(text, ascii_text, plan)
    data = ascii_text.encode("ascii")
    for index in _SET.present(data):
        if index >= _AT_RULES:
            if rule := plan.rules.get(index):
                yield from _by_pattern(text, ascii_text, rule, _SET.spans(index, data))
        elif index == _AT_EMAIL:
            if plan.email:
                yield from _emails(ascii_text, _SET.spans(index, data))
        elif index == _AT_IBAN:
            if plan.iban:
                yield from _ibans(ascii_text, _SET.spans(index, data))
        elif plan.phone:
            yield from _phones(text, ascii_text, index, _SET.spans(index, data))


def _score(text: str, start: int, end: int, rule: Rule) -> float:
    if rule.type not in _FREE and other_label(text, start, VERSIONS if rule.type == "IP_ADDRESS" else LABELS):
        return 0.0
    if rule.alone < _STRONG and rule.type not in _FREE and rule.type != "IP_ADDRESS" and bare_id(text, start):
        return 0.0
    return rule.near if rule.words is not None and rule.words.beside(text, start, end) else rule.alone


def _numbers(text: str, ascii_text: str, plan: _Plan) -> Iterator[Candidate]:
    spans = [match.span() for match in _DIGITS.finditer(ascii_text)]
    shapes, beginnings, last = plan.shapes, plan.beginnings, len(spans) - 1
    for i, (start, end) in enumerate(spans):
        shape = str(end - start)
        j = i
        while shape in beginnings:
            rules = shapes.get(shape)
            if rules and " " in shape and _in_a_row(ascii_text, start, end):
                rules = [rule for rule in rules if rule.alone >= _CERTAIN]
            if rules and _stands_alone(ascii_text, start, end):
                value = check.compact(ascii_text[start:end])
                for rule in rules:
                    if rule.valid is not None and not rule.valid(value):
                        continue
                    if score := _score(text, start, end, rule):
                        yield rule.type, start, end, score
            if j == last or spans[j + 1][0] != end + 1:
                break
            j += 1
            separator = ascii_text[end]
            end = spans[j][1]
            shape = f"{shape}{separator}{end - spans[j][0]}"


def _in_a_row(text: str, start: int, end: int) -> bool:
    """Whether more digits follow or precede after a space, as in tables of numbers."""
    before = start > 1 and text[start - 1] == " " and text[start - 2].isdigit()
    return before or (text[end : end + 1] == " " and text[end + 1 : end + 2].isdigit())


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether the value is no part of a longer token: an identifier, a decimal, a path, a UUID, a price."""
    if start:
        before = text[start - 1]
        further = text[start - 2] if start > 1 else " "
        if before in _TIGHT or before in "$%@~" or (before in ".:" and further.isdigit()):
            return False
        if before == "," and further.isdigit() and _group(text, start, end) <= _THOUSANDS:
            return False
        if before in "-/+." and further in _TIGHT:
            return False
    if end < len(text):
        after = text[end]
        further = text[end + 1] if end + 1 < len(text) else " "
        if after in _TIGHT or after in "@%~" or (after in ".:" and further.isdigit()):
            return False
        if after == "," and further.isdigit() and end - start <= _THOUSANDS:
            return False
        if after in "-/+" and further in _TIGHT:
            return False
    return True


def _group(text: str, start: int, end: int) -> int:
    """How many digits the value begins with."""
    match = _DIGITS.match(text, start, end)
    return match.end() - start if match else end - start


def _by_pattern(
    text: str, ascii_text: str, rule: Rule, spans: Iterable[tuple[int, int]]
) -> Iterator[Candidate]:
    free = rule.type in _FREE
    for start, end in spans:
        value = ascii_text[start:end]
        if rule.type == "URL":
            end = start + len(value.rstrip(".,;:!?)]}'"))
            if start and (ascii_text[start - 1] in "@." or ascii_text[end : end + 1] == "@"):
                continue
        elif rule.type == "IP_ADDRESS":
            if not _ip_edges(ascii_text, start, end):
                continue
        elif not free and not _stands_alone(ascii_text, start, end):
            continue
        if rule.valid is not None and not rule.valid(value if rule.raw else check.compact(value)):
            continue
        if score := _score(text, start, end, rule):
            if rule.type == "IP_ADDRESS" and not check.ordinary_ip(value):
                score = _ODD_IP
            yield rule.type, start, end, score


def _ip_edges(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before[-1:] in _TIGHT or before[-1:] in (".", "-") or (before[-1:] == "/" and before[:1] in _TIGHT):
        return False
    return not (after[:1] in _TIGHT or (after[:1] in (".", "-", ":") and after[1:] in _TIGHT))


def _emails(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[Candidate]:
    for near_at, end in spans:
        at = near_at + 1
        local = _LOCAL.search(text[max(0, at - _LONGEST_LOCAL) : at])
        domain = text[at + 1 : end]
        if (
            local is None
            or len(domain) > _LONGEST_DOMAIN
            or not all(_label(label) for label in domain.split("."))
        ):
            continue
        start = at - len(local.group())
        if (
            domain.rpartition(".")[2].lower() in _NO_DOMAINS
            or text[end : end + 1] == "@"
            or _userinfo(text, start, end)
        ):
            continue
        yield "EMAIL_ADDRESS", start, end, 0.95


def _label(label: str) -> bool:
    return 0 < len(label) <= 63 and label[0] != "-" and label[-1] != "-"


def _userinfo(text: str, start: int, end: int) -> bool:
    """Whether this is the user or the password in a URL, or a remote repository's, not a mailbox."""
    if text[end : end + 1] == ":" and text.startswith(("git@", "hg@", "svn@"), start):
        return True
    _, found, rest = text[max(0, start - 80) : start].rpartition(" ")[2].rpartition("://")
    return bool(found) and "/" not in rest and "?" not in rest


def _ibans(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[Candidate]:
    for start, _ in spans:
        length = check.IBAN_LENGTHS[text[start : start + 2].upper()]
        end, size = start, 0
        while size < length and end < len(text):
            if text[end] in _TIGHT and text[end] != "_":
                size += 1
            elif text[end] not in " -" or text[end - 1] in " -":
                break
            end += 1
        letters = [c for c in text[start:end] if c.isalpha()]
        value = check.compact(text[start:end])
        if (
            len({c.isupper() for c in letters}) == 1
            and check.iban(value)
            and (end == len(text) or text[end] not in _TIGHT)
        ):
            yield "IBAN_CODE", start, end, 1.0


def _phones(text: str, ascii_text: str, index: int, spans: Iterable[tuple[int, int]]) -> Iterator[Candidate]:
    for start, end in spans:
        value = ascii_text[start:end]
        if not _phone_edges(ascii_text, start, end):
            continue
        if index < _AT_NAMED:
            score = phones.score_alone(index - _AT_ALONE, value)
        else:
            score = 0.1 if phones.possible(value) else 0.0
        if not score or (value[0] != "+" and (other_label(text, start) or any_id(text, start))):
            continue
        named = PHONE.before(text, start, _PHONE_REACH) or NUMBER_AFTER.follows(text, end, 10)
        # With more digits beside it, it is part of a longer number, or of a table.
        if value[0] not in "+(" and (index < _AT_NAMED or not named) and _in_a_row(ascii_text, start, end):
            continue
        if named:
            score = min(1.0, max(score, 0.55) + 0.15)
        yield "PHONE_NUMBER", start, end, score


def _phone_edges(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before:
        last, further = before[-1], before[:-1] or " "
        if last in _TIGHT or last in "$%@~+" or (last in ".-/" and further in _TIGHT):
            return False
        if last in ",:" and further.isdigit() and _group(text, start, end) <= _THOUSANDS:
            return False
    if after:
        first, further = after[0], after[1:] or " "
        if first in _TIGHT or first in "%@~" or (first in ".:-/+" and further.isdigit()):
            return False
    return True


# -- recognisers of the user's own --------------------------------------------------------------------


@lru_cache(maxsize=32)
def _compiled(custom: tuple[Custom, ...]) -> tuple[PatternSet, list[Words | None]]:
    words = [Words(*(f"={word}" for word in one.words)) if one.words else None for one in custom]
    return PatternSet([one.pattern for one in custom]), words


def _custom(text: str, ascii_text: str, custom: tuple[Custom, ...]) -> Iterator[Finding]:
    patterns, words = _compiled(custom)
    data = ascii_text.encode("ascii")
    for index in patterns.present(data):
        one, near = custom[index], words[index]
        valid = _VALIDATORS[one.validator]
        for start, end in patterns.spans(index, data):
            if valid(check.compact(ascii_text[start:end])) and (
                near is None or near.beside(text, start, end)
            ):
                yield Finding(DETECTOR, one.name, start, end, one.score)
