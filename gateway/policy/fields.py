"""The types of single values in a policy file, each with the words that say what was expected.

A field is declared by one of these types and never by a bare `int` or `str`, so every wrong value gets a
message that a person can act on. The words travel as a pydantic error of type `EXPECTED`; `messages.py`
turns them into a sentence. Sections are in `sections/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from decimal import Decimal
from functools import cache, lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import re2
from pydantic import AwareDatetime, BeforeValidator, Field, SecretStr, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

EXPECTED = "expected"
"""Type of the pydantic errors raised here; their context holds `expected`, and perhaps `got` and `near`."""

LARGEST_INTEGER = 2**53 - 1
"""Redis scripts count in IEEE doubles, which are exact up to here."""

LARGEST_LIMIT_USD = 9_000_000
"""The same bound for money, which is counted in nano-dollars: 2**53 nano-dollars are $9,007,199."""


def unexpected(expected: str, *, got: str | None = None, near: tuple[str, ...] = ()) -> PydanticCustomError:
    """The error for a value that is not `expected`.

    `got` replaces the value in the message where that must not be shown; `near` are the allowed
    words, for a guess at what was meant.
    """
    return PydanticCustomError(EXPECTED, "not as expected", {"expected": expected, "got": got, "near": near})


_OUT_OF_BOUNDS = ("greater_than", "less_than", "decimal_max_places")


def _says(expected: str, *, number: bool = False, bounds: str | None = None) -> WrapValidator:
    """Replaces every error of the wrapped type by one sentence; `number` also refuses true and false.

    `bounds` is the sentence for a number that is one, and too small or too large.
    """

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        if number and isinstance(value, bool):
            raise unexpected(expected)
        try:
            return inner(value)
        except ValidationError as error:
            outside = error.errors()[0]["type"].startswith(_OUT_OF_BOUNDS)
            raise unexpected(bounds if bounds and outside else expected) from None

    return WrapValidator(check)


Count = Annotated[
    int,
    Field(ge=1, le=LARGEST_INTEGER),
    _says("a whole number such as 25", number=True, bounds=f"a whole number from 1 to {LARGEST_INTEGER}"),
]
Days = Annotated[
    Annotated[int, Field(ge=1, le=36_500)] | Literal["forever"],
    _says("from 1 to 36500 days such as 90, or forever", number=True),
]
Whole = Annotated[
    int,
    Field(ge=0, le=LARGEST_INTEGER),
    _says("a whole number such as 2", number=True, bounds=f"a whole number from 0 to {LARGEST_INTEGER}"),
]
Bytes = Annotated[
    int,
    Field(ge=1, le=LARGEST_INTEGER),
    _says("a whole number of bytes such as 33554432", number=True, bounds="at least 1 byte"),
]
JsonDepth = Annotated[
    int, Field(ge=1, le=250), _says("a whole number between 1 and 250 such as 128", number=True)
]
"""The serialiser writes no more than 254 levels."""
Seconds = Annotated[
    float,
    Field(gt=0, le=31_536_000, allow_inf_nan=False),
    _says(
        "a number of seconds such as 30", number=True, bounds="seconds above 0 and up to a year (31536000)"
    ),
]
Share = Annotated[
    float,
    Field(gt=0, le=1, allow_inf_nan=False),
    _says("a share above 0 and up to 1 such as 0.75", number=True),
]
Characters = Annotated[
    int,
    Field(ge=1, le=100_000),
    _says("a whole number of characters such as 8192", number=True, bounds="from 1 to 100,000 characters"),
]
Portion = Annotated[
    float,
    Field(ge=0, le=1, allow_inf_nan=False),
    _says("a share from 0 to 1 such as 0.1", number=True),
]
Weight = Annotated[
    float,
    Field(ge=0, le=1000, allow_inf_nan=False),
    _says("a weight from 0 to 1000 such as 1", number=True),
]
LimitUsd = Annotated[
    Decimal,
    Field(gt=0, le=LARGEST_LIMIT_USD, decimal_places=9),
    _says(
        "a number of dollars such as 10.00",
        number=True,
        bounds=f"dollars above 0 and up to {LARGEST_LIMIT_USD:,} with at most nine decimals",
    ),
]
"""Above 0, in steps of a nano-dollar, and small enough for the store to count."""
RateUsd = Annotated[
    Decimal,
    Field(ge=0, le=LARGEST_LIMIT_USD),
    _says("a price in dollars such as 0.15", number=True),
]
OutputTokens = Annotated[
    int,
    Field(ge=16, le=LARGEST_INTEGER),
    _says("a whole number of tokens such as 1024", number=True, bounds="at least 16 tokens"),
]
"""OpenAI's Responses API refuses a smaller output limit."""
Factor = Annotated[
    float,
    Field(gt=1, le=1_000_000, allow_inf_nan=False),
    _says("a factor above 1 such as 1.75", number=True),
]
Flag = Annotated[bool, _says("true or false")]

_RULE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_PRINTABLE = r"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"

Name = Annotated[
    str,
    Field(pattern=_RULE_NAME),
    _says('a name of up to 64 letters, digits, "_", "." and "-" such as user-day'),
]
"""What a rule, key, provider or alert is called; it stands in messages, metrics and store keys."""
Label = Annotated[str, Field(max_length=256, pattern=_PRINTABLE), _says("text of up to 256 characters")]
"""A name that someone else gave: a user, a team, a tool, a model at its provider."""
ModelName = Annotated[
    str,
    Field(max_length=256, pattern=r"^([^\x00-\x20\x7f*]+\*?|\*)$"),
    _says('a model name without spaces, such as gpt-4o; a "*" may only stand at its end'),
]
"""A model, or with a trailing `*` every model whose name starts so."""
Prose = Annotated[
    str,
    Field(max_length=4096, pattern=r"[^\s]"),
    _says("text of up to 4096 characters"),
]
"""What is said to a model; it may have several lines."""
Verb = Annotated[
    str,
    Field(max_length=64, pattern=r"^[^\s\x00-\x1f\x7f]+( [^\s\x00-\x1f\x7f]+)*$"),
    _says("a word or phrase of up to 64 characters such as sent"),
]
"""What an answer may claim to have done."""
ArgumentPath = Annotated[
    str,
    Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f.*]+(\.([^\x00-\x1f\x7f.*]+|\*))*$"),
    _says('a dotted path such as to.address, with "*" for every element of a list as in orders.*.amount'),
]
"""Leads to an argument of a tool, whose arguments are always a mapping."""
EntityName = Annotated[
    str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$"), _says("an entity in capital letters such as CREDIT_CARD")
]
TagMatch = Annotated[
    str,
    Field(max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*=[^\x00-\x1f\x7f]*$"),
    _says("a tag such as tier=free"),
]
UrlPath = Annotated[
    str, Field(max_length=256, pattern=r"^/[A-Za-z0-9_./{}-]*$"), _says("a path such as /v1/audio/speech")
]
Host = Annotated[
    str,
    Field(max_length=253, pattern=r"^\.?[a-z0-9-]+(\.[a-z0-9-]+)*$"),
    _says("a host in small letters such as img.example.com, or .example.com for all below it"),
]
Instant = Annotated[AwareDatetime, _says("a time with its zone such as 2027-01-31T00:00:00Z")]
"""A `datetime` in any zone."""


def _as_json(value: Any) -> Any:
    # JSON's own numbers are floats, and Decimal("0.1") equals none of them.
    return float(value) if isinstance(value, Decimal) else value


_Finite = Annotated[float, Field(allow_inf_nan=False)]
JsonScalar = Annotated[
    bool | int | _Finite | str | None,
    BeforeValidator(_as_json),
    _says("a text, a number, true, false or null"),
]
"""A value of JSON that holds no others. In Python `True == 1`: compare the types as well."""
Number = Annotated[int | _Finite, BeforeValidator(_as_json), _says("a number such as 100", number=True)]


_PATTERN_MEMORY = 1 << 20
"""Bytes of a compiled pattern and its automaton; larger ones are refused when they are read."""


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    """Raises: `ValueError` with what is wrong, for a pattern that RE2 does not know or that is too large."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(error.args[0].decode("utf-8", "replace")) from None


def fully_matches(pattern: str, text: str) -> bool:
    """Whether a checked `Pattern` matches the whole of `text`, in time proportional to its length."""
    # JSON can spell lone surrogates, which plain UTF-8 has not; RE2 takes one for a character.
    return _compiled(pattern).fullmatch(text.encode("utf-8", "surrogatepass")) is not None


def _pattern(value: Any) -> Any:
    if not isinstance(value, str) or not 0 < len(value) <= 1024:
        raise unexpected("an RE2 pattern of up to 1024 characters such as [a-z]+@example\\.com")
    try:
        _compiled(value)
    except UnicodeEncodeError:
        raise unexpected("an RE2 pattern of Unicode text") from None
    except ValueError as error:
        # After the colon RE2 repeats a part of the pattern, which may come from the environment.
        why = str(error).partition(": ")[0]
        raise unexpected(f"an RE2 pattern, which has no lookaround and no back-references ({why})") from None
    return value


Pattern = Annotated[str, BeforeValidator(_pattern)]
"""For `fully_matches()`: RE2 takes linear time, whatever the pattern."""

SCOPES = ("run", "session", "user", "key", "team", "model", "tool", "global")
"""What a limit can be counted per, besides `tag:NAME`."""


def _scope(value: Any) -> Any:
    if isinstance(value, str) and (
        value in SCOPES or re.match(r"^tag:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", value)
    ):
        return value
    raise unexpected(f"{one_of(SCOPES)}, or tag:NAME", near=SCOPES)


Scope = Annotated[
    str,
    BeforeValidator(_scope),
    Field(pattern=rf"^({'|'.join(SCOPES)}|tag:[A-Za-z0-9][A-Za-z0-9_.-]{{0,63}})$"),
]


def one_of(words: tuple[str, ...]) -> str:
    """`run, session or user`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


@cache
def _zones() -> tuple[str, ...]:
    return tuple(sorted(available_timezones()))


def zone(name: str) -> tzinfo:
    """The time zone of a checked name. UTC needs no zone database, which small images lack."""
    return UTC if name == "UTC" else ZoneInfo(name)


def _timezone(value: Any) -> Any:
    if value == "UTC" or (isinstance(value, str) and value in _zones()):
        return value
    raise unexpected("a time zone such as UTC or Europe/Berlin", near=_zones())


Timezone = Annotated[str, BeforeValidator(_timezone)]
"""Name of a zone in the IANA database; `zone()` gives the zone itself."""


def _url(value: Any) -> str:
    example = "an http or https URL such as https://api.openai.com/v1"
    if not isinstance(value, str):
        raise unexpected(example)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise unexpected(example) from None
    if "@" in parts.netloc:
        raise unexpected("a URL without them: use api_key", got="a URL with credentials in it")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise unexpected("a URL without either", got="a URL with a query or a fragment")
    if parts.scheme not in ("http", "https") or not host or not re.match(r"^[\x21-\x7e]+$", value):
        raise unexpected(example)
    return value.rstrip("/")


BaseUrl = Annotated[str, BeforeValidator(_url), Field(pattern="^https?://|\\$\\{")]
"""Without a trailing slash, credentials, query or fragment."""


def _header_safe(value: Any, expected: str) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not isinstance(value, str) or not re.match(r"^[\x21-\x7e]{1,4096}$", value.strip()):
        raise unexpected(expected, got=None if value is None else "a hidden value")
    # A secret mounted or exported with its newline is the same secret.
    return value.strip()


def _provider_key(value: Any) -> Any:
    if value is None or value == "none":
        return None
    return _header_safe(value, "none, ${NAME}, file:/path or a key of visible ASCII characters")


def _secret(value: Any) -> Any:
    return _header_safe(value, "${NAME}, file:/path or a secret of visible ASCII characters")


def _secret_url(value: Any) -> Any:
    example = "${NAME}, file:/path or an http or https URL"
    url = _header_safe(value, example)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise unexpected(example, got="a hidden value") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise unexpected(example, got="a hidden value")
    return url


ProviderKey = Annotated[SecretStr | None, BeforeValidator(_provider_key)]
"""`None` for a provider that wants no credential, written `none`."""
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
SecretUrl = Annotated[SecretStr, BeforeValidator(_secret_url)]
"""A URL whose path is a credential, as those of chat webhooks."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


OneOrMore = BeforeValidator(_as_list)
"""Lets a list of one be written without brackets."""


def _price(value: Any) -> Any:
    if value == "free" or not isinstance(value, str | int | Decimal | list | float | None):
        return value
    example = "free, or a mapping of prices such as {input_usd_per_mtok: 0.20, output_usd_per_mtok: 0.20}"
    raise unexpected(example, near=("free",))


PriceShape = BeforeValidator(_price)

FREE_TAG, PRICED_TAG = "<free>", "<prices>"
"""Names of the two forms of a price in pydantic's locations; no key of a file can be called so."""


def price_form(value: Any) -> str:
    """Which form of a price this is: the word `free`, or a table."""
    return FREE_TAG if isinstance(value, str) else PRICED_TAG


COUNT_TAG, LADDER_TAG = "<count>", "<ladder>"
"""Names of the two forms of a loop rule in pydantic's locations."""


def rule_form(value: Any) -> str:
    """Which form of a loop rule this is: a count, or a ladder of actions."""
    return COUNT_TAG if isinstance(value, str | int | Decimal | float) else LADDER_TAG


def _rule(value: Any) -> Any:
    # A count that was read from the environment is a text.
    if isinstance(value, bool | list) or (isinstance(value, str) and not value.strip().isdecimal()):
        raise unexpected("a whole number such as 3, or a ladder such as {nudge: 2, wrap_up: 4}")
    return value


RuleShape = BeforeValidator(_rule)

ToolLevel = Literal["safe", "moderate", "dangerous"]
"""How much harm a tool can do, rising."""
Mode = Literal["enforce", "shadow", "off"]
OnFailure = Literal["refuse", "allow"]
Landing = Literal["stop", "wrap_up", "final_message", "downgrade", "notify"]
"""What happens at a limit."""
Window = Literal["1h", "1d", "1w", "1mo"]


def wildcard_matches(pattern: str, name: str) -> bool:
    """Whether a model name or a pattern with a trailing `*` covers `name`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == name


def best_pattern(entries: Mapping[str, Any], name: str) -> str | None:
    """The entry that covers `name`: itself, else the wildcard with the longest prefix, else `None`."""
    if name in entries and not name.endswith("*"):
        return name
    for end in range(len(name), -1, -1):
        if (pattern := f"{name[:end]}*") in entries:
            return pattern
    return None
