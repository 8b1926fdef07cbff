"""Digests of tool calls, results and texts that see through what changes from one attempt to the next.

A stuck agent rarely sends the same bytes twice: there is a nonce, a clock, another order of keys. And an
agent at work often sends almost the same: the next page, the next order. So a value is seen through only
where nothing suggests that it names a thing:

- In arguments: keys such as `nonce` and `request_id` are dropped; clocks are masked; an opaque token is
  masked when it is the whole value under a key that is not a name (`order_id`, `path`, `since`, `cursor`).
- In results: the same keys, durations and counters of attempts are dropped, clocks and every opaque token
  masked. Schedules are kept: a time on the full minute is no clock.

Everything is computed once for each content (`Fingerprints`), in time linear in its length and bounded for
huge values: beyond the bounds a value stands for itself, which can only hide a loop, never invent one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from sys import intern
from typing import Any, Generic, TypeVar
from zlib import crc32

import orjson
import re2

from gateway.domain import Item, ToolCall
from gateway.rules.tool_results import ResultHealth, read_result
from gateway.values import frozen

SKETCH_BITS = 8192
"""Size of the set of units already seen, in bits; see `trace.Seen`."""
SHORT = 120
"""Characters: a shorter result says little by itself; its news is that it belongs to this call."""
_MASKED_CHARS = 32_768
_TAIL_CHARS = 8_192
_MAX_JSON = 262_144
_MAX_NODES = 4_096
_MAX_DEPTH = 24
_MAX_UNITS = 128
_MAX_TOKENS = 128
_MAX_LEAVES = 8
_MAX_KEY = 64
"""Characters of a key that are looked at: what is remembered of keys has to be bounded too."""
MAX_NAME = 255
"""Characters of a tool's name that are kept; its digests are those of the whole name."""
_FEW_OPAQUE = 2
_MIN_TOTAL_BITS = 8
_TOKEN_BITS = 3
_MASK = "~"
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


def words_of(text: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(text.split())


# --- which keys are volatile, and which name things

_VOLATILE = words_of(
    """_ nonce timestamp ts tstamp requestid xrequestid reqid traceid traceparent spanid correlationid
    xcorrelationid idempotencykey idempotencytoken clienttoken clientmutationid clientrequestid
    callid toolcallid
    invocationid attempt attempts attemptnumber attemptno attemptcount counter callcount callnumber
    requestnumber requestno requestcount retry retries retrycount retryattempt try tries cachebuster
    cachebust bust cb rand random salt jitter now currenttime clock senttime sentat requesttime
    requestedat calledat"""
)
"""Keys of arguments and results, lower case without separators."""
_ALONE = words_of("timestamp ts tstamp attempt counter random")
"""Kept where they are the only argument: then they are what is asked for."""
_COMPANY = words_of("""uuid guid explanation thought thoughts reasoning rationale justification""")
"""Dropped from arguments as well, unless they are all there is: the commentary that a model gives with a
call, and ids without a name."""
_RESULT_VOLATILE = _VOLATILE | words_of(
    """elapsed elapsedms elapseds elapsedseconds elapsedtime duration durationms durations durationseconds
    took tookms latency latencyms responsetime responsetimems executiontime executiontimems processingtime
    processingtimems runtime runtimems querytime querytimems walltime servertime generatedat checkedat
    fetchedat retrievedat queriedat polledat lastchecked lastpolled cachedat servedat"""
)
_NAMING = words_of(
    """id ids key sha sha1 sha256 commit hash digest checksum ref revision rev order user account customer
    client ticket item file filename path paths url uri link name title image address wallet tx transaction
    message thread event job task run build record document doc product sku invoice payment version cursor
    pagetoken nextpagetoken token page offset limit index start end from to since until begin after before
    between range window day week month year startdate enddate starttime endtime fromdate todate at date
    datetime when due dueat deadline schedule scheduledat sendat remindat selector xpath ref element node
    target uid"""
)
_PAGING = words_of(
    """page pageno pagenumber offset skip limit count size pagesize perpage topk maxresults numresults
    start first cursor nextcursor pagetoken nextpagetoken continuation scrollid"""
)
"""Another page is another call, but names no other thing: pages that repeat are no progress."""
_NAMING_ENDS = ("id", "ids", "key", "sha", "hash", "path", "url", "uri", "name", "token", "cursor")


@lru_cache(maxsize=4096)
def _without_separators(key: str) -> str:
    return key.replace("_", "").replace("-", "").replace(".", "").lower() or "_"


def _plain_key(key: str) -> str:
    return _without_separators(key[:_MAX_KEY])


def _names_a_thing(key: str) -> bool:
    plain = _plain_key(key)
    return plain in _NAMING or plain.endswith(_NAMING_ENDS)


# --- which values are volatile

_CLOCK = re.compile(
    # A digit comes first and the look behind it second: so the search can skip to digits.
    r"""[0-9](?<![0-9A-Za-z][0-9])(?:
      [0-9]{3}-[0-9]{2}-[0-9]{2}[T\ _][0-9]{2}:[0-9]{2}:
        (?:(?!00)[0-9]{2}(?:[.,][0-9]{1,9}+)?+|00[.,][0-9]{1,9}+)(?:Z|[+-][0-9]{2}:?[0-9]{2}|\ ?UTC|\ ?GMT)?+
    | [0-9]:[0-9]{2}:(?!00)[0-9]{2}(?:[.,][0-9]{1,9}+)?+(?:Z|\ ?UTC|\ ?GMT)?+
    | (?P<epoch>(?:(?<=1)[2-9]|(?<=2)0)[0-9]{8})(?P<rest>[0-9]{3}|\.[0-9]{1,9}+)?+
    )(?![0-9A-Za-z])""",
    re.VERBOSE,
)
_OPAQUE = re.compile(
    r"""(?<![0-9A-Za-z])(?:
      [0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?![0-9A-Za-z])
    | 0x[0-9a-fA-F]{6,16}+(?![0-9A-Za-z])
    | (?P<run>[0-9A-Za-z]{16,}+(?:[+/_-][0-9A-Za-z+/_-]*+)?+=*+)
    )""",
    re.VERBOSE,
)
_LABELLED = re.compile(
    r"""(?<![0-9A-Za-z])(?P<label>(?i:x-request-id|request_?id|trace_?id|correlation_?id|idempotency-key|nonce|
      timestamp|cache_?bust(?:er)?|ts|cb|rand|_)["']?\ ?[=:]\ ?["']?)[0-9A-Za-z._:+/=-]{1,128}+""",
    re.VERBOSE,
)
_EFFORT = re.compile(
    r"""(?<![0-9A-Za-z])(?i:
      (?:took|in|after|for|elapsed|duration|run\ ?time|wall\ time|completed\ in|finished\ in|time|waited)
        [:=\ ]{1,3}\d{1,9}(?:\.\d{1,9}+)?+\ ?
        (?:milliseconds?|seconds?|minutes?|msecs?|secs?|mins?|ms|us|µs|ns|s|m)
    | (?:attempt|retry|try)[:=\ ]{1,2}\#?\d{1,6}+(?:\ ?(?:/|of)\ ?\d{1,6}+)?+
    )(?![0-9A-Za-z])""",
    re.VERBOSE,
)
_WHOLE_UUID = re.compile(r"\{?[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?")
_WHOLE_TOKEN = re.compile(r"[0-9A-Za-z+/_-]{16,512}+=*+")
_CLOCKS, _EFFORTS, _TOKENS, _LABELS = range(4)
_LOOKS_LIKE = (
    r"[0-9]:[0-9]{2}:[0-9]{2}|(?:1[2-9]|20)[0-9]{8}",
    r"(?i)(?:took|[iİı]n|after|for|elapsed|durat[iİı]on|t[iİı]me|wa[iİı]ted)"
    r"[:= ]{1,3}\p{Nd}[\p{Nd}.]{0,18} ?[msunµ]|(?:attempt|retry|try)[:= ]{1,2}#?\p{Nd}",
    r"[0-9A-Za-z]{16}|[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}|0x[0-9a-fA-F]{6}",
    r"(?i)(?:x-request-[iİı]d|request_?[iİı]d|trace_?[iİı]d|correlat[iİı]on_?[iİı]d|[iİı]dempotency-key|nonce"
    r"|t[iİı]mestamp|cache_?bust(?:er)?|ts|cb|rand|_)[\"']? ?[=:]",
)
"""What each of the patterns above needs a text to hold. Most texts hold none of it, and one automaton tells
so for all four in a twentieth of their time. To Python's `re` a dotted or dotless i is an i, not to RE2."""


def _automaton(patterns: Iterable[str]) -> re2.Set:
    found = re2.Set.SearchSet()
    for pattern in patterns:
        found.Add(pattern)
    found.Compile()
    return found


_LOOKS = _automaton(_LOOKS_LIKE)


def _looks(text: str) -> Collection[int]:
    """Which kinds of volatile values a text may hold; those it does not have need not be looked for."""
    found: Collection[int] | None = _LOOKS.Match(_utf8(text))
    return found or ()


def _mask_clock(match: re.Match[str]) -> str:
    if match["epoch"] is not None and int(match[0][:10]) % 60 == 0 and not (match["rest"] or "").strip("0."):
        return match[0]
    return _MASK


def _mask_opaque(match: re.Match[str]) -> str:
    run = match["run"]
    return _MASK if run is None or _is_random(run) else run


def _is_random(token: str) -> bool:
    """Whether a token of at least 16 characters looks drawn rather than written: hexadecimal with digits
    and letters, or changing between digits, small and capital letters far more often than words do."""
    body = token.rstrip("=")[:128]
    letters = digits = changes = 0
    last = ""
    for c in body:
        kind = "d" if "0" <= c <= "9" else "l" if "a" <= c <= "z" else "u" if "A" <= c <= "Z" else ""
        if kind == "d":
            digits += 1
        elif kind:
            letters += 1
        if kind and last and kind != last:
            changes += 1
        last = kind
    if not digits or not letters:
        return changes >= 0.4 * len(body)
    return changes >= 0.28 * len(body) or not body.lower().strip("0123456789abcdef")


def _without_labels_and_clocks(text: str, looks: Collection[int]) -> str:
    """The text with what is labelled as volatile (`nonce=…`, `X-Request-Id: …`), clock times, durations and
    counts of attempts masked; times on the full minute stay."""
    if _LABELS in looks:
        text = _LABELLED.sub(rf"\g<label>{_MASK}", text)
    if _CLOCKS in looks:
        text = _CLOCK.sub(_mask_clock, text)
    if _EFFORTS in looks:
        text = _EFFORT.sub(_MASK, text)
    return text


def _without_tokens(text: str, looks: Collection[int]) -> str:
    return _OPAQUE.sub(_mask_opaque, text) if _TOKENS in looks else text


def see_through(text: str) -> str:
    """The text with everything volatile masked: clocks, efforts, opaque tokens, and what is labelled so."""
    looks = _looks(text)
    return _without_tokens(_without_labels_and_clocks(text, looks), looks) if looks else text


def digest(*parts: bytes) -> bytes:
    """Eight bytes for a sequence of byte strings."""
    h = blake2b(digest_size=8)
    for part in parts:
        h.update(b"%d:" % len(part))
        h.update(part)
    return h.digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _loads(text: str) -> Any:
    """The JSON object or array that a text is, else None."""
    if text[:64].lstrip()[:1] not in ("{", "[") or len(text) > _MAX_JSON:
        return None
    try:
        return orjson.loads(_utf8(text))
    except orjson.JSONDecodeError:
        return None


def _dumps(value: Any, text: str) -> bytes:
    """Canonical JSON; the text itself where the value is nested more deeply than can be written."""
    try:
        return orjson.dumps(value, option=_SORTED)
    except TypeError:
        return text.encode()


# --- arguments


class _Arguments:
    """One walk over parsed arguments: what stays of them, and the words and names they consist of."""

    def __init__(self) -> None:
        self.nodes = 0
        self.names: list[str] = []
        self.words: list[str] = []
        self.pages: list[str] = []
        self.leaves: list[list[str]] = []
        """Words of each value."""

    def read(self, value: Any, key: str = "", depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return value
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list):
            return [self.read(entry, key, depth + 1) for entry in value]
        if isinstance(value, str):
            return self._text(value, key, depth)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._number(value, key)
        return value

    def _object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        kept = {k: v for k, v in value.items() if _plain_key(k) not in _VOLATILE}
        if not kept and not depth and len(value) == 1 and _plain_key(next(iter(value))) in _ALONE:
            kept = value
        told = {k: v for k, v in kept.items() if _plain_key(k) not in _COMPANY}
        return {k: self.read(v, k, depth + 1) for k, v in (told or kept).items()}

    def _number(self, value: float, key: str) -> Any:
        shown = repr(value)
        if not _names_a_thing(key) and _CLOCK.sub(_mask_clock, shown) == _MASK:
            return _MASK
        (self.pages if _plain_key(key) in _PAGING else self.names).append(shown)
        return value

    def _text(self, text: str, key: str, depth: int) -> Any:
        if (parsed := _loads(text)) is not None:
            return self.read(parsed, key, depth + 1)
        named = _names_a_thing(key)
        if not named and (_WHOLE_UUID.fullmatch(text) or (_WHOLE_TOKEN.fullmatch(text) and _is_random(text))):
            return _MASK
        head = text[:_MASKED_CHARS]
        if not named:
            head = _without_labels_and_clocks(head, _looks(head))
        if _plain_key(key) in _PAGING and "-" not in text[:64]:
            self.pages.append(text[:64])
        else:
            words: list[str] = []
            split_tokens(head, self.names, words)
            self.words += words[:_MAX_TOKENS]
            self.leaves.append(words)
        return " ".join((head + text[_MASKED_CHARS:]).split())


_TOKEN = re.compile(r"[^\W_]+(?:[.@:/\\_'’-]+[^\W_]+)*+")
_FIRST_IDEOGRAPH = "\u2e80"
_STOP = words_of(
    """a an the of in on for to and or is are was be what how which who please with by at from about me my i
    you do does it its this that as can could would should our your we us der die das und ist ein eine für
    le la les de des du et un une el los las y en por para con"""
)


def split_tokens(text: str, names: list[str], words: list[str]) -> None:
    """Add a text's tokens: `names` are those with a digit or the form of an address, path or identifier;
    `words` are the others without the commonest, so that a paraphrase has nearly the same."""
    if len(names) + len(words) >= 2 * _MAX_TOKENS:
        return
    for token in _TOKEN.findall(text[: 64 * _MAX_TOKENS]):
        if not token.isascii():
            token = unicodedata.normalize("NFKC", token)
            if len(token) > 2 and token[0] >= _FIRST_IDEOGRAPH and token.isalpha():
                # No spaces between words, so pairs of characters stand for them.
                words.extend(token[i : i + 2] for i in range(len(token) - 1))
                continue
        low = token.lower()
        if token.isalpha():
            if low not in _STOP:
                words.append(low[:-1] if len(low) > 3 and low[-1] == "s" else low)
        elif any(c in "0123456789@/\\_.:" for c in token):
            names.append(low)
        else:
            words.append(low)


_LANES = 16
_SPREAD = [sum(((byte >> bit) & 1) << (_LANES * bit) for bit in range(8)) for byte in range(256)]
"""A byte's bits, each in a lane of its own, so that one addition counts all of them."""


def near_digest(names: Iterable[str], words: list[str], pages: Iterable[str] = ()) -> bytes:
    """Two bytes for the names, two for the bag of words and pages, and a simhash of 32 bits of the words."""
    bag = sorted(set(words))[:_MAX_TOKENS]
    lanes = 0
    for word in bag:
        h = blake2b(_utf8(word), digest_size=4).digest()
        lanes += (
            _SPREAD[h[0]] | _SPREAD[h[1]] << 128 | _SPREAD[h[2]] << 256 | _SPREAD[h[3]] << 384
        )  # fmt: skip
    half = len(bag) // 2
    sim = 0
    for bit in range(32):
        if (lanes >> (_LANES * bit)) & 0xFFFF > half:
            sim |= 1 << bit
    named = blake2b(_utf8("\0".join(sorted(set(names))[:_MAX_TOKENS])), digest_size=2).digest()
    bagged = blake2b(_utf8("\0".join([*bag, "", *sorted(pages)[:_MAX_TOKENS]])), digest_size=2).digest()
    return named + bagged + sim.to_bytes(4, "little")


def same_bag(a: bytes, b: bytes) -> bool:
    """Both have the same names and the same words, in whatever order."""
    return a == b


def is_near(a: bytes, b: bytes, distance: int) -> bool:
    """Both have the same names, and words that differ only a little. `distance` is in bits of 32; of ten
    words one that is another moves about five."""
    if a[:2] != b[:2]:
        return False
    return (int.from_bytes(a[4:], "little") ^ int.from_bytes(b[4:], "little")).bit_count() <= distance


def _bits(hashed: int, count: int) -> int:
    """`count` bits of a sketch for one hash."""
    mask = 0
    for i in range(count):
        mask |= 1 << ((hashed + i * (2 * (hashed >> 13) + 1)) % SKETCH_BITS)
    return mask


def _token_mask(tool: str, tokens: Iterable[str]) -> int:
    mask = 0
    for token in tokens:
        mask |= _bits(crc32(_utf8(f"{tool}\0{token}")), _TOKEN_BITS)
    return mask


@frozen
class CallPrint:
    """A tool call. `names` and `words` are the bits of its arguments' tokens in a sketch, `leaves` the words'
    by value."""

    name: str
    call: bytes
    coarse: bytes
    near: bytes
    names: int
    words: int
    leaves: tuple[int, ...]


def print_call(name: str, arguments: str) -> CallPrint:
    """Fingerprint of a call; `arguments` is the raw text, usually JSON."""
    if not arguments.isascii():
        arguments = _utf8(arguments).decode()
    walk = _Arguments()
    parsed = _loads(arguments)
    if parsed is None:
        exact = " ".join(arguments.split()).encode()
        kept = walk.read(arguments)
    else:
        exact = _dumps(parsed, arguments)
        kept = walk.read(parsed)
    tool = _utf8(name)
    return CallPrint(
        intern(name[:MAX_NAME]),
        digest(tool, exact),
        digest(tool, _dumps(kept, arguments)),
        near_digest(walk.names, walk.words, walk.pages),
        _token_mask(name, walk.names[:_MAX_TOKENS]),
        *_word_masks(name, walk),
    )


def _word_masks(tool: str, walk: _Arguments) -> tuple[int, tuple[int, ...]]:
    """The bits of the words of all values together, and of each value's."""
    leaves = [leaf for leaf in walk.leaves[:_MAX_LEAVES] if leaf]
    masks = tuple(_token_mask(tool, leaf[:_MAX_TOKENS]) for leaf in leaves)
    if len(walk.leaves) > _MAX_LEAVES or len(walk.words) > _MAX_TOKENS:
        return _token_mask(tool, walk.words[:_MAX_TOKENS]), masks
    words = 0
    for mask in masks:
        words |= mask
    # Most calls have one text: the same number twice would be kept twice.
    return (masks[0] if len(masks) == 1 else words), masks


# --- results

_UNIT = re.compile(
    # `[\n,;…]+|[.!?]\s`, with one set of characters in front, so that the search can skip to them.
    r"[\n,;{}\[\]。，、；.!?](?:(?<=[.!?])\s|(?<![.!?])[\n,;{}\[\]。，、；]*+)"
)
_PENDING = re.compile(
    r"""(?i)\b(?:pending|queued|in[ _-]progress|not[ _-](?:yet[ ])?ready|rolling[ _-]out|containercreating
    |still[ ](?:running|processing|working|building)|deploying|provisioning|creating
    |initiali[sz]ing|starting|scheduled|syncing|indexing|uploading|transcoding|validating|executing|waiting
    |running|processing|warming|scaling|installing|en[ ]cours|in[ ]bearbeitung|en[ ]proceso)\b
    |処理中|进行中|等待中""",
    re.VERBOSE,
)
_TIMEOUT = re.compile(
    r"(?i)\btimed?[ _-]?out\b|\bdeadline exceeded\b|\bno response\b|\bunreachable\b"
    r"|\bconnection (?:refused|reset|lost)\b"
)
_EMPTY = re.compile(
    r"""(?i)\W{0,3}(?:(?:no|none|nothing|0(?![.,]\d)|zero|not[ ]found|empty|nil|keine?|aucune?|sin
    |ning[uú]n[ao]?|nessun[ao]?|nenhum[a]?|ничего
    |unknown|n/a|i[ ](?:do[ ]not|don't)[ ]know|i[ ]am[ ]not[ ]sure)\b|没有|未找到|無|見つかりません)""",
    re.VERBOSE,
)
_LISTS = words_of(
    """results result items hits data matches documents docs records rows entries values messages files"""
)
_CLEARED = re.compile(r"(?i)\b(?:cleared|omitted|removed|elided|truncated|masked|pruned|compacted)\b")
_CLEARED_OF = re.compile(r"(?i)\b(?:tool|output|result|results|content|observation|context|lines)\b")


@frozen
class ResultPrint:
    """A tool result. `units` are the bits of its parts in a sketch; `kind` says what novelty goes by: `long`
    results by their parts, `short` ones by the call, `empty` ones (nothing found, an error) by what was
    asked for, and `gone` is a result that the client has cleared from its history. `health` is how the call
    went by what the result says alone; `status` is what follows for counting."""

    digest: bytes
    status: str
    kind: str
    units: int
    size: int
    health: ResultHealth


class _Results:
    """One walk over a parsed result that drops volatile keys."""

    def __init__(self) -> None:
        self.nodes = 0

    def read(self, value: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return value
        if isinstance(value, dict):
            return {
                k: self.read(v, depth + 1) for k, v in value.items() if _plain_key(k) not in _RESULT_VOLATILE
            }
        if isinstance(value, list):
            return [self.read(entry, depth + 1) for entry in value]
        if isinstance(value, str) and value[:1] in ("{", "[") and (parsed := _loads(value)) is not None:
            return self.read(parsed, depth + 1)
        return value


def print_result(text: str, media: Iterable[str] = (), failed: bool = False) -> ResultPrint:
    """Fingerprint of a result; `media` are digests of its parts that are no text."""
    size = len(text)
    if not text.isascii():
        raw = _utf8(text)
        size, text = len(raw), raw.decode()
    parsed = _loads(text)
    health = read_result(text, failed, parsed)
    if size < SHORT and _CLEARED.search(text) and _CLEARED_OF.search(text):
        return ResultPrint(b"", "", "gone", 0, size, health)
    middle = b""
    shown = text if parsed is None else _dumps(_Results().read(parsed), text).decode()
    if len(shown) > _MASKED_CHARS + _TAIL_CHARS:
        middle = _utf8(shown[_MASKED_CHARS:-_TAIL_CHARS])
        shown = shown[:_MASKED_CHARS] + "\n" + shown[-_TAIL_CHARS:]
    looks = _looks(shown)
    clocked = _without_labels_and_clocks(shown, looks)
    opaque = _without_tokens(clocked, looks)
    masked = " ".join(opaque.split())
    images = [_utf8(m) for m in media]
    status: str = health.status
    if status != "error" and len(text) <= 2 * SHORT:
        if _PENDING.search(text) and not failed:
            status = "pending"
        if status == "pending" and _TIMEOUT.search(text):
            # A timeout that is read as "not yet" is waited for all night.
            status = "error"
    kind = "short" if len(masked) <= SHORT and not images else "long"
    if (status == "error" and kind == "short") or _is_empty(parsed, masked):
        kind = "empty"
    # The id of a request changes with each; a list of ids is what was asked for.
    few = opaque.count(_MASK) - clocked.count(_MASK) <= _FEW_OPAQUE
    units = _unit_mask(opaque if few else clocked, images)
    return ResultPrint(digest(_utf8(masked), middle, *images), status, kind, units, size, health)


def _is_empty(parsed: Any, masked: str) -> bool:
    """Nothing was found. An empty object is none of these: many tools say `{}` when all went well."""
    if isinstance(parsed, list):
        return not parsed
    if isinstance(parsed, dict):
        return any(_plain_key(k) in _LISTS and v in ([], {}, None) for k, v in parsed.items())
    return len(masked) <= SHORT and _EMPTY.match(masked) is not None


def _unit_mask(text: str, images: list[bytes]) -> int:
    hashes = {crc32(unit.encode()) for part in _UNIT.split(text.lower()) if (unit := part.strip())}
    hashes.update(crc32(image) for image in images)
    kept = sorted(hashes)[:_MAX_UNITS]
    if not kept:
        return 0
    each = -(-_MIN_TOTAL_BITS // len(kept))
    if each == 1:
        field = bytearray(SKETCH_BITS // 8)
        for h in kept:
            at = h % SKETCH_BITS
            field[at >> 3] |= 1 << (at & 7)
        return int.from_bytes(field, "little")
    mask = 0
    for h in kept:
        mask |= _bits(h, each)
    return mask


# --- texts


@frozen
class TextPrint:
    """What somebody said: equal after normalisation, and nearly equal. `near` is empty for a few words."""

    digest: bytes
    near: bytes


_MIN_WORDS = 8


def print_text(text: str) -> TextPrint:
    """Fingerprint of a text that the assistant or the user said."""
    head = see_through(text[:_MASKED_CHARS])
    plain = " ".join((head + text[_MASKED_CHARS:]).lower().split())
    names: list[str] = []
    words: list[str] = []
    split_tokens(head, names, words)
    near = near_digest(names, words) if len(words) >= _MIN_WORDS else b""
    return TextPrint(digest(_utf8(plain)), near)


# --- once for each content

V = TypeVar("V")
Key = tuple[object, ...]


class _Recent(Generic[V]):
    """At most `2 * size` values; those not used for a while are forgotten, a generation at a time."""

    __slots__ = ("_new", "_old", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._new: dict[Key, V] = {}
        self._old: dict[Key, V] = {}

    def get(self, key: Key) -> V | None:
        value = self._new.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: Key, value: V) -> None:
        if len(self._new) >= self._size:
            self._old, self._new = self._new, {}
        self._new[key] = value


def _text_of(item: Item) -> str:
    return item.texts[0].text if len(item.texts) == 1 else "\n".join(t.text for t in item.texts)


def _result_key(item: Item) -> tuple[str, Key]:
    """A result's text, and what its fingerprint goes by."""
    text = _text_of(item)
    return text, (hash(text), len(text), item.failed, *(m.digest for m in item.media))


class Fingerprints:
    """Fingerprints by content, so that a step costs only what is new in it.

    Keys are Python's own string hashes (keyed per process, 64 bits) with the length: texts are not kept.
    An entry takes 1 or 2 KB, that of a call another 1 KB for each text in its arguments, up to eight; `size`
    is how many of each kind a generation holds.
    """

    def __init__(self, size: int = 2048) -> None:
        self._calls: _Recent[CallPrint] = _Recent(size)
        self._results: _Recent[ResultPrint] = _Recent(size)
        self._texts: _Recent[TextPrint] = _Recent(size)

    def call(self, call: ToolCall) -> CallPrint:
        """Fingerprint of a tool call."""
        key = (hash(call.name), hash(call.arguments), len(call.arguments))
        found = self._calls.get(key)
        if found is None:
            found = print_call(call.name, call.arguments)
            self._calls.put(key, found)
        return found

    def result(self, item: Item) -> ResultPrint:
        """Fingerprint of an item that is a tool's result."""
        text, key = _result_key(item)
        found = self._results.get(key)
        if found is None:
            found = print_result(text, [m.digest for m in item.media], item.failed)
            self._results.put(key, found)
        return found

    def health(self, item: Item) -> ResultHealth:
        """How the call went whose result an item is; read only where its fingerprint does not tell."""
        text, key = _result_key(item)
        found = self._results.get(key)
        return found.health if found is not None else read_result(text, item.failed)

    def text(self, item: Item) -> TextPrint | None:
        """Fingerprint of what an item says; None when it says nothing."""
        return self.said(_text_of(item))

    def said(self, text: str) -> TextPrint | None:
        """Fingerprint of a text; None when it is blank."""
        if not text or text.isspace():
            return None
        key = (hash(text), len(text))
        found = self._texts.get(key)
        if found is None:
            found = print_text(text)
            self._texts.put(key, found)
        return found
