"""A text as numbers for the linear models: hashed n-grams, each at the place where it stands.

Words give n-grams of one to three and pairs with a gap; characters give n-grams of three and five. Every
n-gram belongs to the position where it begins, so that the sum over any window of the text is the difference
of two running sums. Letters are compared without case and accents, runs of white space are one space.
Chinese and Japanese characters are words of their own. Numbers are no words, n-grams with few letters do not
count, and an n-gram that was there a moment ago does not count again: tables, rulers and refrains would
otherwise add up to anything.

The same functions serve training and the gateway; changing one of them means training anew.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gateway.screening.patterns import VERBS
from gateway.values import frozen

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Codes = NDArray[np.uint32]

BITS = 17
"""The size of each of the two tables of weights, words and characters: 2 to the power of it."""
SCALES = (1, 12, 32)
"""Words in a window: each sentence by itself, and neighbours up to so many."""
_MAX_UNIT = 40
MIN_WORDS, MIN_CHARS = 24, 60
"""N-grams; a window with fewer counts as one with so many: one word is little evidence."""

NONE = 1 << BITS
"""The bucket without weight."""
_RECENT_WORDS, _RECENT_CHARS = 64, 400
_OTHER, _WORD, _IDEOGRAPH, _SPACE, _DIGIT = 0, 1, 2, 3, 4
_BMP = 0x10000
# Parts in the structure of a text: a full stop, what may follow it, what ends a sentence by itself, what
# stands beside the quotation marks of JSON, and the letters of written-out breaks.
_STOP, _AFTER, _BREAK, _JSON, _ESCAPED = 1, 2, 4, 8, 16


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]]:
    """For each code of the basic plane: the letter it counts as, its class, and its part in structure."""
    fold = np.arange(_BMP, dtype=np.uint32)
    kind = np.zeros(_BMP, np.uint8)
    for code in range(0x3000):
        char = chr(code)
        if code < 0x530 or 0x1E00 <= code < 0x2000:
            fold[code] = ord(unicodedata.normalize("NFD", char.lower())[0])
        if char.isalnum() or unicodedata.category(char)[0] == "M":
            kind[code] = _WORD
        if char.isspace():
            kind[code] = _SPACE
    fold[ord("0") : ord("9") + 1] = ord("0")
    kind[ord("0") : ord("9") + 1] = _DIGIT
    for first, last in ((0x3040, 0x3100), (0x3400, 0x9FFF), (0xF900, 0xFB00)):
        kind[first:last] = _IDEOGRAPH
    kind[0x3005:0x3008] = _IDEOGRAPH
    for first, last in ((0x3130, 0x3190), (0xA000, 0xD7A4), (0xFB1D, 0xFE00), (0xFE70, 0xFEFD)):
        kind[first:last] = _WORD
    kind[0x3000] = _SPACE
    part = np.zeros(_BMP, np.uint8)
    for bit, chars in (
        (_STOP, ".!?;。！？؟।…"),
        (_AFTER, "\"')*]”’»"),
        (_BREAK, "\n\t|<>"),
        (_JSON, ":,{}[]"),
    ):
        part[[ord(c) for c in chars]] |= bit
    part[[ord(c) for c in "nrt"]] |= _ESCAPED
    return fold, kind, part


_POWERS: NDArray[np.uint64] = np.cumprod(np.full(64, 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SALTS = tuple(
    np.uint64(s) for s in (0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3)
)


def _buckets(hashes: NDArray[np.uint64]) -> Ints:
    mixed = (hashes ^ (hashes >> np.uint64(29))) * _MIX
    return ((mixed ^ (mixed >> np.uint64(32))) * _MIX >> np.uint64(64 - BITS)).astype(np.int64)


@frozen
class Grams:
    """A text's features. `words[k]` and `chars[k]` are tables of buckets, a row for each kind of n-gram."""

    folded: str
    """The text as it is compared: as long as the original, character by character."""
    words: Ints
    """6 by number of words; `NONE` for what does not count."""
    chars: Ints
    """2 by number of characters left when white space is squeezed; the same."""
    shapes: Ints
    """6 by number of words: the same for sequences of classes of words."""
    single: Ints
    """The bucket of each word by itself, also where it was there a moment ago."""
    names: NDArray[np.uint64]
    """A hash of each word by itself, wide enough to look it up in a dictionary."""
    questions: Ints
    """The question marks of each sentence."""
    squeezed: Ints
    """For each character of the text, and for the end: its position in `chars`."""
    units: Ints
    """Where each sentence begins, in characters, and at last the end of the text."""
    unit_words: Ints
    """The same, in words: one more than there are sentences."""


def grams(text: str) -> Grams | None:
    """The features of a normalised text; `None` where there is no word."""
    fold, kinds, parts = _tables()
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")
    low = np.minimum(codes, _BMP - 1)
    kind = np.where(codes < _BMP, kinds[low], np.where(codes >= 0x20000, _IDEOGRAPH, _OTHER))
    folded = np.where(codes < _BMP, fold[low], codes)
    part = parts[low]
    breaks = _escaped_breaks(codes, part)
    folded[breaks], kind[breaks] = 32, _SPACE
    alone = kind == _IDEOGRAPH
    letter = (kind == _WORD) | alone
    inside = letter | (kind == _DIGIT)
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | alone[1:] | alone[:-1]
    begins = _with_letters(begins, inside, letter)
    starts = begins.nonzero()[0]
    if not len(starts):
        return None
    wide = folded.astype(np.uint64)
    space = kind == _SPACE
    kept = ~space
    kept[1:] |= ~space[:-1]
    units = _units(codes, part, space, breaks, starts)
    words, single, names, tails = _word_grams(wide, inside, begins, starts, units)
    return Grams(
        folded=folded.astype("<u4").tobytes().decode("utf-32-le"),
        words=words,
        single=single,
        names=names,
        shapes=_shape_grams(single, tails, units),
        questions=np.add.reduceat(((codes == 63) | (codes == 0xFF1F)).astype(np.int64), starts[units]),
        chars=_char_grams(np.where(space, np.uint64(32), wide)[kept], letter[kept]),
        squeezed=_summed(kept),
        units=_closed(starts[units], len(text)),
        unit_words=_closed(units, len(starts)),
    )


def _closed(places: Ints, end: int) -> Ints:
    """With the end behind them. `np.append` costs five times as much, and texts are short."""
    result = np.empty(len(places) + 1, np.int64)
    result[:-1] = places
    result[-1] = end
    return result


def _summed(counted: NDArray[np.bool_]) -> Ints:
    """How many there are before each place, and in all."""
    result = np.zeros(len(counted) + 1, np.int64)
    counted.cumsum(out=result[1:])
    return result


def _escaped_breaks(codes: Codes, part: NDArray[np.uint8]) -> NDArray[np.bool_]:
    r"""Both characters of a written-out `\n`, `\r` or `\t`, as JSON inside JSON has them."""
    found = np.zeros(len(codes), np.bool_)
    second = (codes[:-1] == 92) & ((part[1:] & _ESCAPED) > 0)
    found[:-1] |= second
    found[1:] |= second
    return found


def _with_letters(
    begins: NDArray[np.bool_], inside: NDArray[np.bool_], letter: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The beginnings of words that are not just numbers."""
    starts = begins.nonzero()[0]
    if not len(starts):
        return begins
    real = np.add.reduceat((letter & inside).astype(np.int64), starts) > 0
    kept = np.zeros_like(begins)
    kept[starts[real]] = True
    return kept


def _fresh(buckets: Ints, recent: int) -> Ints:
    """The buckets, without those that occurred so shortly before."""
    # Sixteen bits sort in linear time; buckets that differ in the last one alone are rare.
    orders = (buckets >> (BITS - 16)).astype(np.uint16).argsort(axis=1, kind="stable")
    for row, order in zip(buckets, orders, strict=True):
        ordered = row[order]
        again = (ordered[1:] == ordered[:-1]) & (order[1:] - order[:-1] < recent)
        row[order[1:][again]] = NONE
    return buckets


def _following(one: NDArray[np.uint64], count: int) -> list[NDArray[np.uint64]]:
    """The next of each, the one after it, and so on; 0 where there is none."""
    n = len(one)
    after = np.zeros(n + count, np.uint64)
    after[: n - 1] = one[1:]
    return [after[k : k + n] for k in range(count)]


def _bucketed(*hashes: NDArray[np.uint64]) -> Ints:
    """The buckets of several kinds, a row each."""
    table = np.empty((len(hashes), len(hashes[0])), np.uint64)
    for row, each in zip(table, hashes, strict=True):
        row[:] = each
    return _buckets(table)


def _word_grams(
    codes: NDArray[np.uint64], inside: NDArray[np.bool_], begins: NDArray[np.bool_], starts: Ints, units: Ints
) -> tuple[Ints, Ints, NDArray[np.uint64], NDArray[np.uint64]]:
    begun = begins.cumsum()
    place = np.arange(len(codes)) - starts[np.maximum(begun - 1, 0)]
    # A number before the first word belongs to no word; one after a word would belong to that.
    inside = inside & (begun > 0) & _joined(inside, place)
    powers = _POWERS[np.minimum(np.maximum(place, 0), len(_POWERS) - 1)]
    one: NDArray[np.uint64] = np.add.reduceat(np.where(inside, codes * powers, np.uint64(0)), starts)
    next_, third = _following(one, 2)
    a, b, c, d = _SALTS
    buckets = np.full((6, len(one)), NONE)
    buckets[:4] = _bucketed(
        one * a, one * b + next_ * c, one * c + next_ * d + third * a, one * d + third * b
    )
    single = buckets[0].copy()
    # How a sentence begins says whether it tells or orders.
    first, second = one[units], next_[units]
    buckets[4:, units] = _bucketed(first * d + a, first * a + second * d + b)
    _fresh(buckets[:4], _RECENT_WORDS)
    last = starts + np.add.reduceat(inside.astype(np.int64), starts) - 1
    return buckets, single, one, codes[last] * a + codes[np.maximum(last - 1, starts)] * b


def _shape_grams(single: Ints, tails: NDArray[np.uint64], units: Ints) -> Ints:
    """Sequences of two to four classes of words, with a gap, and those that sentences begin with.

    A word without a class counts as its last two letters: so much of it says what part of speech it is.
    """
    known = _shape_classes()[single]
    one = np.where(known > 0, known, tails)
    next_, third, fourth = _following(one, 3)
    a, b, c, d = _SALTS
    two = one * b + next_ * c + a
    three = two * d + third * a
    four = three * c + fourth * b
    buckets = np.full((6, len(one)), NONE)
    buckets[:4] = _bucketed(two, three, four, one * c + third * b + d)
    buckets[4:, units] = _bucketed(three[units] * b + c, four[units] * a + d)
    return _fresh(buckets, _RECENT_WORDS)


def _joined(inside: NDArray[np.bool_], place: Ints) -> NDArray[np.bool_]:
    """Characters that no gap separates from the beginning of their word."""
    gaps = (~inside).cumsum()
    at = np.arange(len(inside)) - place
    result: NDArray[np.bool_] = gaps == gaps[np.maximum(at, 0)]
    return result


def _char_grams(codes: NDArray[np.uint64], letter: NDArray[np.bool_]) -> Ints:
    n = len(codes)
    padded = np.full(n + 4, 32, np.uint64)
    padded[:n] = codes
    a, b, c, d = _SALTS
    three = padded[:n] * a + padded[1 : n + 1] * b + padded[2 : n + 2] * c
    five = three * d + padded[3 : n + 3] * b + padded[4 : n + 4] * c
    found = _bucketed(three, five)
    letters = np.zeros(n + 5, np.int64)
    letter.cumsum(out=letters[1 : n + 1])
    letters[n + 1 :] = letters[n]
    found[0, letters[3 : n + 3] - letters[:n] < 2] = NONE
    found[1, letters[5 : n + 5] - letters[:n] < 3] = NONE
    return _fresh(found, _RECENT_CHARS)


def _units(
    codes: Codes, part: NDArray[np.uint8], space: NDArray[np.bool_], breaks: NDArray[np.bool_], starts: Ints
) -> Ints:
    """The words with which sentences begin: after a full stop, a line end, a tag, a JSON string or a cell."""
    before, after = np.empty_like(part), np.empty_like(part)
    before[0], before[1:] = _BREAK, part[:-1]
    after[:-1], after[-1] = part[1:], _AFTER
    ended = (after & _AFTER > 0) | (codes > 0x3000)
    ended[:-1] |= space[1:]
    stop = (part & _STOP > 0) & ended | (part & _BREAK > 0) | breaks
    stop |= ((codes == 34) | (codes == 39)) & ((before | after) & _JSON > 0)
    here = _changes(stop.cumsum()[starts])
    ends = _closed(here, len(starts))
    lengths = ends[1:] - ends[:-1]
    if int(lengths.max()) > _MAX_UNIT:
        place = np.arange(len(starts)) - np.repeat(here, lengths)
        here = np.flatnonzero(place % _MAX_UNIT == 0)
    return here


def _changes(values: Ints) -> Ints:
    """Where another value than the one before begins; the first place too."""
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    return first.nonzero()[0]


@frozen
class Windows:
    """Ranges of sentences: `first[k]` to before `last[k]`."""

    first: Ints
    last: Ints


def windows(g: Grams) -> Windows:
    """Every sentence, and from every sentence on as many as fit into each scale."""
    begin = g.unit_words[:-1]
    units = np.arange(len(begin))
    ends = units + 1
    firsts, lasts = [units], [ends]
    for scale in SCALES[1:]:
        wider = np.maximum(g.unit_words.searchsorted(begin + scale, side="right") - 1, ends)
        longer = wider > ends
        firsts.append(units[longer])
        lasts.append(wider[longer])
        ends = wider
    return Windows(np.concatenate(firsts), np.concatenate(lasts))


def running(table: Ints, weights: Floats) -> tuple[Floats, Ints]:
    """Running sums of weights and of n-grams that count; weights have one place more, for `NONE`."""
    summed, counted = np.zeros(table.shape[1] + 1), np.zeros(table.shape[1] + 1, np.int64)
    weights[table].sum(axis=0).cumsum(out=summed[1:])
    (table != NONE).sum(axis=0).cumsum(out=counted[1:])
    return summed, counted


def sums(
    g: Grams, w: Windows, word_weights: Floats, char_weights: Floats, shape_weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """The linear score of each window by words, by characters and by shapes, without patterns."""
    words, word_counts = running(g.words, word_weights)
    shapes, shape_counts = running(g.shapes, shape_weights)
    chars, char_counts = running(g.chars, char_weights)
    at = g.squeezed[g.units]
    a, b, c, d = g.unit_words[w.first], g.unit_words[w.last], at[w.first], at[w.last]
    by_word = (words[b] - words[a]) / divisor(word_counts[b] - word_counts[a], MIN_WORDS)
    by_char = (chars[d] - chars[c]) / divisor(char_counts[d] - char_counts[c], MIN_CHARS)
    by_shape = (shapes[b] - shapes[a]) / divisor(shape_counts[b] - shape_counts[a], MIN_WORDS)
    return by_word, by_char, by_shape


def divisor(count: Ints, least: int) -> Floats:
    """By what a window's sum is divided: the length of the vector of its n-grams."""
    return np.sqrt(np.maximum(count, least))


# --- a window and the text around it


def _spelled(words: str) -> str:
    """The words as texts are cut: `analy[sz]e` in both spellings, of `e-mail` what follows the hyphen."""
    listed = []
    for word in words.split():
        before, _, rest = word.rpartition("-")[2].partition("[")
        letters, _, after = rest.partition("]")
        listed += [before + letter + after for letter in letters] or [before]
    return " ".join(dict.fromkeys(listed))


_LEXICON = (
    # You, your.
    "you your yours yourself u du dein deine deinen deinem dir dich ihr euch ihre ihren tu te ton ta tes "
    "toi vous votre vos usted ustedes su sus ti tuyo contigo lei suo sua tuo tua voce seu sua jij je jouw "
    "uw ty twoj twoja twoje ciebie ci ty tebe tvoy sen siz senin sizin вы вас ваш ваша ваше ты тебя твои",
    # I, my, we.
    "i me my mine myself we us our ours ich mir mich mein meine meinen wir uns unser je moi mon ma "
    "mes nous notre yo mi mis nosotros nuestro io mio mia eu meu minha ik mij mijn wij ons ja moj moja "
    "moje ben benim я мне мои мы нам",
    # Please.
    "please kindly pls plz bitte svp veuillez favor porfavor gentilmente graag alsjeblieft prosze lutfen "
    "пожалуиста por",
    # Verbs that begin an order.
    _spelled(VERBS),
    # Words that begin a question.
    "what how why when where who whom whose which can could would will should is are do does did may was "
    "wie was warum wer wo wann kannst konnen quel quelle comment pourquoi que como porque quien cual come "
    "perche",
    # What reads the text.
    "ai assistant assistants model models agent agents bot bots llm llms chatbot chatgpt gpt claude "
    "gemini copilot llama language automated system systems human humans user users reader admin "
    "administrator developer",
    # Duty and hurry.
    "must should shall need needs required ensure sure important urgent immediately now first before then "
    "instead only strictly mandatory necessary necessary always never don dont not without",
    # What is written in answer, and what is written to be obeyed.
    "answer answers response responses reply replies output outputs summary instruction instructions task "
    "tasks prompt prompts request requests question questions directive directives following previous "
    "above below prior tool tools function command commands message solution implementation",
    # Telling, not asking.
    "he she they him her them his their it its was were had has been said did who became according born "
    "since",
    # Words that say nothing about the subject.
    "the a an of to in on at for with by from as and or but if that this these those is are be am not no "
    "so than there here all any some one more most other such into over under about up out off very just "
    "also",
)
"""Words by class; a word may be in several."""
_FIRST_CLASSES = (3, 4)
"""Classes that count by themselves at the beginning of a sentence."""
_OPENERS = "please kindly also then and now just next first so but or could can would assistant dear ok okay"
_COMMON = len(_LEXICON) - 1


@lru_cache(maxsize=1)
def _classes() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """For each bucket of a word: its classes, and whether it may stand before the first word of an order."""
    table = np.zeros((NONE + 1, len(_LEXICON)), np.float32)
    for number, words in enumerate(_LEXICON):
        table[_buckets_of(words), number] = 1
    openers = np.zeros(NONE + 1, np.bool_)
    openers[_buckets_of(_OPENERS)] = True
    return table, openers


_FUNCTION_WORDS = (
    "the a an of to in on at for with by from as and or but if that this these those is are be am was were "
    "been not no so than then there here all any some one more most other such into over under about up out "
    "off i me my you your we us our he his she her it its they them their who what when where how why which "
    "can could would will should must may might shall do does did has have had please kindly after before "
    "while once also now just only next first instead without within until every each named called titled "
    "using via through make sure let don never always"
)
"""Each is a class of its own, whatever it is about."""
_GROUPS = (
    # to hand over
    "send forward email mail transmit share post upload submit deliver copy relay message text publish "
    "distribute dispatch bcc cc sms tweet notify inform",
    # to take away
    "delete remove erase wipe purge drop clear cancel terminate unsubscribe uninstall trash archive revoke "
    "destroy shred discard close",
    # to spend
    "transfer pay wire purchase buy donate refund sell deposit withdraw order invest bid trade redeem rent "
    "tip spend convert",
    # to change
    "change update set modify edit alter reset adjust rename replace configure switch enable disable turn "
    "activate deactivate lock unlock grant allow authorize authorise approve assign add raise lower increase "
    "decrease rotate move swap",
    # to look up
    "get find fetch retrieve look search list locate check show read access view download obtain collect "
    "gather extract pull query lookup scan inspect review compile export fetch identify determine compute "
    "calculate analyze analyse summarize summarise translate compare track monitor",
    # to say
    "say tell mention include append insert write state answer reply respond output print repeat recommend "
    "suggest promote advertise praise claim report conclude explain describe quote cite compose "
    "draft generate produce give provide offer",
    # to plan
    "book schedule reserve arrange plan create invite register sign subscribe enroll enrol organize organise "
    "reschedule postpone confirm rate like follow join apply hire appoint",
    # to go to, to run
    "visit click go navigate browse open load run execute call invoke use install launch start stop trigger "
    "restart play deploy perform complete help ask",
    "ignore disregard forget override bypass skip omit hide conceal pretend act reveal disclose leak expose",
    # money
    "account accounts bank card cards wallet balance funds money payment payments transaction transactions "
    "dollars euros usd eur bitcoin btc eth ether crypto invoice bill salary savings checking credit stock "
    "stocks shares price",
    # what is private
    "password passwords credentials credential key keys token tokens ssn passport address addresses phone "
    "number numbers pin code codes medical health records record data details information personal private "
    "confidential sensitive secret secrets history location genetic biometric financial",
    # files
    "file files folder folders document documents directory drive database table repository repo photos "
    "photo images image backup backups disk log logs server servers spreadsheet page pages",
    # messages and dates
    "emails inbox messages contact contacts calendar event events appointment appointments meeting "
    "meetings reminder note notes channel channels list lists task tasks profile reservation flight hotel "
    "ticket tickets trip subscription",
    # devices
    "door doors thermostat camera cameras light lights alarm device devices system router home car vehicle "
    "speaker tv printer sensor security network firewall",
    "assistant ai model agent bot chatbot llm gpt claude chatgpt",
    "user users customer customers reader client owner human",
    "answer answers response responses summary reply output result results conclusion review",
    "friend wife husband boss colleague mother father brother sister manager doctor dr mr mrs ms team",
    "today tomorrow tonight monday tuesday wednesday thursday friday saturday sunday january february march "
    "april june july august september october november december week month year day morning evening am pm",
    "instruction instructions rule rules prompt prompts guideline guidelines directive directives",
    "http https www com org net io html url link links website site gmail",
)
"""Words that stand for each other in orders; of a word in several, the first group counts."""


@lru_cache(maxsize=1)
def _shape_classes() -> NDArray[np.uint64]:
    """For each bucket of a word its class, from 1: function words are each its own; 0 for the rest."""
    table = np.zeros(NONE + 1, np.uint64)
    for number, words in enumerate((*reversed(_GROUPS), *_FUNCTION_WORDS.split()), 1):
        table[_buckets_of(words)] = number
    return table


def _buckets_of(words: str) -> Ints:
    """The buckets of words of Latin or Cyrillic letters without accents."""
    return _buckets(hashes_of(words.split()) * _SALTS[0])


def hashes_of(listed: Sequence[str]) -> NDArray[np.uint64]:
    """The hashes of words as `Grams.names` has them; words of letters without case, accents and gaps."""
    codes = np.frombuffer(" ".join(listed).encode("utf-32-le"), "<u4").astype(np.uint64)
    inside = codes != 32
    begins = inside & np.append(True, ~inside[:-1])
    starts = np.flatnonzero(begins)
    place = np.arange(len(codes)) - starts[np.cumsum(begins) - 1]
    parts = np.where(inside, codes * _POWERS[place], np.uint64(0))
    hashes: NDArray[np.uint64] = np.add.reduceat(parts, starts)
    return hashes


_FAR = 8.0
"""Linear scores beyond it say no more."""
_COUNTED = 1 + len(_LEXICON) + len(_FIRST_CLASSES) + 2
"""Columns of `_sentences`, without the patterns."""
_RATES = slice(0, _COUNTED - 2)
_BY_WORD = np.array([False, *[True] * len(_LEXICON), *[False] * len(_FIRST_CLASSES)])
"""Which of these rates are of words; question marks and first words are of sentences."""
_FIRST_COLUMNS = np.array(_FIRST_CLASSES)


def _sentences(g: Grams) -> Floats:
    """Counts for each sentence: question marks, words by class, first words by class, words of the subject,
    and how many of those occur in another sentence too."""
    table, openers = _classes()
    count = len(g.units) - 1
    word_classes = table[g.single]
    first_words = g.unit_words[:-1]
    first = word_classes[first_words]
    second_at = np.minimum(first_words + 1, len(g.single) - 1)
    opened = openers[g.single[first_words]] & (g.unit_words[1:] - first_words > 1)
    first = np.maximum(first, np.where(opened[:, None], word_classes[second_at], 0))
    rows = np.empty((count, _COUNTED))
    rows[:, 0] = g.questions
    rows[:, 1 : 1 + len(_LEXICON)] = np.add.reduceat(word_classes, first_words, axis=0)
    rows[:, 1 + len(_LEXICON) : -2] = first[:, _FIRST_COLUMNS]
    subject = word_classes[:, _COMMON] == 0
    unit_of = np.arange(count).repeat(g.unit_words[1:] - first_words)
    order = g.single.argsort(kind="stable")
    ordered, places = g.single[order], unit_of[order]
    begin = _changes(ordered)
    end = _closed(begin, len(order))[1:]
    again = (places[begin] != places[end - 1]).repeat(end - begin)
    elsewhere = np.empty(len(order))
    elsewhere[order] = again
    rows[:, -2] = np.add.reduceat(subject.astype(np.float64), first_words)
    rows[:, -1] = np.add.reduceat(subject * elsewhere, first_words)
    return rows


def describe(g: Grams, w: Windows, chosen: Ints, parts: Floats, present: Floats) -> Floats:
    """What the second stage sees of the windows `chosen`: a row for each.

    `parts` are the linear scores of all windows (columns: words, characters, shapes, patterns, sum; every
    sentence by itself comes first), `present` says for each sentence which patterns it holds.
    """
    units = len(g.units) - 1
    single = parts[:units, -1]
    rows = np.concatenate((_sentences(g), present, single[:, None], (single > -1)[:, None]), axis=1)
    running_rows = np.zeros((units + 1, rows.shape[1]))
    rows.cumsum(axis=0, out=running_rows[1:])
    first, last = w.first[chosen], w.last[chosen]
    inside = running_rows[last] - running_rows[first]
    outside = running_rows[-1] - inside
    words = (g.unit_words[last] - g.unit_words[first]).astype(np.float64)
    words_out = len(g.single) - words
    in_units = (last - first).astype(np.float64)
    out_units = units - in_units
    floor = np.array([-_FAR])
    before = np.concatenate((floor, np.maximum.accumulate(single)))[first]
    after = np.concatenate((np.maximum.accumulate(single[::-1])[::-1], floor))[last]
    inside_rates = inside[:, _RATES] / _scales(words, in_units)
    outside_rates = outside[:, _RATES] / _scales(words_out, out_units)
    held = np.minimum(inside[:, _COUNTED : _COUNTED + present.shape[1]], 1)
    per_unit = np.maximum(out_units, 1)
    columns = (
        np.minimum(np.maximum(parts[chosen], -_FAR), _FAR),
        np.log1p(words)[:, None],
        (first == 0)[:, None],
        (last == units)[:, None],
        np.minimum(np.maximum(before, after), _FAR)[:, None],
        (outside[:, -2] / per_unit)[:, None],
        (outside[:, -1] / per_unit)[:, None],
        (inside[:, _COUNTED - 1] / np.maximum(inside[:, _COUNTED - 2], 1))[:, None],
        inside_rates,
        inside_rates - outside_rates,
        held,
    )
    return np.concatenate(columns, axis=1)


def _scales(words: Floats, units: Floats) -> Floats:
    """By what counts are divided: question marks and first words by sentences, words by words."""
    return np.where(_BY_WORD, np.maximum(words, 1)[:, None], np.maximum(units, 1)[:, None])
