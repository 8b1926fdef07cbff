"""Answers that say something was done which the run does not show.

A sentence claims an action when it says so in the first person ("I have sent the e-mail") or in a passive
that means now ("your order has been cancelled"). The claim stands when a tool that does such a thing
succeeded in the run, or one that may do anything (a shell, a tool whose name tells nothing). Offers, plans,
conditions, negations, questions, quotations, drafts, what others did and what was done before are no claims.

The sentences are read by pattern, in English and German; what is unclear is no claim. Texts are bounded, and
so is what is kept of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from gateway.policy.sections.tools import Claims
from gateway.values import frozen

MAX_TEXT = 12_000
"""Characters of an answer that are read."""
_MAX_SENTENCE = 400
_MAX_CLAIMS = 5
_SHOWN = 80
_FACTS = 8

Status = str
"""Of a call's result: `ok`, `error`, `pending`, or empty when it is not known."""


@frozen
class Claim:
    """One thing that an answer says was done, and what the run shows instead."""

    kind: Literal["unsupported_action", "contradicts_result"]
    """No call that could have done it; or one that failed."""
    verb: str
    """As the built-in table or the policy has it; `succeeded` for a claim of success without a verb."""
    tools: tuple[str, ...]
    """Tools offered that do such a thing; at most five."""
    sentence: str
    """Where it stands, 80 characters at most."""
    facts: tuple[tuple[str, Status], ...]
    """The last calls of the run with their statuses; at most eight."""


def claims(
    answer: str,
    facts: Callable[[], Sequence[tuple[str, Status]]],
    offered: Collection[str],
    config: Claims | None = None,
) -> list[Claim]:
    """The claims of an answer that the run does not bear out, in their order, each verb once; at most five.

    `facts` gives the run's tool calls by name and status, oldest first, and is asked only when an answer
    says that something was done; `offered` are the tools that the run could call. Without tools nothing is
    claimed.
    """
    if not offered or not answer:
        return []
    verbs = _verbs(tuple(sorted((config.actions or {}).items())) if config else ())
    run: _Run | None = None
    out: dict[str, Claim] = {}
    for sentence in _sentences(answer[:MAX_TEXT]):
        for said in _statements(sentence, verbs):
            run = run or _Run(facts(), offered)
            if said.verb.name not in out and (claim := run.examine(said)) is not None:
                out[said.verb.name] = claim
                if len(out) == _MAX_CLAIMS:
                    return list(out.values())
    # A claim of success without a verb needs a result to stand against, so that the run has to be looked at.
    if not out and run is None and _SUCCEEDED.search(answer[:MAX_TEXT]):
        run = _Run(facts(), offered)
    if (
        not out
        and run is not None
        and (claim := run.success_against_the_last_result(answer[:MAX_TEXT])) is not None
    ):
        return [claim]
    return list(out.values())


# --- verbs


@frozen
class _Verb:
    """An action: the participles that claim it and the beginnings of words in names of tools that do it."""

    name: str
    stems: tuple[str, ...]
    plain: bool = False
    """A word that also speaks of texts (`created a summary`): it needs an object out in the world."""
    tools: tuple[str, ...] = ()
    """Named by the policy; then `stems` do not count."""

    def fits(self, tool: str) -> bool:
        """Whether a tool does this, as far as its name tells."""
        if self.tools:
            return tool in self.tools
        return any(word.startswith(self.stems) for word in _words(tool))


_CHANGE = ("update", "change", "modify", "edit", "set", "patch", "manage")
_TABLE: tuple[tuple[str, str, str, bool], ...] = (
    (
        "sent",
        "sent emailed e-mailed mailed messaged texted forwarded gesendet verschickt versendet geschickt "
        "abgeschickt versandt gemailt weitergeleitet",
        "send mail email gmail message notify post reply sms forward text slack dispatch contact share "
        "submit",
        False,
    ),
    (
        "notified",
        "notified alerted informed informiert benachrichtigt verständigt",
        "notif alert send mail email message page inform contact post sms slack escalat",
        False,
    ),
    (
        "cancelled",
        "cancelled canceled storniert gekündigt abgesagt",
        "cancel delete remove terminat void stop revoke unsubscribe end *",
        False,
    ),
    (
        "booked",
        "booked reserved gebucht reserviert",
        "book reserv creat schedul purchas order add make",
        False,
    ),
    (
        "scheduled",
        "scheduled rescheduled eingetragen terminiert",
        "schedul reschedul creat add calendar event meeting book appointment remind plan move insert *",
        False,
    ),
    (
        "deleted",
        "deleted erased purged gelöscht",
        "delet remov drop rm purg clear eras clean unlink destroy truncat trash",
        False,
    ),
    (
        "refunded",
        "refunded reimbursed erstattet zurückerstattet rückerstattet",
        "refund reimburs return credit payment pay transaction compensat",
        False,
    ),
    (
        "paid",
        "paid transferred charged wired bezahlt überwiesen",
        "pay transfer charg wire send transaction invoice bill settle",
        False,
    ),
    (
        "ordered",
        "purchased bought gekauft bestellt",
        "purchas buy order checkout place book",
        False,
    ),
    (
        "submitted",
        "submitted eingereicht",
        "submit send post creat file appl upload register",
        False,
    ),
    (
        "published",
        "published posted deployed veröffentlicht",
        "publish post deploy releas tweet send creat upload push",
        False,
    ),
    (
        "uploaded",
        "uploaded hochgeladen",
        "upload put save store write attach add",
        False,
    ),
    (
        "created",
        "created opened filed registered added logged angelegt erstellt eröffnet hinzugefügt",
        "creat open file add new register insert submit post write make log save append import upsert "
        "book schedul *",
        True,
    ),
    (
        "updated",
        "updated changed modified edited renamed adjusted corrected upgraded reset aktualisiert geändert "
        "angepasst verschoben zurückgesetzt",
        "renam move adjust upgrad reset replac put write save add correct apply upsert reschedul fix *",
        True,
    ),
    (
        "removed",
        "removed entfernt",
        "remov delet drop rm clear clean unlink unsubscrib revok *",
        True,
    ),
    (
        "saved",
        "saved stored gespeichert",
        "sav stor writ upload put creat add insert remember memor *",
        True,
    ),
    (
        "closed",
        "closed resolved geschlossen",
        "clos resolv complet finish end *",
        True,
    ),
    (
        "assigned",
        "assigned escalated zugewiesen eskaliert",
        "assign escalat transfer rout handoff delegat creat *",
        True,
    ),
    (
        "enabled",
        "enabled activated unlocked aktiviert freigeschaltet",
        "enabl activat unlock turn start switch *",
        True,
    ),
    (
        "disabled",
        "disabled deactivated blocked locked deaktiviert gesperrt",
        "disabl deactivat block lock turn stop suspend switch freez *",
        True,
    ),
)
"""Name, participles, beginnings of words in names of tools (`*` stands for `_CHANGE`), and whether the word
is plain: it also speaks of texts."""


def _stems(words: str) -> tuple[str, ...]:
    listed = words.split()
    return (*listed[:-1], *_CHANGE) if listed[-1] == "*" else tuple(listed)


_NOUN_VERBS = {
    "refund": "refunded",
    "payment": "paid",
    "transfer": "paid",
    "reminder": "scheduled",
    "order": "ordered",
    "booking": "booked",
    "reservation": "booked",
    "cancellation": "cancelled",
    "erstattung": "refunded",
    "rückerstattung": "refunded",
    "zahlung": "paid",
    "überweisung": "paid",
    "stornierung": "cancelled",
    "buchung": "booked",
}
"""What was `issued`, `processed`, `initiated`, `placed` or `set`."""
_LIGHT = (
    "issued",
    "processed",
    "initiated",
    "placed",
    "completed",
    "executed",
    "confirmed",
    "veranlasst",
    "ausgelöst",
)


_LIGHT_WORDS = frozenset((*_LIGHT, "set", "made"))


@lru_cache(maxsize=64)
def _verbs(actions: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, _Verb]:
    """Participles in lower case, with the action that each claims. A policy's own verbs replace the table."""
    table: dict[str, _Verb] = {}
    for name, forms, stems, plain in _TABLE:
        table.update(dict.fromkeys(forms.split(), _Verb(name, _stems(stems), plain)))
    if not actions:
        return table
    own: dict[str, _Verb] = {}
    for verb, tools in actions:
        meant = table.get(verb.lower())
        named = _Verb(verb, (), False, tools)
        if meant is not None and meant.name == verb.lower():
            own.update({form: named for form, other in table.items() if other.name == meant.name})
        else:
            # Of a phrase the first word is looked for, and then whether the rest follows.
            own[verb.lower().split()[0]] = named
    return own


# --- sentences

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_QUOTED = re.compile(
    r"\"[^\"\n]{1,300}\"|“[^”\n]{1,300}”|„[^“”\n]{1,300}[“”]|«[^»\n]{1,300}»|(?<!\w)'[^'\n]{8,300}'(?!\w)"
)
_LETTER = re.compile(
    r"\**(?:subject|betreff)\**\s?:|\**(?:dear|hi|hello|hallo|sehr geehrte[rs]?|liebe[rs]?"
    r"|guten tag)\b[^.!?]{0,60},\**$",
    re.IGNORECASE,
)
_SIGNED = re.compile(
    r"(?:(?:best|kind|warm)(?:est)? (?:regards|wishes)|regards|sincerely|cheers|best,|viele grüße"
    r"|beste grüße|mit freundlichen"
    r"|-{3,}|\[your name\])",
    re.IGNORECASE,
)
_END = re.compile(r"(?<=[.!?])[\"”)*_]*\s+(?=\S)")


def _sentences(text: str) -> Iterator[str]:
    """The sentences in which the agent speaks for itself: no code, quotations, drafted letters, questions."""
    text = _CODE.sub(" ", text).replace("’", "'")
    in_letter = False
    for number, written in enumerate(text.split("\n")):
        line = written.strip(" \t*_#•-✅✔️☑🎉")
        if in_letter:
            in_letter = not _SIGNED.match(line)
            continue
        # A greeting in the first line is the agent's own.
        if number and _LETTER.match(line):
            in_letter = True
            continue
        if not line or line.startswith((">", "|")):
            continue
        for sentence in _END.split(_QUOTED.sub(" … ", line)):
            if not sentence.rstrip(" *_)").endswith("?"):
                yield sentence[:_MAX_SENTENCE]


# --- statements

_ADVERBS = (
    r"(?:(?:just|now|also|then|successfully|gone ahead and|went ahead and|officially|automatically|both"
    r"|all|therefore"
    r"|hereby|immediately|recently|finally|promptly|since|duly)\s+){0,3}"
)
_FIRST = re.compile(rf"\b(?:I|we)(?:'ve|\s+have|\s+had)?\s+{_ADVERBS}([a-zA-Z-]{{3,20}})\b", re.IGNORECASE)
_AND = re.compile(rf"\b(?:and|then|,)\s+{_ADVERBS}([a-zA-Z-]{{3,20}})\b", re.IGNORECASE)
_PERFECT = re.compile(rf"\b(?:has|have)\s+{_ADVERBS}been\s+{_ADVERBS}([a-zA-Z-]{{3,20}})\b", re.IGNORECASE)
_STATE = re.compile(r"\b(?:is|are)\s+(?:now|all|officially)\s+([a-zA-Z-]{3,20})\b", re.IGNORECASE)
_PAST = re.compile(rf"\b(?:was|were|got)\s+{_ADVERBS}([a-zA-Z-]{{3,20}})\b", re.IGNORECASE)
_ELLIPSIS = re.compile(
    r"(?:(?:done|ok|okay|great|alright|all set|perfect|sure)[.!,:—-]+\s*)?(?:(?:the"
    r"|your)\s+)?(?:[\w#@.-]{1,30}\s+){1,4}?"
    r"(?:successfully\s+)?([a-zA-Z-]{3,20})(?:\s+successfully)?\s*(?:[.!]|\Z|(?:to|for|with|from|in)\b)",
    re.IGNORECASE,
)
Tense = Literal["now", "perfect", "past"]
_PASSIVES: tuple[tuple[re.Pattern[str], Tense], ...] = (
    (_PERFECT, "perfect"),
    (_STATE, "now"),
    (_PAST, "past"),
)
_NOW = re.compile(
    r"\b(?:successfully|now|just|as requested|as you asked|erfolgreich|soeben|jetzt|nun|gerade"
    r"|wie gewünscht)\b",
    re.IGNORECASE,
)
_FINITE = re.compile(r"\b(?:is|are|was|were|has|have|had|be|been|being|do|does|did)\b", re.IGNORECASE)
_SUCCESSFULLY = re.compile(
    r"(?:(?:done|ok|okay|great)[.!,:—-]+\s*)?successfully\s+([a-zA-Z-]{3,20})\b", re.IGNORECASE
)
_WORD = r"([A-Za-zÄÖÜäöüß-]{4,24})"
_GERMAN = re.compile(
    r"\b(?:ich\s+habe|wir\s+haben|habe\s+ich|haben\s+wir|hab\s+ich|ich\s+hab)\b([^.!?;:,]{0,120})",
    re.IGNORECASE,
)
_GERMAN_PASSIVE = re.compile(r"\b(wurden?|ist|sind)\b([^.!?;:,]{0,120})", re.IGNORECASE)
_GERMAN_WORD = re.compile(_WORD)
_SPOKEN = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")

_UNREAL = re.compile(
    r"\b(?:if|once|when|whenever|after|until|till|unless|before|whether|in case|as soon as|would|should"
    r"|could|might|may|must|will"
    r"|shall|can|cannot|can't|to|wish|suppose|imagine|pretend|assume|assuming|not|never|no|none|nothing"
    r"|neither|nor|nobody"
    r"|without|unable|e\.g|example|wenn|falls|sobald|nachdem|bevor|bis|ob|dass|damit|würde|könnte|sollte"
    r"|soll|werde|wird|werden"
    r"|nicht|kein|keine|keinen|nie|niemals|nichts|weder)\b|n't\b",
    re.IGNORECASE,
)
"""In the clause of a statement: it is not said to have happened."""
_REPORTED = re.compile(
    r"\b(?:according to|says?|said|states?|stated|writes?|wrote|claims?|claimed|reports?|reported|told"
    r"|shows?|showed|indicates?|indicated"
    r"|mentions?|mentioned|see that|saw that|noticed|found that|found out|learned|looks like|seems?"
    r"|appears?|apparently|confirm that"
    r"|these|those|following|lists?|reads|note that the|history|records?\s+show|log|thinks?|believes?"
    r"|thought|laut|gemäß|sagt|sagte|schreibt|zeigt|offenbar"
    r"|anscheinend|scheint|you|customer|he|she|they|kunde|kundin|example|assume|suppose|imagine|pretend"
    r"|sample|beispiel)\b",
    re.IGNORECASE,
)
"""Before a passive statement: it comes from elsewhere."""
_REPORTED_FIRST = re.compile(
    r"\b(?:says?|said|states?|stated|wrote|writes|claims?|claimed|example|assume|suppose|imagine|pretend"
    r"|sample|template|think|believe"
    r"|thought|wish|like|sagt|sagte|schreibt|beispiel|angenommen)\b",
    re.IGNORECASE,
)
"""Before a statement in the first person: somebody else's words, or none that are meant."""
_BEFORE_NOW = re.compile(
    r"\b(?:yesterday|ago|earlier|previously|previous|already|last (?:week|month|year|night|time|monday"
    r"|tuesday|wednesday|thursday|friday)"
    r"|in the past|back in|originally|gestern|bereits|schon|früher|letzte[nrsm]?|vor \w+ (?:tagen|wochen"
    r"|stunden|monaten)|vorhin|damals)\b",
    re.IGNORECASE,
)
_ON_A_DAY = re.compile(
    r"\b(?:on|at|in|since|am|im|um|seit)\s+(?:\w+,?\s+)?(?:mon|tues|wednes|thurs|fri|satur|sun)day\b"
    r"|\b(?:on|since|am|seit)\s+\d"
    r"|\b(?:on|in|since|am|im|seit)\s+(?:the\s+)?(?:\d{4}|jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct"
    r"|okt|nov|dec|dez|montag|dienstag|mittwoch|donnerstag|freitag"
    r"|samstag|sonntag)|\b\d{4}-\d\d-\d\d\b|\bat \d",
    re.IGNORECASE,
)
_BY_SOMEBODY = re.compile(
    r"\b(?:by|von|vom|durch)\s+(?!me\b|us\b|mir\b|uns\b|e-?mail\b|mail\b|sms\b|phone\b|post\b|\d|mon|tue"
    r"|wed|thu|fri|sat|sun|tomorrow|then"
    r"|mistake|default|using|\w+ing\b)",
    re.IGNORECASE,
)
_TEXT_NOUN = re.compile(
    r"\b(?:draft|summary|outline|list|table|example(?!\.)|version|text|paragraph|answer|response|reply"
    r"|code|function|snippet|above|below"
    r"|following|here|section|sentence|wording|essay|story|poem|script|query|overview|comparison"
    r"|recommendations?|template|analysis"
    r"|explanation|breakdown|diagram|entwurf|zusammenfassung|liste|tabelle|übersicht|beispiel|vorschlag"
    r"|antwort|unten|oben|folgende[nrs]?)\b",
    re.IGNORECASE,
)
_THING = re.compile(
    r"\b(?:ticket|case|issue|incident|record|account|order|booking|reservation|appointment|event|meeting"
    r"|calendar|reminder|invoice|profile"
    r"|address|subscription|database|entry|row|user|customer|file|folder|repository|branch|pull request"
    r"|task|password|settings?|contact"
    r"|lead|deal|payment|shipment|flight|price|status|delivery|membership|permissions?|channel|webhook"
    r"|server|instance|alert|rule|phone number"
    r"|konto|auftrag|bestellung|buchung|termin|eintrag|datensatz|kalender|rechnung|profil|adresse|abo"
    r"|abonnement|datenbank|nutzer|kunde"
    r"|datei|ordner|aufgabe|passwort|einstellung|vorgang|anfrage)(?:s|e|en|n)?\b",
    re.IGNORECASE,
)


@frozen
class _Statement:
    """That something was done. `sure` when the words leave no doubt that it was now, and by the agent."""

    verb: _Verb
    sentence: str
    sure: bool
    tense: Tense
    """The further from now, the likelier it is what a lookup has shown."""


def _statements(sentence: str, verbs: dict[str, _Verb]) -> Iterator[_Statement]:
    spoken = {word.lower() for word in _SPOKEN.findall(sentence)}
    if spoken.isdisjoint(verbs) and spoken.isdisjoint(_LIGHT_WORDS):
        return
    for found in _FIRST.finditer(sentence):
        yield from _first(sentence, found, verbs)
    if (leading := _SUCCESSFULLY.match(sentence)) and (verb := _verb(leading[1], sentence, sentence, verbs)):
        yield _Statement(verb, sentence, True, "now")
    for pattern, tense in _PASSIVES:
        for found in pattern.finditer(sentence):
            verb = _verb(found[1], sentence[found.start() :], sentence, verbs)
            if verb is not None and _means_now(sentence, found.start(), found.end()):
                yield _Statement(verb, sentence, False, "now" if _NOW.search(sentence) else tense)
    if (short := _ELLIPSIS.match(sentence)) and not _FINITE.search(short[0]):
        verb = _verb(short[1], sentence, sentence, verbs)
        if verb is not None and _means_now(sentence, short.start(1), short.end(1)):
            yield _Statement(verb, sentence, False, "now" if len(sentence) < 60 else "perfect")
    yield from _german(sentence, verbs)


def _first(sentence: str, found: re.Match[str], verbs: dict[str, _Verb]) -> Iterator[_Statement]:
    """`I have sent …`, and what follows it as `and cancelled …`."""
    before = _clause(sentence, found.start())
    if _UNREAL.search(before) or _REPORTED_FIRST.search(sentence[: found.start()]):
        return
    if _BEFORE_NOW.search(sentence) or not _is_past(found[1].lower(), verbs):
        return
    for place in (found, *_AND.finditer(sentence, found.end())):
        rest = sentence[place.start() :][:120]
        verb = _verb(place[1], rest, rest, verbs)
        if verb is not None and not _UNREAL.search(sentence[found.end() : place.start()]):
            yield _Statement(verb, sentence, True, "now")


def _is_past(word: str, verbs: dict[str, _Verb]) -> bool:
    return (
        word in verbs
        or word in _LIGHT
        or word.endswith("ed")
        or word in ("set", "found", "made", "went", "took")
    )


def _german(sentence: str, verbs: dict[str, _Verb]) -> Iterator[_Statement]:
    for found in _GERMAN.finditer(sentence):
        before = _clause(sentence, found.start())
        if _UNREAL.search(before + found[1]) or _REPORTED_FIRST.search(sentence[: found.start()]):
            continue
        if _BEFORE_NOW.search(sentence):
            continue
        for word in _GERMAN_WORD.finditer(found[1]):
            if (verb := _verb(word[1], found[1], found[1], verbs)) is not None:
                yield _Statement(verb, sentence, True, "now")
    for found in _GERMAN_PASSIVE.finditer(sentence):
        if _UNREAL.search(found[2]) or not _means_now(sentence, found.start(), found.end()):
            continue
        tense: Tense = "past" if found[1].lower().startswith("wurde") else "perfect"
        for word in _GERMAN_WORD.finditer(found[2]):
            if (verb := _verb(word[1], sentence, sentence, verbs)) is not None:
                yield _Statement(verb, sentence, False, "now" if _NOW.search(sentence) else tense)


def _clause(sentence: str, end: int) -> str:
    """From the last comma or the like up to a place."""
    start = max(sentence.rfind(mark, 0, end) for mark in (",", ";", ":", "—", "–", "("))
    return sentence[start + 1 : end]


def _means_now(sentence: str, start: int, end: int) -> bool:
    """Whether a passive tells what has just been done, by nobody else."""
    if _UNREAL.search(_clause(sentence, start)) or _REPORTED.search(sentence[:start]):
        return False
    if _BEFORE_NOW.search(sentence) or _ON_A_DAY.search(sentence[start:]):
        return False
    return not _BY_SOMEBODY.search(sentence[end : end + 40])


def _verb(word: str, near: str, whole: str, verbs: dict[str, _Verb]) -> _Verb | None:
    """The action that a participle claims, if it claims one: `near` is what follows it, `whole` where its
    object may stand."""
    word = word.lower()
    if word in _LIGHT_WORDS:
        spoken = whole.lower()
        named = next(
            (name for noun, name in _NOUN_VERBS.items() if re.search(rf"\b{noun}s?\b", spoken)), None
        )
        return next((verb for verb in verbs.values() if verb.name == named), None)
    verb = verbs.get(word)
    if verb is None or (" " in verb.name and verb.name.lower() not in near.lower()):
        return None
    if verb.plain:
        return verb if _THING.search(whole) and not _TEXT_NOUN.search(whole) else None
    return None if verb.name == "sent" and _TEXT_NOUN.search(near[:70]) else verb


# --- the run

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def _word_list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_ANYTHING = _word_list("""
    bash shell terminal command exec execut python code interpreter script sql http request api browser
    computer click invoke call task agent delegat run process handle manage perform do apply complet
    submit graphql curl workflow action tool playwright mcp confirm
""")
"""Beginnings of words in names of tools that may have done whatever is claimed."""
_LOOKUPS = _word_list("""
    get list search find read lookup look check fetch query retriev show describe view status track info
    calc weather count verify validate load web google wiki convert translat summar explain think plan
    grep glob ls cat stat inspect preview estimate recommend availab
""")
"""How names of tools begin that only look."""


@lru_cache(maxsize=2048)
def _words(tool: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.findall(tool[:128]))


_ALL_STEMS = tuple({stem for _, _, stems, _ in _TABLE for stem in _stems(stems)})


def _looks_up(tool: str) -> bool:
    words = _words(tool)
    return bool(words) and words[0].startswith(_LOOKUPS)


def _does_anything(tool: str) -> bool:
    """A tool whose name does not tell what it does, or tells that it does whatever it is told."""
    if _looks_up(tool):
        return False
    words = _words(tool)
    return any(word.startswith(_ANYTHING) for word in words) or not any(
        word.startswith(_ALL_STEMS) for word in words
    )


_ADMITS = re.compile(
    r"\b(?:error|fail(?:ed|s|ure)?|unable|could ?n[o']t|couldn't|cannot|can't|not able|did ?n[o']t"
    r"|however|but|unfortunately|problem|issue"
    r"|not found|sorry|although|leider|fehler|konnte|nicht|aber|allerdings|problem)\b|n't\b",
    re.IGNORECASE,
)
_SUCCEEDED = re.compile(
    r"\bsuccessful(?:ly)?\b|\b(?:all|everything is|everything's|it's|it is|that's) (?:done|set|complete"
    r"|taken care of)\b|^\W{0,4}done\b"
    r"|\b(?:worked|went through|completed|has been (?:completed|done|taken care of|processed))\b"
    r"|\berfolgreich\b|\berledigt\b|\bhat geklappt\b",
    re.IGNORECASE,
)


_ALSO = {
    "meeting": ("event", "appointment"),
    "appointment": ("event", "meeting"),
    "bestellung": ("order",),
    "auftrag": ("order",),
    "termin": ("event", "meeting", "appointment"),
    "zahlung": ("payment",),
    "betrag": ("payment",),
    "buchung": ("booking",),
    "datei": ("file",),
    "konto": ("account",),
    "rechnung": ("invoice",),
    "flug": ("flight",),
    "nachricht": ("message",),
    "mail": ("email",),
    "überweisung": ("transfer",),
    "erstattung": ("refund",),
    "adresse": ("address",),
    "eintrag": ("entry",),
}


class _Run:
    """The calls of a run, to compare statements with."""

    def __init__(self, facts: Sequence[tuple[str, Status]], offered: Collection[str]) -> None:
        self._facts = tuple(facts)
        self._offered = tuple(offered)
        self._looked_up = any(status == "ok" and _looks_up(name) for name, status in facts)

    def examine(self, said: _Statement) -> Claim | None:
        """The claim that a statement is; None when a call bears it out, or it may be a report."""
        verb = said.verb
        tools = tuple(
            name for name in self._offered if verb.fits(name) and not (_looks_up(name) and not verb.tools)
        )
        if any(status != "error" and self._may_have_done(verb, name) for name, status in self._facts):
            return None
        failed = any(status == "error" and verb.fits(name) for name, status in self._facts)
        if not said.sure and not failed and not (tools and self._is_news(said, tools)):
            return None
        return self._claim(
            "contradicts_result" if failed else "unsupported_action", verb.name, tools, said.sentence
        )

    def success_against_the_last_result(self, answer: str) -> Claim | None:
        """An answer that speaks of success alone, after a last call that failed."""
        if not self._facts or self._facts[-1][1] != "error":
            return None
        found = _SUCCEEDED.search(answer)
        if found is None or _ADMITS.search(answer) or _UNREAL.search(_clause(answer, found.start())[-80:]):
            return None
        line = answer[answer.rfind("\n", 0, found.start()) + 1 :].split("\n", 1)[0]
        if line.rstrip().endswith("?"):
            return None
        return self._claim("contradicts_result", "succeeded", (self._facts[-1][0],), line)

    def _is_news(self, said: _Statement, tools: tuple[str, ...]) -> bool:
        """Whether a passive is no report of what a lookup has shown: that is likelier when it is not about
        what these tools are for."""
        if not self._looked_up or said.tense == "now":
            return True
        sentence = said.sentence.lower()
        spoken = {*_words(sentence)}
        spoken.update(*(english for other, english in _ALSO.items() if other in sentence))
        about = {word[:4] for name in tools for word in _words(name) if len(word) > 3}
        return said.tense == "perfect" and any(word[:4] in about for word in spoken)

    @staticmethod
    def _may_have_done(verb: _Verb, tool: str) -> bool:
        if verb.tools:
            return verb.fits(tool)
        return not _looks_up(tool) and (verb.fits(tool) or _does_anything(tool))

    def _claim(
        self,
        kind: Literal["unsupported_action", "contradicts_result"],
        verb: str,
        tools: tuple[str, ...],
        sentence: str,
    ) -> Claim:
        return Claim(kind, verb, tools[:5], sentence.strip()[:_SHOWN].rstrip(), self._facts[-_FACTS:])
