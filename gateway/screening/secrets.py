"""Finds keys, tokens, passwords and private keys in a text.

Keys of a known shape are told by it; a secret of no shape by the name that it is assigned to, and then only
when it is random enough and no placeholder, variable or call. Time is linear in the text, and there is no
limit on its length. Findings never overlap.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator

import re2

from gateway.screening.base import Finding
from gateway.screening.matching import PatternSet, to_ascii
from gateway.screening.pii import resolve
from gateway.screening.secrets_rules import (
    ASSIGNED,
    ASSIGNMENT,
    BEFORE,
    ENCODED_PEM,
    FARTHER,
    KEY_NAMES,
    KUBERNETES,
    PASSWORDS,
    PEM,
    SHAPES,
    SPACED,
    Shape,
)

DETECTOR = "secrets"

Span = tuple[str, int, int, float]


def scan(text: str) -> list[Finding]:
    """Secrets in `text`, in order of position. What is found is the secret itself, without its name."""
    ascii_text = to_ascii(text)
    data = ascii_text.encode("ascii")
    found: list[Span] = []
    for index in _SET.present(data):
        if index >= len(_SPECIAL):
            found += _shaped(ascii_text, SHAPES[index - len(_SPECIAL)], _SET.spans(index, data))
        elif (pattern := _SPECIAL[index]) in _NAMED:
            found += _NAMED[pattern](ascii_text, _SET.named_spans(index, data))
        else:
            found += _UNNAMED[pattern](ascii_text, _SET.spans(index, data))
    return resolve(Finding(DETECTOR, type_, start, end, score) for type_, start, end, score in found)


# -- known shapes -------------------------------------------------------------------------------------


def _shaped(text: str, shape: Shape, spans: Iterator[tuple[int, int]]) -> Iterator[Span]:
    for start, end in spans:
        value = text[start:end]
        while value and not (value[-1].isalnum() or value[-1] in "=_-+/$!:"):
            value = value[:-1]
        end = start + len(value)
        if (shape.sample and (_sample(value) or _masked(text, end))) or (shape.mixed and not _mixed(value)):
            continue
        if (check := _FURTHER.get(shape.type)) is not None and not check(value):
            continue
        yield shape.type, start, end, shape.score


def _basic(value: str) -> bool:
    """The base64 of `user:password`."""
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return _random(value, 3.0)
    user, colon, password = decoded.partition(":")
    return bool(colon) and (bool(user) or bool(password)) and not (password and placeholder(password))


def _user(value: str) -> bool:
    user, _, password = value.replace('"', "").replace("'", "").partition(":")
    secret = password or user
    if placeholder(secret) or user[:1] in tuple("$<%") or not _password(secret):
        return False
    # `-u root:wheel` names a group.
    return not placeholder(user) or (len(secret) >= 8 and any(map(str.isdigit, secret)))


def _header(value: str) -> bool:
    return (
        not placeholder(value)
        and any(c.isdigit() for c in value)
        and _random(value, 2.8)
        and "://" not in value
    )


def _given(value: str) -> bool:
    return not placeholder(value) and not _code(value, True) and _password(value)


_FUNCTION_WORDS = re.compile(r"(?i)\b(?:the|and|for|with|from|your|are|you|was|our|not|were|its|has|but)\b")
"""None of them is in the list that seed phrases are drawn from."""
_FURTHER: dict[str, Callable[[str], bool]] = {
    "INFRACOST_KEY": lambda value: value != value.lower(),
    "BASIC_AUTH": _basic,
    "DOCKER_AUTH": _basic,
    "AUTH_HEADER": _header,
    "CURL_USER": _user,
    "URL_PASSWORD": lambda value: not placeholder(value),
    "NPMRC_TOKEN": lambda value: not placeholder(value),
    "NETRC_PASSWORD": lambda value: not placeholder(value),
    "CONFIG_PASSWORD": lambda value: not placeholder(value),
    "PGPASS_PASSWORD": lambda value: not placeholder(value) and _password(value),
    "COMMAND_PASSWORD": _given,
    "LOGIN_PASSWORD": _given,
    "SESSION_COOKIE": lambda value: _key(value) and not placeholder(value),
    "SEED_PHRASE": lambda value: (
        len(value.split()) in (12, 15, 18, 21, 24) and not _FUNCTION_WORDS.search(value)
    ),
}


# -- assignments --------------------------------------------------------------------------------------

_NAME = re.compile(rf"({PASSWORDS})|{KEY_NAMES}", re.IGNORECASE)
_NO_SECRET = re.compile(
    r"(?:encryption|hash(?:er|ing)?|algo(?:rithm)?|policy|rules?|file(?:name)?|path|field|label|hint|length|type|name|"
    r"manager|provider|expir(?:y|es|ation)(?:_?(?:at|in))?|reset|strength|method|mode|status|count|limit|url|uri|"
    r"endpoint|\.(?:py|js|ts|tsx|go|rb|java|rs|php|md|html|json|ya?ml))[\"'`\])]{0,3}\s*(?:[:?]{0,3}=>?|[:,;|>])",
    re.IGNORECASE,
)
"""Names of what is about a secret and is none: `password_policy:`, `token_type =`, `secret.py:41:`."""
_CURSOR = re.compile(
    r"(?:page|next|previous|continuation|starting|sync|cursor|resume|public|publishable|authenticity|csrf|xsrf)"
    r"[_-]?\Z",
    re.IGNORECASE,
)
"""What makes a token a place in a list, or a key one for everybody."""
_DEFINED = re.compile(r"\b(?:define|env|getenv|setenv|setProperty|putenv)\(\s*[\"'][\w.-]*\Z")
_IS = re.compile(r"\sis\s+\Z")
_AFTER_COMMA = re.compile(r",\s*[\"'`\\(bruf]*\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z_$0-9]*(?:(?:\.|::|->)[A-Za-z_$][A-Za-z_$0-9]*)*[;,)]*")
_TYPE = re.compile(r"[A-Z][a-z]+\d{1,2}[A-Z][A-Za-z]*")  # Uint8Array
_FOLDER = re.compile(r"/[a-z_-]+/|[^.]*\.")
_WORD = re.compile(r"[A-Za-z]?[a-z]+|[A-Z]+|[0-9]+")
_JOINTS = re.compile(r"[-_.:/]|(?<=[a-z0-9])(?=[A-Z])")
_PARAMETER = re.compile(r"&[A-Za-z_][\w.-]*=")
"""Where the next parameter of a query begins."""
_MORE = re.compile(r"(?:[,;][^\s\"'`<>,;=:{}\[\]()]+)+(?=[\s\"'`]|\Z)")
_QUOTES = ("'", '"', "`")


def _assigned(text: str, spans: Iterator[tuple[int, int, int]]) -> Iterator[Span]:
    """`spans` are those of the values, with where their names begin in front."""
    for named, start, end in spans:
        quoted = text[start - 1 : start] in _QUOTES
        value = _cut(text, start, end, quoted)
        if len(value) < 6 or _NO_SECRET.search(text, named, start):
            continue
        if _CURSOR.search(text, max(0, named - 16), named):
            continue
        # `the password is required`: what a sentence says of it is no password.
        if not quoted and _IS.search(text, named, start) and not (_mixed_enough(value) or _scrambled(value)):
            continue
        listed = _AFTER_COMMA.search(text, max(0, start - 16), start) is not None
        strong = quoted and len(value) >= 16 and (_UUID.fullmatch(value) or _mixed_enough(value))
        if listed and not strong and not _DEFINED.search(text, max(0, named - 40), named):
            continue
        if type_ := _kind(text, named, start, value, quoted):
            end = _end(text, start + len(value), type_, quoted)
            yield type_, start, end, 0.75 if type_ == "PASSWORD" else 0.7


def _cut(text: str, start: int, end: int, quoted: bool) -> str:
    """A value without what follows it."""
    value = text[start:end].rstrip("" if quoted and text[start - 1] != "`" else ").]}:!?*|&")
    parameter = _PARAMETER.search(value)
    return value[: parameter.start()] if parameter else value


def _end(text: str, end: int, type_: str, quoted: bool) -> int:
    """Where a value ends for good: passwords without quotes may hold commas."""
    more = None if quoted or type_ != "PASSWORD" else _MORE.match(text, end)
    return more.end() if more else end


def _kind(text: str, named: int, start: int, value: str, quoted: bool) -> str | None:
    """What a value is that stands after a name, if it is a secret."""
    if (
        value.startswith(("pk.", "pk_"))
        or "://" in value
        or placeholder(value)
        or _code(value, quoted)
        or _masked(text, start + len(value))
    ):
        return None
    # Of `token for password:` the last counts.
    names = [match.lastindex for match in _NAME.finditer(text, named, start)]
    if names and names[-1]:
        return "PASSWORD" if _password(value) else None
    return ASSIGNED if _key(value) else None


def _key(value: str) -> bool:
    if _UUID.fullmatch(value):
        return True
    mixed = _mixed_enough(value) or (any(map(str.isdigit, value)) and _scrambled(value))
    return len(value) >= 16 and mixed and _random(value, 3.2)


_STATED = re.compile(r"\s(?:is|lautet|ist|est|es|vale|valia|e)\s+[\"'`(]*\Z")
_OF_ALGORITHMS = re.compile(
    r"(?i)(?:sha|md|base|utf|aes|rsa|pbkdf|bcrypt|scrypt|argon|tls|ssl|http|oauth|iso|x509)[-_\d]"
)


def _odd(value: str, stated: bool) -> bool:
    """What no sentence has; where a sentence states a secret, words joined with a number may be one."""
    digits = sum(map(str.isdigit, value))
    if len(value) < 8 or _OF_ALGORITHMS.match(value):
        return False
    if _scrambled(value) or (digits and _mixed_enough(value)):
        return True
    return stated and 1 < digits < len(value)


def _spaced(text: str, spans: Iterator[tuple[int, int, int]]) -> Iterator[Span]:
    """Values after a name with no sign between, or some words later."""
    for named, start, end in spans:
        quoted = text[start - 1 : start] in _QUOTES
        value = _cut(text, start, end, quoted)
        stated = _STATED.search(text, named, start) is not None
        if not value or not _odd(value, stated) or _CURSOR.search(text, max(0, named - 16), named):
            continue
        if type_ := _kind(text, named, start, value, quoted):
            yield type_, start, _end(text, start + len(value), type_, quoted), 0.65


def _before(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[Span]:
    """Long random values in quotes, in front of what they are."""
    for start, end in spans:
        value = text[start:end].rstrip(".")
        if _key(value) and not placeholder(value) and not _code(value, True):
            yield ASSIGNED, start, start + len(value), 0.6


def _code(value: str, quoted: bool) -> bool:
    """A variable, call, path or type, rather than a literal."""
    if value[0] == "/" and quoted and len(value) >= 32 and not _FOLDER.match(value) and _mixed_enough(value):
        return False  # base64
    if value[0] in "$/%&@#*[{(~.\\":
        return True
    if "(" in value or "[" in value or "{" in value:
        return not quoted
    if quoted:
        return False
    # An unquoted word without digits is a name; with digits, one of many words joined is too.
    if not _IDENTIFIER.fullmatch(value):
        return False
    return (
        "." in value
        or not any(c.isdigit() for c in value.rstrip(";,)"))
        or _TYPE.fullmatch(value) is not None
    )


def _password(value: str) -> bool:
    """Letters and something that is no letter, and not one word with a number after it."""
    letters = sum(map(str.isalpha, value))
    if not letters:
        return len(set(value)) > 4 and not value.isdigit()
    return (
        (letters < len(value) or _scrambled(value)) and len(set(value)) > 4 and not _COMMON.fullmatch(value)
    )


_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def _scrambled(value: str) -> bool:
    """Letters whose case changes more often than in joined words."""
    return len(value) >= 12 and len(value) < 3 * len(_CAMEL.findall(value))


_COMMON = re.compile(
    r"(?i)(?:my|the|user|test|demo|your)?_?(?:pass(?:word|wd)?|pwd|secret|token|admin|root|user|test|demo|foo|bar|abc|login|key|qwerty|letmein|welcome)[_-]?\d{0,4}!?"
)


# -- what random is -----------------------------------------------------------------------------------

_SAMPLES = (
    "example", "sample", "your", "xxxx", "placeholder", "redacted", "insert", "replace", "....", "****",
    "####", "00000000", "_here", "-here", "tokenhere", "keyhere", "stringhere", "abcdefghijkl",
)  # fmt: skip
_PLACEHOLDERS = (
    "change", "dummy", "fake", "mock", "todo", "fixme", "secret_key", "my-secret", "mysecret",
    "my_secret", "mytoken", "my-token", "mypassword", "my-password", "my_password", "passw0rd",
    "p4ssw0rd", "undefined", "string", "process.env", "environ",
    "getenv", "secrets.", "vars.", "env.", "config.", "settings.", "options.", "self.", "this.", "none",
    "null", "true", "false", "boolean", "123456", "abc123", "foobar", "password", "<", ">", "${", "$(",
    "{{", "}}", "#{", "%(", "...", "***", "[",
)  # fmt: skip
_SAMPLE, _PLACEHOLDER = (
    re2.compile("|".join(map(re2.escape, words)).encode())
    for words in (_SAMPLES, (*_SAMPLES, *_PLACEHOLDERS))
)
_WHOLE = frozenset((
    "pass", "passwd", "secret", "token", "test", "tests", "admin", "root", "user", "guest", "postgres",
    "mysql", "redis", "rabbitmq", "default", "none", "null", "empty", "value", "key", "string", "text",
    "bearer", "basic", "foo", "bar", "baz", "abc", "qwerty", "required", "optional", "invalid", "missing",
    "unknown", "wrong", "private", "public", "hidden", "scott", "tiger",
))  # fmt: skip


def _sample(value: str) -> bool:
    """Written to show a shape: `AKIAIOSFODNN7EXAMPLE`, `xoxb-XXXX`, `AIzaSyabcdefghijkl…`."""
    lower = value.lower()
    return _few(lower) or _SAMPLE.search(lower.encode()) is not None


def _few(lower: str) -> bool:
    """So few different characters that nothing random has made them."""
    size = len(lower)
    return len(set(lower)) < min(7, size // 2) or (size >= 20 and len(set(lower[-16:])) < 6)


def _masked(text: str, end: int) -> bool:
    """Whether the value goes on in dots or stars: somebody has cut it already."""
    return text[end : end + 2] in ("..", "**", "##", "xx", "XX", "??")


def placeholder(value: str) -> bool:
    """Stands for a secret and is none: `changeme`, `<your key>`, `${VAR}`, `xxxx`."""
    lower = value.lower()
    if lower.strip("\"'`.,;:!?()[]{}<>-_") in _WHOLE or lower[:1] in "$%":
        return True
    if lower.startswith("__") or lower.endswith("__"):
        return True
    return _few(lower) or _PLACEHOLDER.search(lower.encode()) is not None


def _mixed(value: str) -> bool:
    body = value[4:]
    classes = any(c.isdigit() for c in body) + any(c.islower() for c in body) + any(c.isupper() for c in body)
    return classes == 3 or (classes == 2 and _random(body, 3.4))


def _mixed_enough(value: str) -> bool:
    """Digits among letters, and no words and numbers strung together, as in `X509WorkloadIdentity`."""
    digits = sum(c.isdigit() for c in value)
    parts = _JOINTS.split(value)
    stems = (part.rstrip(string.digits) or part for part in parts)
    words = sum(len(stem) for stem in stems if len(stem) > 2 and _WORD.fullmatch(stem))
    return 0 < digits < len(value) and (len(parts) < 2 or words < 0.5 * len(value))


def _random(value: str, bits: float) -> bool:
    """Whether a character carries at least `bits` on average."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values()) >= bits


# -- blocks -------------------------------------------------------------------------------------------

_LONGEST_KEY = 32_768
_BODY = re.compile(r"(?:\s|\[[^\]\n]{1,32}\] |\\[rn]|[A-Za-z-]{3,20}: [^\n]{0,80}\n){0,12}[A-Za-z0-9+/]{16}")
_TRUNCATED = re.compile(r"(?:[A-Za-z0-9+/=\s\\:,]|-(?!-))*")


def _pem(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[Span]:
    closing = 0
    for start, end in spans:
        if not _BODY.match(text, end, end + 1200):
            continue
        if closing < end and closing != -1:
            closing = text.find("-----END", end)
        if closing != -1 and closing - end <= _LONGEST_KEY:
            line = text.find("-----", closing + 8)
            stop = line + 5 if line != -1 and line - closing < 80 else closing + 8
        else:
            rest = _TRUNCATED.match(text, end, end + _LONGEST_KEY)
            stop = rest.end() if rest is not None else end
        yield "PRIVATE_KEY", start, stop, 1.0


def _encoded_pem(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[Span]:
    for start, end in spans:
        if b"PRIVATE KEY" in base64.b64decode(text[start : start + 64]):
            yield "PRIVATE_KEY", start, end, 0.95


_DATA = re.compile(r"(?m)^([ \t]*)(?:data|stringData):[ \t]*\r?$")
_ENTRY = re.compile(
    r"([ \t]+)[\"']?[\w.-]+[\"']?:[ \t]*(?:[|>][-+]?[ \t]*\n[ \t]+)?"
    r"[\"']?([A-Za-z0-9+/]{8,}={0,2})[\"']?[ \t]*\r?$",
    re.MULTILINE,
)


def _kubernetes(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[Span]:
    """The values below `data:` of every document of the text, once one of them is a Secret."""
    at = 0
    for block in _DATA.finditer(text):
        if block.start() < at:
            continue
        depth = len(block.group(1))
        at = block.end() + 1
        while at < len(text):
            line_end = text.find("\n", at)
            line_end = len(text) if line_end == -1 else line_end
            line = text[at:line_end]
            indent = len(line) - len(line.lstrip(" \t"))
            if line.strip() and (
                indent < depth or (indent == depth and depth == 0) or line.startswith("---")
            ):
                break
            if entry := _ENTRY.match(text, at):
                yield "KUBERNETES_SECRET", entry.start(2), entry.end(2), 0.8
                line_end = entry.end()
            at = line_end + 1


_NAMED: dict[str, Callable[[str, Iterator[tuple[int, int, int]]], Iterator[Span]]] = {
    ASSIGNMENT: _assigned,
    SPACED: _spaced,
    FARTHER: _spaced,
}
"""Readers of what stands after a name; they are told where the name begins too."""
_UNNAMED: dict[str, Callable[[str, Iterator[tuple[int, int]]], Iterator[Span]]] = {
    BEFORE: _before,
    PEM: _pem,
    ENCODED_PEM: _encoded_pem,
    KUBERNETES: _kubernetes,
}
_SPECIAL = (*_NAMED, *_UNNAMED)
_SET = PatternSet((*_SPECIAL, *(shape.pattern for shape in SHAPES)))
