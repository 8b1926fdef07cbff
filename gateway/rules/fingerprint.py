"""Digests of tool calls, results and texts that see through what changes from one attempt to the next.

A stuck agent rarely sends the same bytes twice: there is a nonce, a clock, another order of keys. And an
agent at work often sends almost the same: the next page, the next order. So a value is seen through only
where nothing suggests that it names a thing:

- In arguments: keys such as `nonce` and `request_id` are dropped; clocks are masked; an opaque token is
  masked when it is the whole value under a key that is not a name (`order_id`, `path`, `since`, `cursor`).
- In results: the same keys, durations, ages, ranks and counters of attempts are dropped, clocks, handles of
  elements and every opaque token masked. Schedules are kept: a time on the full minute is no clock.

Everything is computed once for each content (`Fingerprints`), in time linear in its length and bounded for
huge values: beyond the bounds a value stands for itself, which can only hide a loop, never invent one.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from sys import intern
from typing import Any, Generic, TypeVar
from zlib import crc32

import orjson
import re2

from gateway.domain import Item, ToolCall
from gateway.rules.tool_names import acts_on_a_page, hands_over, names_an_identifier, words_of
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
_MAX_SHAPE = 48
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
_VOLATILE_ENDS = ("nonce", "cachebuster", "cachebust")
_IDENTIFIERS = words_of(
    "requestid xrequestid reqid traceid spanid correlationid xcorrelationid callid toolcallid invocationid"
)
_OPTIONS = (
    "include", "with", "field", "format", "limit", "verbose", "pretty", "expand", "timeout", "detail", "lang",
    "locale", "maxresults", "depth",
)  # fmt: skip
_ALONE = _IDENTIFIERS | words_of("timestamp ts tstamp attempt counter random")
"""Kept where nothing else says what is asked for: then they do."""
_COMPANY = words_of("""uuid guid explanation thought thoughts reasoning rationale justification""")
"""Dropped from arguments as well, unless they are all there is: the commentary that a model gives with a
call, and ids without a name."""
_RESULT_VOLATILE = _VOLATILE | words_of(
    """elapsed elapsedms elapseds elapsedseconds elapsedtime duration durationms durations durationseconds
    took tookms latency latencyms responsetime responsetimems executiontime executiontimems processingtime
    processingtimems runtime runtimems querytime querytimems walltime servertime generatedat checkedat
    fetchedat retrievedat queriedat polledat lastchecked lastpolled cachedat servedat etag seed randomseed
    servedby handledby renderedby processedby"""
)
_RANKS = words_of("score similarity distance relevance relevancescore certainty rankscore")
"""Dropped from the entries of a list that say what they are: the same finds, ranked a little differently."""
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
    """page pageno pagenumber offset skip limit pagesize perpage topk maxresults numresults
    cursor nextcursor pagetoken nextpagetoken continuation scrollid"""
)
"""Another page is another call, but names no other thing: pages that repeat are no progress."""
_PAGING_BESIDE = words_of("start first size count")
"""The same where a key of `_PAGING` stands beside; alone they are a shoe's size or a day."""
_COORDINATES = words_of("x y coordinate coordinates")
_GRID = 20
"""Pixels: a click that misses the last one by a few is the same click."""
_ADDRESS_KEYS = words_of("url uri href")
_SHELL_KEYS = words_of("command cmd script commandline")
_NAMING_ENDS = ("id", "ids", "key", "sha", "hash", "path", "url", "uri", "name", "token", "cursor")


@lru_cache(maxsize=4096)
def _is_volatile(key: str) -> bool:
    return key in _VOLATILE or key.endswith(_VOLATILE_ENDS)


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
_CALL_PREFIXES = ("call_", "toolu_", "tooluse_", "chatcmpl-tool-", "fc_")
"""What providers begin the ids of tool calls with. Some of what they draw behind it looks written."""
_TOLD_CALL = re.compile(
    r"""(?P<label>["']id["']:\ ?)["'][^"'\s]{1,64}["']
    (?=,\ ?["'](?:type["']:\ ?["']function["']|function["']:\ ?\{))""",
    re.VERBOSE,
)
"""The id of a tool call in the words of an agent that tells its calls as text. Some are nine characters."""
_CACHE_BUSTER = re.compile(
    r"(?<=[?&])(?i:_|_t|_ts|_dc|cb|cache_?bust(?:er)?|nocache|nonce|rnd|rand)=[^&#\s\"']{1,128}+&?"
)
"""In an address it is left out, whatever the key."""
_EFFORT = re.compile(
    r"""(?<![0-9A-Za-z])(?i:
      (?:took|in|after|for|elapsed|duration|run\ ?time|wall\ time|completed\ in|finished\ in|time|waited)
        [:=\ ]{1,3}\d{1,9}(?:\.\d{1,9}+)?+\ ?
        (?:milliseconds?|seconds?|minutes?|msecs?|secs?|mins?|ms|us|µs|ns|s|m)
    | (?:attempt|retry|try)[:=\ ]{1,2}\#?\d{1,6}+(?:\ ?(?:/|of)\ ?\d{1,6}+)?+
    )(?![0-9A-Za-z])""",
    re.VERBOSE,
)
_DURATION = re.compile(
    # Bare: 0.41s, 37 ms, (3.2 s), 3m24s.
    r"""[0-9](?<![0-9A-Za-z.:_-][0-9])[0-9]{0,5}+(?:
      (?P<fine>\.[0-9]{1,9}+\ ?(?:seconds|secs?|s|ms|us|µs)|\ ?(?:ms|us|µs))
    | (?P<age>[dhm][0-9]{1,3}+(?:\.[0-9]{1,6}+)?[hms](?:[0-9]{1,2}+[ms])?)
    | (?P<long>\ (?:days?|hours?|minutes?|mins?),?\ (?:and\ )?[0-9]{1,3}[ ]
        (?:(?:hours?|minutes?|mins?),?\ (?:and\ )?[0-9]{1,3}\ ){0,2}(?:minutes?|mins?|seconds?|secs?))
    | (?P<whole>\ ?[smhd])
    )(?![0-9A-Za-z])""",
    re.VERBOSE,
)
_MEASURED = re.compile(r"(?i)(?:[:=<>~]|\b(?:p\d{1,3}|mean|median|avg|average|max|min|rtt|latency|delay)) ?$")
_LEFT = re.compile(r"(?i)\b(?:eta|remaining|left|ttl|expires in|starts in)[:= ]{1,3}$")
_HANDLE = re.compile(r"\[ref=[^\]\s]{1,24}\]")
"""By which a browser's snapshot names an element; every snapshot draws new ones."""
_SEED = re.compile(r"(?i)\b(?P<label>(?:random[ _]?)?seed[:= ]{1,3}|etag[:= ]{1,3})[\w\"'./+-]{1,80}+")
_RANK = re.compile(
    r"(?i)\b(?P<label>(?:score|similarity|distance|relevance) ?[=:] ?)-?[0-9]?\.[0-9]{1,12}+"
    r"(?=[\])},;|]?[ \t]+\S)"
)
_BUILD_STEP = re.compile(
    r"(?:(?<=\n)|(?<=\\n)|^)#[0-9]{1,3}+"
    r"(?= (?:\[[^\]\n]{1,40}\] |ERROR|DONE|CACHED|sha256:|transferring |[0-9]))"
)
_SERVED_BY = re.compile(
    r"(?i)\b(?P<label>(?:by|via) (?:web|app|srv|server|node|host|cache|edge|backend|worker|pod)[-_]?)"
    r"[0-9]{1,5}\b"
)
_SHORT_COMMIT = re.compile(
    r"(?P<label>\b(?:commit|HEAD is now at|on [\w./-]{1,60}+:|\[[\w./-]{1,60}+(?: \(root-commit\))?) )"
    r"[0-9a-f]{7,12}(?![0-9a-z])"
)
_WHOLE_UUID = re.compile(r"\{?[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?")
_WHOLE_TOKEN = re.compile(r"[0-9A-Za-z+/_-]{16,512}+=*+")
_CLOCKS, _EFFORTS, _TOKENS, _LABELS, _DURATIONS, _HANDLES, _RARE = range(7)
_LOOKS_LIKE = (
    r"[0-9]:[0-9]{2}:[0-9]{2}|(?:1[2-9]|20)[0-9]{8}",
    r"(?i)(?:took|[iİı]n|after|for|elapsed|durat[iİı]on|t[iİı]me|wa[iİı]ted)"
    r"[:= ]{1,3}\p{Nd}[\p{Nd}.]{0,18} ?[msunµ]|(?:attempt|retry|try)[:= ]{1,2}#?\p{Nd}",
    r"[0-9A-Za-z]{16}|[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}|0x[0-9a-fA-F]{6}",
    r"(?i)(?:x-request-[iİı]d|request_?[iİı]d|trace_?[iİı]d|correlat[iİı]on_?[iİı]d|[iİı]dempotency-key|nonce"
    r"|t[iİı]mestamp|cache_?bust(?:er)?|ts|cb|rand|_)[\"']? ?[=:]"
    r"|[\"'][iİı]d[\"']: ?[\"'][^\"'\s]{1,64}[\"'], ?[\"'](?:type[\"']: ?[\"'])?funct[iİı]on[\"']",
    r"[0-9] ?(?:[smhdu]|µs)(?:[^0-9A-Za-z]|[0-9]|s[^0-9A-Za-z]|ecs?[^a-z]|econds|ays?|ours?|in|\z)",
    r"\[ref=",
    r"(?i)(?:seed|etag)[:= ]|(?:score|similarity|distance|relevance) ?[=:]|#[0-9]{1,3} "
    r"|(?:by|via) (?:web|app|srv|server|node|host|cache|edge|backend|worker|pod)"
    r"|(?:commit|at|:|\[[\w./-]{1,60}|commit\)) [0-9a-f]{7}",
)
"""What each of the patterns above needs a text to hold. Most texts hold none of it, and one automaton tells
so for all of them in a fraction of their time. To Python's `re` a dotted or dotless i is an i, not to RE2."""


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
    if run is None or _is_random(run) or match.string.endswith(_CALL_PREFIXES, 0, match.start()):
        return _MASK
    return run


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
        text = _TOLD_CALL.sub(rf"\g<label>{_MASK}", text)
    if _CLOCKS in looks:
        text = _CLOCK.sub(_mask_clock, text)
    if _EFFORTS in looks:
        text = _EFFORT.sub(_MASK, text)
    return text


def _mask_duration(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 24) : match.start()]
    if match["age"] is not None or match["long"] is not None:
        return match[0] if _LEFT.search(before) else _MASK
    if match["fine"] is not None:
        return match[0] if _MEASURED.search(before) else _MASK
    after = match.string[match.end() : match.end() + 2]
    if before.endswith("(") and after.startswith(")"):
        return _MASK
    column = before.endswith(("  ", "\t", "\\t")) and (
        not after or after[0] in "\n\t" or after[:2] in ("\\n", "\\t")
    )
    return _MASK if column else match[0]


def _without_noise(text: str, looks: Collection[int]) -> str:
    """A result without what a program's output has anew each time: how long it took, how old a thing is,
    handles of elements, seeds, ranks, numbers of build steps, the server that answered."""
    if _HANDLES in looks:
        text = _HANDLE.sub("[ref]", text)
    if _DURATIONS in looks:
        text = _DURATION.sub(_mask_duration, text)
    if _RARE in looks:
        text = _BUILD_STEP.sub("#", text)
        for pattern in (_SEED, _RANK, _SERVED_BY, _SHORT_COMMIT):
            text = pattern.sub(rf"\g<label>{_MASK}", text)
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
    """One walk over a tool's parsed arguments: what stays of them, and the words and names they are of."""

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.nodes = 0
        self.order: list[str] = []
        """All tokens as they come, but for pages."""
        self.rest: list[str] = []
        """What lies beyond the tokens that are looked at."""
        self.names: list[str] = []
        self.words: list[str] = []
        self.pages: list[str] = []
        self.leaves: list[list[str]] = []
        """Words of each value."""
        self._paged = False

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
        plain = {k: _plain_key(k) for k in value}
        kept = {k: v for k, v in value.items() if not _is_volatile(plain[k])}
        if not depth and len(kept) < len(value) and not self._asks(kept, plain):
            kept |= {k: v for k, v in value.items() if plain[k] in _ALONE}
        told = {k: v for k, v in kept.items() if plain[k] not in _COMPANY}
        beside = self._paged
        self._paged = not _PAGING.isdisjoint(plain.values())
        read = {k: self.read(v, k, depth + 1) for k, v in (told or kept).items()}
        self._paged = beside
        return read

    def _asks(self, kept: dict[str, Any], plain: dict[str, str]) -> bool:
        """Whether what is left says what is asked for; options do not."""
        if names_an_identifier(self.tool) and not _IDENTIFIERS.isdisjoint(plain.values()):
            return False
        return any(not plain[k].startswith(_OPTIONS) for k in kept)

    def _is_page(self, key: str) -> bool:
        plain = _plain_key(key)
        return plain in _PAGING or (self._paged and plain in _PAGING_BESIDE)

    def _number(self, value: float, key: str) -> Any:
        shown = repr(value)
        if not _names_a_thing(key) and _CLOCK.sub(_mask_clock, shown) == _MASK:
            return _MASK
        if value >= 5 * _GRID and _plain_key(key) in _COORDINATES and acts_on_a_page(self.tool):
            value = round(value / _GRID) * _GRID
            shown = repr(value)
        if self._is_page(key):
            self.pages.append(shown)
        else:
            self.names.append(shown)
            self.order.append(shown)
        return value

    def _text(self, text: str, key: str, depth: int) -> Any:
        if (parsed := _loads(text)) is not None:
            return self.read(parsed, key, depth + 1)
        named = _names_a_thing(key)
        if not named and (_WHOLE_UUID.fullmatch(text) or (_WHOLE_TOKEN.fullmatch(text) and _is_random(text))):
            return _MASK
        head = text[:_MASKED_CHARS]
        if "=" in head and ("?" in head or "&" in head):
            head = _CACHE_BUSTER.sub("", head).rstrip("?&")
        if not named:
            head = _without_labels_and_clocks(head, _looks(head))
        if self._is_page(key) and "-" not in text[:64]:
            self.pages.append(text[:64])
        else:
            words: list[str] = []
            shown = _without_options(head) if _plain_key(key) in _SHELL_KEYS else head
            if _plain_key(key) in _ADDRESS_KEYS:
                # Another address is another thing, even where only its signs differ.
                self.names.append(head[:_MASKED_CHARS])
            whole = split_tokens(shown, self.names, words, self.order)
            self.words += words[:_MAX_TOKENS]
            self.leaves.append(words)
            if not whole:
                self.rest.append(text)
        return " ".join((head + text[_MASKED_CHARS:]).split())


_PAUSE = re.compile(
    r"""(?:^|[:\[,]\s?)['"]?(?:start-)?sleep[ ,'"]{1,3}[0-9.]{1,8}[smhd]?['"]?(?:[,}\]]|$)""", re.I
)
_MAX_PAUSE = 400
_OPTION = re.compile(
    r"(?<=\s)--?(?:(?:include|exclude|glob|iglob|color|max-count|exclude-dir)=[^\s]{0,200}|[A-Za-z][\w-]{0,40}+(?!=))"
)
"""Those with a value may name what it is about (`-target=module.dns`)."""
_LOOKING = re.compile(
    r"(?i)\b(?:[ef]?grep|ripgrep|rg|ag|ack|find|fd|locate|xargs|git grep|git ls-files|ls|cat|head|sort)\b"
    r"|[0-9&]?>{1,2} ?(?:/dev/null|&1)"
)


def _without_options(command: str) -> str:
    """A shell's command without its options and the programs that look for something, which do not say what
    is looked for."""
    if len(command) > 64 * _MAX_TOKENS:
        return command
    return _LOOKING.sub(" ", _OPTION.sub(" ", command))


_TOKEN = re.compile(r"[^\W_]+(?:[.@:/\\_'’-]+[^\W_]+)*+|(?<=\[)[ xX](?=\])|[☐☑☒✓✔✗✘]")
"""The last two are ticks of a list, which are all that changes in it."""
_FIRST_IDEOGRAPH = "\u2e80"
_STOP = words_of(
    """a an the of in on for to and or is are was be what how which who please with by at from about me my i
    you do does it its this that as can could would should our your we us der die das und ist ein eine für
    le la les de des du et un une el los las y en por para con"""
)


_OPERATORS = words_of(
    """from to cc bcc subject has is in label site filetype intitle inurl type repo org author assignee status
    project"""
)
"""Of a search (`from:bob`): they say where a word is looked for, not for what."""


def split_tokens(text: str, names: list[str], words: list[str], order: list[str]) -> bool:
    """Add a text's tokens, each also to `order`: `names` are those with a digit or the form of an address,
    path or identifier; `words` are the others without the commonest, so that a paraphrase has nearly the
    same. False where the text is too long to be looked at as a whole."""
    if len(names) + len(words) >= 2 * _MAX_TOKENS:
        return False
    for token in _TOKEN.findall(text[: 64 * _MAX_TOKENS]):
        if not token.isascii():
            token = unicodedata.normalize("NFKC", token)
            if len(token) > 2 and token[0] >= _FIRST_IDEOGRAPH and token.isalpha():
                # No spaces between words, so pairs of characters stand for them.
                pairs = [token[i : i + 2] for i in range(len(token) - 1)]
                words += pairs
                order += pairs
                continue
        low = token.lower()
        if ":" in low and low[: low.index(":")] in _OPERATORS:
            low = low[low.index(":") + 1 :]
            token = low
        if token.isalpha() and low != "x":
            if low in _STOP:
                continue
            low = low[:-1] if len(low) > 3 and low[-1] == "s" else low
            words.append(low)
        elif any(c in "0123456789@/\\_.:" for c in token):
            names.append(low)
        else:
            words.append(low)
        order.append(low)
    return len(text) <= 64 * _MAX_TOKENS and len(order) <= _MAX_TOKENS


_LANES = 16
_SPREAD = [sum(((byte >> bit) & 1) << (_LANES * bit) for bit in range(8)) for byte in range(256)]
"""A byte's bits, each in a lane of its own, so that one addition counts all of them."""


NEAR_BYTES = 12
_MAX_BAG = 10
"""Words; more of them would fill the bitmap."""


def near_digest(names: Iterable[str], words: list[str], rest: Iterable[str] = ()) -> bytes:
    """Two bytes for the names; two for the bag of words and the `rest`, exactly; a simhash of 32 bits of the
    words; and 32 bits with one set for each word, none where there are too many."""
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
    bagged = blake2b(_utf8("\0".join([*sorted(words), "", *rest])), digest_size=2).digest()
    mask = 0
    if len(bag) <= _MAX_BAG:
        for word in bag:
            mask |= 1 << (crc32(_utf8(word)) & 31)
    return named + bagged + sim.to_bytes(4, "little") + mask.to_bytes(4, "little")


def same_bag(a: bytes, b: bytes) -> bool:
    """Both have the same names and the same words, in whatever order."""
    return a == b


def is_near(a: bytes, b: bytes, distance: int) -> bool:
    """Both have the same names, and words that differ only a little. `distance` is in bits of 32; of ten
    words one that is another moves about five."""
    if a[:2] != b[:2]:
        return False
    return (int.from_bytes(a[4:8], "little") ^ int.from_bytes(b[4:8], "little")).bit_count() <= distance


def shares_words(a: bytes, b: bytes) -> bool:
    """Two short texts have the same names, and two thirds of their words in common."""
    one, other = int.from_bytes(a[8:], "little"), int.from_bytes(b[8:], "little")
    return a[:2] == b[:2] and 3 * (one & other).bit_count() >= 2 * (one | other).bit_count() > 0


def _positions(hashed: int, count: int) -> list[int]:
    """Of the bits of one hash in a sketch."""
    return [(hashed + i * (2 * (hashed >> 13) + 1)) % SKETCH_BITS for i in range(count)]


def _bits(hashed: int, count: int) -> int:
    """`count` bits of a sketch for one hash."""
    mask = 0
    for i in range(count):
        mask |= 1 << ((hashed + i * (2 * (hashed >> 13) + 1)) % SKETCH_BITS)
    return mask


def _token_hash(tool: str, token: str) -> int:
    return crc32(_utf8(f"{tool}\0{token}"))


def _token_mask(tool: str, tokens: Iterable[str]) -> int:
    mask = 0
    for token in tokens:
        mask |= _bits(_token_hash(tool, token), _TOKEN_BITS)
    return mask


@frozen
class CallPrint:
    """A tool call. `names` and `words` are the bits of its arguments' tokens in a sketch, `leaves` the words'
    by value; `tokens` are hashes of 4 bytes of the tokens in their order; `paged` says that it asks for a
    page, `pauses` that it is a shell's `sleep`."""

    name: str
    call: bytes
    coarse: bytes
    near: bytes
    names: int
    words: int
    leaves: tuple[int, ...]
    tokens: bytes
    paged: bool
    pauses: bool

    def shape(self, seen: int) -> int:
        """The tokens in their order, 16 bits of them, with those that were not seen left open; 0 if all were
        seen. Calls that do the same for one thing after the other have the same shape, rewordings not."""
        hashes = array("I", self.tokens)
        known = seen.to_bytes(SKETCH_BITS // 8, "little")
        parts: list[int] = []
        for h in hashes:
            if all(known[at >> 3] >> (at & 7) & 1 for at in _positions(h, _TOKEN_BITS)):
                parts.append(h)
            elif not parts or parts[-1]:
                parts.append(0)
        return crc32(array("Q", parts)) & 0xFFFF or 1 if 0 in parts else 0


def print_call(name: str, arguments: str) -> CallPrint:
    """Fingerprint of a call; `arguments` is the raw text, usually JSON."""
    if not arguments.isascii():
        arguments = _utf8(arguments).decode()
    walk = _Arguments(name)
    parsed = _loads(arguments)
    if parsed is None:
        exact = " ".join(arguments.split()).encode()
        kept = walk.read(arguments)
    else:
        exact = _dumps(parsed, arguments)
        kept = walk.read(parsed)
    if hands_over(name):
        kept = sorted(walk.names)
    tool = _utf8(name)
    return CallPrint(
        intern(name[:MAX_NAME]),
        digest(tool, exact),
        digest(tool, _dumps(kept, arguments)),
        near_digest(walk.names, walk.words, [*sorted(walk.pages)[:_MAX_TOKENS], *walk.rest]),
        _token_mask(name, walk.names[:_MAX_TOKENS]),
        *_word_masks(name, walk),
        array("I", [_token_hash(name, token) for token in walk.order[:_MAX_SHAPE]]).tobytes(),
        bool(walk.pages),
        len(arguments) <= _MAX_PAUSE and _PAUSE.search(arguments) is not None,
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
_WAITING_WORDS = (
    r"(?:pending|queued|in[ _-]progress|not[ _-](?:yet[ ])?ready|rolling[ _-]out|containercreating"
    r"|podinitializing|deploying|provisioning|initiali[sz]ing|starting|scheduled|syncing|indexing|uploading"
    r"|transcoding|validating|executing|waiting|running|processing|warming(?: up)?|scaling|installing"
    r"|creating|building|en[ ]cours|in[ ]bearbeitung|en[ ]proceso)"
)
_PENDING_VALUE = re2.compile(
    r"(?im)(?:^|[\t:=\"'|(\[]|  )[ \t]*" + _WAITING_WORDS + r"[ \t]*(?:$|[\t,;\"'|)\].]|  |…)"
    r"|\b0/[1-9][0-9]{0,3} +running\b"
)
"""Pending as the value of a field, in a column, or as a line of its own."""
_PENDING_SAID = re2.compile(
    r"(?i)(?:^|\W)(?:still[ ](?:running|processing|working|building)|" + _WAITING_WORDS + r")(?:[^\pL\pN_]|$)"
    r"|处理中|进行中|等待中"
)
"""Pending in words, of the last line."""
_ENDED = re2.compile(
    r"(?i)\b(?:fail(?:s|ed|ure)?|error|fatal|exception|denied|success(?:ful|fully)?|succeeded|completed?|done|finished|passed"
    r"|installed|crashloopbackoff|(?:err)?imagepull(?:backoff)?)\b"
)
"""A text that tells how a thing ended does not tell that it is under way."""
_BROKEN = re2.compile(
    r"(?i)\b(?:failed|failure|fatal|exception|crashloopbackoff|(?:err)?imagepull(?:backoff)?)\b"
)
_FAILING = re2.compile(
    r"\b(?:FAIL|FAILED|FAILURES?)\b|npm ERR!|\*\*\* .*Error [1-9]|Traceback \(most|panicked at|-> 5[0-9]{2}\b"
    r"|(?im:^[^A-Za-z\n]{0,6}(?:[^\s:(]+[:(][0-9]{1,6}(?:[:,][0-9]{1,6})?\)?:? {1,3})?"
    r"(?:fatal |type|syntax|value)?error\b ?[\[:( ])"
    r"|(?i:\b[1-9][0-9]{0,5} (?:tests? |specs? |examples? |checks? )?(?:failed|failing|failures?|errors?)\b)"
    r"|\b[A-Z][A-Za-z]* ?(?:Error|Exception)\b|\bERRORS?=[1-9]"
    r"|(?i:\berror (?:TS|CS|E)[0-9]|\b(?:build|compilation|command|job|check|pipeline) failed\b)"
    r"|(?i:\"(?:conclusion|outcome|result|status|state)\": ?\"(?:failure|failed|error|errored)\")"
    r"|(?i:\"(?:passed|success|succeeded|ok|valid)\": ?false)"
    r"|(?i:\bexit(?:ed)?(?: with)?(?: code| status)?:? [1-9])|(?i:backoff\b)"
)
"""What the output of a build, a test run or a deployment says when it failed, though the call did not."""
_LONG_NUMBER = re.compile(r"(?<![0-9A-Za-z.])[0-9]{8,20}(?![0-9A-Za-z.])|(?<=\[)[0-9]{1,5}/[0-9]{1,5}(?=\])")
"""Of a run, or of the step that was built last; masked in failures alone, where what is measured is
shorter."""
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
_NOTHING_FOUND = re2.compile(
    r"(?i)\b(?:no|zero|0) (?:[\w-]+ )?(?:[\w-]+ )?(?:[\w-]+ )?"
    r"(?:results?|match(?:es)?|documents?|records?|rows?|entries|hits|items|messages)\b"
    r"|\bdid not match (?:any|anything)|\bnothing (?:was |to be )?found\b"
    r"|\b(?:returned|found) (?:no|nothing|zero|0)\b|\b(?:could not|couldn't|did not|didn't) find any"
)
_LISTS = words_of(
    """results result items hits data matches documents docs records rows entries values messages files"""
)
_CLEARED = re.compile(r"(?i)\b(?:cleared|omitted|removed|elided|truncated|masked|pruned|compacted)\b")
_CLEARED_OF = re.compile(r"(?i)\b(?:tool|output|result|results|content|observation|context|lines)\b")


@frozen
class ResultPrint:
    """A tool result.

    `units` are the bits of its parts in a sketch. `kind` says what novelty goes by: `long` results by their
    parts; `short` ones by the call, and so do `rows`, but that the same for another page are none; `empty`
    ones (nothing found, an error) by what was asked for; `gone` is a result that the client has cleared from
    its history. `health` is how the call went by what the result says alone; `status` is what follows for
    counting. `failing` is a result that tells of a failure, be it of the call or of what it ran.
    """

    digest: bytes
    status: str
    kind: str
    units: int
    size: int
    health: ResultHealth
    failing: bool = False


class _Results:
    """One walk over a parsed result that drops volatile keys, and sees whether anything is in it."""

    def __init__(self) -> None:
        self.nodes = 0
        self.empty = False
        """There is an empty list."""
        self.full = False
        """There is something in a list, or a value that tells something."""
        self.rows = False
        """There is something in a list."""
        self.texts: list[str] = []

    def read(self, value: Any, depth: int = 0, key: str = "") -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return value
        if isinstance(value, dict):
            return {
                k: self.read(v, depth + 1, k)
                for k, v in value.items()
                if (plain := _plain_key(k)) not in _RESULT_VOLATILE and not plain.endswith(_VOLATILE_ENDS)
            }
        if isinstance(value, list):
            self.rows = self.rows or bool(value)
            self.full = self.full or bool(value)
            self.empty = self.empty or not value
            return [self.read(_unranked(entry), depth + 1) for entry in value]
        if isinstance(value, str):
            if value[:1] in ("{", "[") and (parsed := _loads(value)) is not None:
                return self.read(parsed, depth + 1)
            if len(self.texts) < _MAX_LEAVES:
                self.texts.append(value[:SHORT])
            self.full = self.full or len(value) > _SHORT_VALUE
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self.full = self.full or (value != 0 and not _plain_key(key).endswith(_COUNT_ENDS))
        return value


_SHORT_VALUE = 8
"""Characters: a longer text is something that was found."""
_COUNT_ENDS = ("page", "limit", "size", "scanned", "version", "status", "code")


def _unranked(entry: Any) -> Any:
    """An entry of a list without its rank, if anything else says what it is."""
    if isinstance(entry, dict) and any(_plain_key(k) in _RANKS for k in entry):
        kept = {k: v for k, v in entry.items() if _plain_key(k) not in _RANKS}
        if any(isinstance(v, (str, dict)) for v in kept.values()):
            return kept
    return entry


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
    walk = _Results()
    shown = text if parsed is None else _dumps(walk.read(parsed), text).decode()
    if len(shown) > _MASKED_CHARS + _TAIL_CHARS:
        middle = _utf8(shown[_MASKED_CHARS:-_TAIL_CHARS])
        shown = shown[:_MASKED_CHARS] + "\n" + shown[-_TAIL_CHARS:]
    looks = _looks(shown)
    clocked = _without_noise(_without_labels_and_clocks(shown, looks), looks)
    opaque = _without_tokens(clocked, looks)
    failing = failed or health.status == "error" or _tells_of_failure(shown)
    masked = " ".join(opaque.split())
    if failing:
        masked = _LONG_NUMBER.sub(_MASK, masked)
    images = [_utf8(m) for m in media]
    status: str = health.status
    if status != "error" and len(text) <= 2 * SHORT:
        if not failed and _is_pending(shown, walk.texts if parsed is not None else None):
            status = "pending"
        if status == "pending" and _TIMEOUT.search(text):
            # A timeout that is read as "not yet" is waited for all night.
            status = "error"
    kind = "short" if len(masked) <= SHORT and not images and _HANDLES not in looks else "long"
    if kind == "short" and walk.rows and opaque == clocked:
        kind = "rows"
    if (status == "error" and kind in ("short", "rows")) or _is_empty(parsed, masked, walk):
        kind = "empty"
    # The id of a request changes with each; a list of ids is what was asked for.
    few = opaque.count(_MASK) - clocked.count(_MASK) <= _FEW_OPAQUE
    units = _unit_mask(opaque if few else clocked, images)
    failing = (failing or status == "error") and status != "pending"
    return ResultPrint(digest(_utf8(masked), middle, *images), status, kind, units, size, health, failing)


_HEAD, _TAIL = 600, 1200
"""Characters of a program's output that tell how it went."""


def _tells_of_failure(shown: str) -> bool:
    if len(shown) > _HEAD + _TAIL:
        shown = shown[:_HEAD] + "\n" + shown[-_TAIL:]
    return _FAILING.search(_utf8(shown).decode()) is not None


def _is_pending(shown: str, values: list[str] | None) -> bool:
    """Whether a result tells that something is under way; `values` are the texts of a structured one."""
    if values is not None:
        return any(
            len(v) <= 2 * SHORT and not _BROKEN.search(v) and (_PENDING_VALUE.search(v) or _says_pending(v))
            for v in values
        )
    if _BROKEN.search(shown):
        return False
    return _PENDING_VALUE.search(shown) is not None or _says_pending(shown)


def _says_pending(text: str) -> bool:
    last = text.rstrip().rsplit("\n", 1)[-1]
    return _PENDING_SAID.search(last) is not None and _ENDED.search(text) is None


def _is_empty(parsed: Any, masked: str, walk: _Results) -> bool:
    """Nothing was found. An empty object is none of these: many tools say `{}` when all went well."""
    if isinstance(parsed, list):
        return not parsed
    if isinstance(parsed, dict):
        if walk.empty and not walk.full and walk.nodes <= _MAX_NODES:
            return True
        return any(_plain_key(k) in _LISTS and v in ([], {}, None) for k, v in parsed.items())
    if len(masked) > SHORT:
        return False
    return _EMPTY.match(masked) is not None or _NOTHING_FOUND.search(masked) is not None


_LONG_UNIT = 48
"""Characters: so long a part weighs as two, and one of three times as many as three."""


def _unit_mask(text: str, images: list[bytes]) -> int:
    sizes = {crc32(unit.encode()): len(unit) for part in _UNIT.split(text.lower()) if (unit := part.strip())}
    sizes.update((crc32(image), 0) for image in images)
    kept = sorted(sizes)[:_MAX_UNITS]
    if not kept:
        return 0
    each = -(-_MIN_TOTAL_BITS // len(kept))
    field = bytearray(SKETCH_BITS // 8)
    for h in kept:
        at = h % SKETCH_BITS
        field[at >> 3] |= 1 << (at & 7)
        size = sizes[h]
        if size >= _LONG_UNIT:
            at = (h >> 11) % SKETCH_BITS
            field[at >> 3] |= 1 << (at & 7)
            if size >= 3 * _LONG_UNIT:
                at = (h >> 19) % SKETCH_BITS
                field[at >> 3] |= 1 << (at & 7)
        if each > 1:
            for at in _positions(h, each):
                field[at >> 3] |= 1 << (at & 7)
    return int.from_bytes(field, "little")


# --- texts


@frozen
class TextPrint:
    """What somebody said: equal after normalisation, and nearly equal."""

    digest: bytes
    """That of the code where a text is mostly that."""
    near: bytes
    """Eight bytes, compared by `is_near`; empty for a few words."""
    bag: int
    """64 bits, two for each word, of a text of one sentence; none of any other."""
    code: bool
    """It is mostly code."""
    facts: int
    """32 bits, one for each number, code or address of a short text."""
    courtesy: bool
    """It is nothing but thanks and good wishes."""


_MIN_WORDS = 8
_SENTENCE = range(4, 15)
"""Words of a text that are compared one by one."""
_CODE = "```"
_MAX_REPLY = 400
_FACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{2,60}+")
_COURTESIES = words_of(
    """thank thanks you youre you're are welcome very so much again too have a an great nice good lovely
    wonderful fantastic day evening night weekend week time rest of the your bye goodbye cheers care take
    pleasure my anytime always same to and for help all best wishes see soon later ok okay glad happy i i'm am
    was it's it"""
)
_COURTEOUS = words_of("thank thanks welcome bye goodbye pleasure cheers care day")
_MAX_COURTESY = 120
"""Characters."""


def print_text(text: str) -> TextPrint:
    """Fingerprint of a text that the assistant or the user said."""
    code = _mostly_code(text)
    head = see_through((code or text)[:_MASKED_CHARS])
    plain = " ".join((head + (code or text)[_MASKED_CHARS:]).lower().split())
    names: list[str] = []
    words: list[str] = []
    order: list[str] = []
    split_tokens(head, names, words, order)
    near = near_digest(names, words)[:8] if len(words) >= _MIN_WORDS else b""
    bag = 0
    for word in order if len(order) in _SENTENCE else ():
        h = crc32(_utf8(word))
        bag |= 1 << (h & 63) | 1 << ((h >> 8) & 63)
    return TextPrint(digest(_utf8(plain)), near, bag, bool(code), _facts(text), _is_courtesy(plain))


def _facts(text: str) -> int:
    """Bits of what an answer to a question of fact consists of: an order's number, an address."""
    mask = 0
    for token in _FACT.findall(text) if len(text) <= _MAX_REPLY else ():
        if any(c in "0123456789@" for c in token):
            plain = "".join(c for c in token.lower() if c.isalnum())
            mask |= 1 << (crc32(plain.encode()) & 31)
    return mask


def _is_courtesy(plain: str) -> bool:
    if len(plain) > _MAX_COURTESY:
        return False
    words = set(plain.translate(_NO_POINTS).split())
    return not words.isdisjoint(_COURTEOUS) and all(w in _COURTESIES or not w.isascii() for w in words)


_NO_POINTS = str.maketrans(dict.fromkeys(".,!:;()-~", " "))


def _mostly_code(text: str) -> str:
    """The fenced code of a text that has little else to say; empty for any other text."""
    if _CODE not in text:
        return ""
    code = "".join(text.split(_CODE)[1::2])
    return code if len(code) >= 60 and 2 * len(code) >= len(text) else ""


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
