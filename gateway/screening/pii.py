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
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Literal

from gateway.screening import phones
from gateway.screening import pii_validators as check
from gateway.screening.base import Finding
from gateway.screening.context import LABELS, VERSIONS, any_id, bare_id, other_label
from gateway.screening.matching import Cues, PatternSet, Surroundings, to_ascii
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

_TOP_DOMAIN = r"(?:[Xx][Nn]--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})\b"
# The part after the local part: counted repetitions before an `@` would cost RE2 much memory.
_EMAIL = rf"[A-Za-z0-9_%+-]@(?:[A-Za-z0-9-]+\.)+{_TOP_DOMAIN}"
_DOMAIN = re.compile(rf"(?<=[A-Za-z0-9_%+-]@)(?:[A-Za-z0-9-]++\.)+{_TOP_DOMAIN}")
_LOCAL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_%+'-]|\.(?=[A-Za-z0-9_%+'-])){0,63}\Z")
_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 255
_NO_DOMAINS = frozenset((
    "png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico", "js", "mjs", "cjs", "jsx", "tsx", "css",
    "scss", "json", "xml", "html", "htm", "txt", "pdf", "yml", "yaml", "toml", "exe", "dll", "woff", "ttf",
    "map", "lock", "jar", "war", "gz", "tgz", "zip", "tar", "deb", "rpm", "whl", "log", "local", "internal",
    "localdomain", "service", "socket", "timer", "mount", "target", "slice",
))  # fmt: skip
_LONGEST_LABEL = 63
_IBAN = rf"(?i)\b(?:{'|'.join(sorted(check.IBAN_LENGTHS))})\d\d[ -]?[A-Z0-9]{{3}}"
_STRONG = 0.8
"""A score alone that a bare `id` before the value does not unmake."""
_CERTAIN = 0.9
"""A score alone from which a number is told even inside a row of numbers."""
_ODD_IP = 0.35
"""The score of an address that is no host's: under the usual threshold."""
_ALNUM = "[A-Za-z0-9]"
_IBAN_OF = {
    length: re.compile(rf"{_ALNUM}(?:[ -]?{_ALNUM}){{{length - 1}}}")
    for length in set(check.IBAN_LENGTHS.values())
}
"""An IBAN of that many characters, with one separator or none between two."""
_LOOSE = frozenset(" \n\t\"'()[]{}|;")
"""What may touch a value, whatever is beyond it."""
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
_SET = PatternSet(
    (_EMAIL, _IBAN, *phones.ALONE, *phones.NAMED, *(rule.pattern for rule in PATTERNS)), ours=True
)

_PHONE_REACH, _PHONE_AFTER = 48, 10
_UNNAMED = 0.1
"""The score of what could be a telephone number if a word said so."""
_LABEL_GAP, _ID_REACH = 6, 7
"""Characters before a value of which one is a letter, or two are `id`, if a label stands there at all."""
_THOUSANDS = 3
"""Digits between the commas of a large number."""
_DIGITS = re.compile(r"[0-9]+")
_OCTET_AFTER = re.compile(r"[:.-][0-9A-Fa-f]{2}(?![0-9A-Za-z])")
_OCTET_BEFORE = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{2}[:.-]\Z")
_SHAPE = re.compile(r"(\D?)(\d+)")


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
    page = _Page(text, threshold)
    found = [
        Finding(DETECTOR, type_, start, end, score)
        for type_, start, end, score in _candidates(page, plan)
        if score >= threshold
    ]
    if custom:
        found += (finding for finding in _custom(page, tuple(custom)) if finding.score >= threshold)
    return resolve(found)


def resolve(findings: Iterable[Finding]) -> list[Finding]:
    """Without overlaps, in order of position: of two, the surer stays, then the longer, then the first."""
    kept: list[Finding] = []
    cluster: list[Finding] = []
    end = 0
    for finding in sorted(findings, key=_BY_START):
        if cluster and finding.start >= end:
            kept += _surest(cluster)
            cluster = []
        end = max(end, finding.end) if cluster else finding.end
        cluster.append(finding)
    return kept + _surest(cluster)


_BY_START = attrgetter("start")


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


@dataclass(slots=True)
class _Group:
    """A group of digits at the end of some beginning of a shape: the rules of which it is the last, and the
    groups that may follow, by the separator and their length."""

    rules: list[Rule] = field(default_factory=list)
    certain: list[Rule] = field(default_factory=list)
    """Of those, the ones told even inside a row of numbers."""
    spaced: bool = False
    following: dict[tuple[str, int], _Group] = field(default_factory=dict)


@frozen
class _Plan:
    """The rules of one selection of types, ready to be looked up."""

    numbers: _Group
    """Shapes, from the first group on."""
    cues: Cues | None
    """The words of all rules for numbers."""
    rules: dict[int, Rule]
    """By their place in `_SET`."""
    email: bool
    iban: bool
    phone: bool


@lru_cache(maxsize=64)
def _plan(entities: frozenset[str]) -> _Plan:
    wanted = {canonical(entity) for entity in entities}
    numbers = [rule for rule in NUMBERS if rule.type in wanted]
    first = _Group()
    for rule in numbers:
        for shape in rule.shapes.split():
            _add(first, shape.replace("_", " "), rule)
    words = {word: None for rule in numbers if rule.words for word in rule.words.words}
    return _Plan(
        first,
        Cues(*words) if words else None,
        {_AT_RULES + i: rule for i, rule in enumerate(PATTERNS) if rule.type in wanted},
        "EMAIL_ADDRESS" in wanted,
        "IBAN_CODE" in wanted,
        "PHONE_NUMBER" in wanted,
    )


def _add(group: _Group, shape: str, rule: Rule) -> None:
    """Has `rule` found under `shape`."""
    for separator, size in _SHAPE.findall(shape):
        group = group.following.setdefault((separator, int(size)), _Group())
    group.rules.append(rule)
    group.spaced = " " in shape
    if rule.alone >= _CERTAIN:
        group.certain.append(rule)


# -- finding ------------------------------------------------------------------------------------------


class _Page:
    """One text, and what has been found out about its places."""

    __slots__ = ("_around", "_labelled", "ascii", "data", "telephones", "text", "threshold")

    def __init__(self, text: str, threshold: float) -> None:
        self.text = text
        self.threshold = threshold
        self.ascii = to_ascii(text)
        self.data = self.ascii.encode("ascii")
        self.telephones: set[tuple[int, int]] = set()
        """Those already told, so that a less sure pattern need not weigh them again."""
        self._around: Surroundings | None = None
        self._labelled: dict[tuple[frozenset[str], int], bool] = {}

    @property
    def around(self) -> Surroundings:
        if self._around is None:
            self._around = Surroundings(self.text)
        return self._around

    def score(self, rule: Rule, start: int, end: int) -> float:
        """How sure `rule` is of a value that stands there; 0.0 where that is under the threshold."""
        near = rule.words is not None and self.around.beside(rule.words, start, end)
        score = rule.near if near else rule.alone
        if score < self.threshold:
            return 0.0
        if rule.type in _FREE:
            return score
        address = rule.type == "IP_ADDRESS"
        if self.labelled(start, VERSIONS if address else LABELS):
            return 0.0
        weak = rule.alone < _STRONG and not address
        return 0.0 if weak and self.may_be_id(start) and bare_id(self.text, start) else score

    def may_be_id(self, start: int) -> bool:
        """Whether `id` is among the characters where `any_id` and `bare_id` would have to find it."""
        return "id" in self.text[max(0, start - _ID_REACH) : start].lower()

    def labelled(self, start: int, labels: frozenset[str] = LABELS) -> bool:
        """Whether the words right before `start` say that what follows is something else."""
        near = self.text[max(0, start - _LABEL_GAP) : start]
        if near.upper() == near.lower():
            return False
        known = self._labelled.get((labels, start))
        if known is None:
            known = self._labelled[labels, start] = other_label(self.text, start, labels)
        return known


def _candidates(page: _Page, plan: _Plan) -> Iterator[Candidate]:
    yield from _numbers(page, plan)
    for index in _SET.present(page.data):
        if index >= _AT_RULES:
            if rule := plan.rules.get(index):
                yield from _by_pattern(page, rule, index)
        elif index == _AT_EMAIL:
            if plan.email:
                yield from _emails(page.ascii)
        elif index == _AT_IBAN:
            if plan.iban:
                yield from _ibans(page.ascii, _SET.spans(index, page.data))
        elif plan.phone:
            yield from _phones(page, index)


def _numbers(page: _Page, plan: _Plan) -> Iterator[Candidate]:
    text = page.ascii
    spans = [match.span() for match in _DIGITS.finditer(text)]
    first, last = plan.numbers.following, len(spans) - 1
    for i, (start, end) in enumerate(spans):
        group = first.get(("", end - start))
        j = i
        while group is not None:
            rules = group.rules
            if rules and group.spaced and _in_a_row(text, start, end):
                rules = group.certain
            if rules and _stands_alone(text, start, end):
                yield from _weighed(page, plan, rules, start, end)
            if j == last or spans[j + 1][0] != end + 1:
                break
            j += 1
            separator = text[end]
            end = spans[j][1]
            group = group.following.get((separator, end - spans[j][0]))


def _weighed(page: _Page, plan: _Plan, rules: list[Rule], start: int, end: int) -> Iterator[Candidate]:
    threshold = page.threshold
    weak = any([rule.alone < threshold for rule in rules])
    announced = weak and plan.cues is not None and page.around.beside(plan.cues, start, end)
    value = ""
    for rule in rules:
        # The words first where nothing is told without them, for they cost less than most checks.
        if rule.alone < threshold and not (
            announced and rule.words is not None and page.around.beside(rule.words, start, end)
        ):
            continue
        value = value or check.compact(page.ascii[start:end])
        if rule.valid is not None and not rule.valid(value):
            continue
        if score := page.score(rule, start, end):
            yield rule.type, start, end, score


def _in_a_row(text: str, start: int, end: int) -> bool:
    """Whether more digits follow or precede after a space, as in tables of numbers."""
    before = start > 1 and text[start - 1] == " " and text[start - 2].isdigit()
    return before or (text[end : end + 1] == " " and text[end + 1 : end + 2].isdigit())


_SIGNS = ("no.", "nr.")
"""Before a number, though they are written against it."""


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether the value is no part of a longer token: an identifier, a decimal, a path, a UUID, a price."""
    if start and (before := text[start - 1]) not in _LOOSE:
        further = text[start - 2] if start > 1 else " "
        if before in _TIGHT or before in "$%@~" or (before in ".:" and further.isdigit()):
            return False
        if before == "," and further.isdigit() and _group(text, start, end) <= _THOUSANDS:
            return False
        if before in "-/+." and further in _TIGHT and text[max(0, start - 3) : start].lower() not in _SIGNS:
            return False
    if end < len(text) and (after := text[end]) not in _LOOSE:
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


def _by_pattern(page: _Page, rule: Rule, index: int) -> Iterator[Candidate]:
    text, words, free = page.ascii, rule.words, rule.type in _FREE
    needed = rule.alone < page.threshold
    if needed and (words is None or not page.around.before(words, len(text), len(text))):
        return
    odd = False
    for start, end in _SET.spans(index, page.data):
        if needed and words is not None and not page.around.beside(words, start, end):
            continue
        value = text[start:end]
        if rule.type == "URL":
            end = start + len(value.rstrip(".,;:!?)]}'"))
            if start and (text[start - 1] in "@." or text[end : end + 1] == "@"):
                continue
        elif rule.type == "IP_ADDRESS":
            odd = not check.ordinary_ip(value)
            if (odd and page.threshold > _ODD_IP) or not _ip_edges(text, start, end):
                continue
        elif rule.type == "MAC_ADDRESS":
            # More of the same are a fingerprint.
            if _OCTET_AFTER.match(text, end) or _OCTET_BEFORE.search(text, max(0, start - 4), start):
                continue
        elif not free and not _stands_alone(text, start, end):
            continue
        if rule.valid is not None and not rule.valid(value if rule.raw else check.compact(value)):
            continue
        if score := page.score(rule, start, end):
            yield rule.type, start, end, _ODD_IP if odd else score


def _ip_edges(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before == "# ":
        return False  # a numbered heading
    if before[-1:] in _TIGHT or before[-1:] in (".", "-") or (before[-1:] == "/" and before[:1] in _TIGHT):
        return False
    if after[:1] == ":" and ":" not in text[start:end]:
        return not after[1:].isalpha()  # a port follows
    return not (after[:1] in _TIGHT or (after[:1] in (".", "-", ":") and after[1:] in _TIGHT))


def _emails(text: str) -> Iterator[Candidate]:
    at, end = text.find("@"), 0
    while at != -1:
        found = _DOMAIN.match(text, at + 1) if at > end else None
        if found is not None:
            end = found.end()
            local = _LOCAL.search(text[max(0, at - _LONGEST_LOCAL) : at])
            if local is not None and _host(found.group()) and text[end : end + 1] != "@":
                start = at - len(local.group())
                if not _userinfo(text, start, end):
                    yield "EMAIL_ADDRESS", start, end, 0.95
        at = text.find("@", at + 1)


def _host(domain: str) -> bool:
    """Whether labels have the lengths and edges of a host's, and the last is no file's ending."""
    if domain[0] == "-" or domain[-1] == "-" or "-." in domain or ".-" in domain:
        return False
    if len(domain) > _LONGEST_LABEL and (
        len(domain) > _LONGEST_DOMAIN or max(map(len, domain.split("."))) > _LONGEST_LABEL
    ):
        return False
    return domain.rpartition(".")[2].lower() not in _NO_DOMAINS


def _userinfo(text: str, start: int, end: int) -> bool:
    """Whether this is the user or the password in a URL, or a remote repository's, not a mailbox."""
    if text[end : end + 1] == ":" and text.startswith(("git@", "hg@", "svn@"), start):
        return True
    _, found, rest = text[max(0, start - 80) : start].rpartition(" ")[2].rpartition("://")
    return bool(found) and "/" not in rest and "?" not in rest


def _ibans(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[Candidate]:
    for start, _ in spans:
        match = _IBAN_OF[check.IBAN_LENGTHS[text[start : start + 2].upper()]].match(text, start)
        if match is None:
            continue
        value, end = match.group(), match.end()
        if (
            (value.isupper() or value.islower())
            and (end == len(text) or text[end] not in _TIGHT)
            and check.iban(check.compact(value))
        ):
            yield "IBAN_CODE", start, end, 1.0


def _phones(page: _Page, index: int) -> Iterator[Candidate]:
    text, around = page.ascii, page.around
    alone = index < _AT_NAMED
    needed = not alone and page.threshold > _UNNAMED
    if needed and not any(around.before(cues, len(text), len(text)) for cues in (PHONE, NUMBER_AFTER)):
        return
    for start, end in _SET.spans(index, page.data):
        if (start, end) in page.telephones:
            continue
        named = around.before(PHONE, start, _PHONE_REACH) or around.follows(NUMBER_AFTER, end, _PHONE_AFTER)
        if (needed and not named) or not _phone_edges(text, start, end):
            continue
        # With more digits beside it, it is part of a longer number, or of a table.
        if text[start] not in "+(" and (alone or not named) and _in_a_row(text, start, end):
            continue
        value = text[start:end]
        if alone:
            score = phones.score_alone(index - _AT_ALONE, value)
        else:
            score = _UNNAMED if phones.possible(value) else 0.0
        if not score or (value[0] != "+" and _other(page, start)):
            continue
        if named:
            score = min(1.0, max(score, 0.55) + 0.15)
        page.telephones.add((start, end))
        yield "PHONE_NUMBER", start, end, score


def _other(page: _Page, start: int) -> bool:
    """Whether what stands before a number says that it is no telephone's."""
    return page.labelled(start) or (page.may_be_id(start) and any_id(page.text, start))


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
def _compiled(custom: tuple[Custom, ...]) -> tuple[PatternSet, list[Cues | None]]:
    words = [Cues(*(f"={word}" for word in one.words)) if one.words else None for one in custom]
    return PatternSet([one.pattern for one in custom]), words


def _custom(page: _Page, custom: tuple[Custom, ...]) -> Iterator[Finding]:
    patterns, words = _compiled(custom)
    for index in patterns.present(page.data):
        one, near = custom[index], words[index]
        valid = _VALIDATORS[one.validator]
        for start, end in patterns.spans(index, page.data):
            if valid(check.compact(page.ascii[start:end])) and (
                near is None or page.around.beside(near, start, end)
            ):
                yield Finding(DETECTOR, one.name, start, end, one.score)
