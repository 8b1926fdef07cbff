"""Stand-ins for personal data, and the way back.

A stand-in is made from the type and the value with HMAC under a key of the session alone: the same value
has the same one in every turn and on every worker, without shared state, and none in another session. It
keeps the shape of the value where a model reasons about the shape:

- an e-mail address is one under `example.invalid`, which never receives mail (RFC 2606);
- a telephone number is one under +999, a country code that nobody has;
- a card number begins with 9999, an issuer that nobody has, and fails the check digit: it can be nobody's,
  and no detector takes it for a card again. Separators stay where they were;
- everything else is `<TYPE_k3w7qd52xa>`.

Two values never share a stand-in, and one that a text already holds without our doing is not taken: both
would need a collision of 39 bits at least, and are then avoided by the next one in line. The way back is a
map, kept by the caller as bytes that AES-GCM closes; merging two maps of a session loses nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterator
from json import dumps, loads

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.screening.pii_validators import luhn

LONGEST = 112
"""Characters of the longest stand-in, however a model spelled it."""

_FORMAT = b"\x01"
_NONCE = 12
_ID = 10
_DOMAIN = "example.invalid"
_NUMBERS = frozenset(("PHONE_NUMBER", "CREDIT_CARD"))
_PHONE_PREFIX, _CARD_PREFIX = "999", "9999"
_PHONE_DIGITS = 15
_CARD_DIGITS = 19
_WORD, _WORDS = 12, 5
_LEAST_KEY = 16


MOST = 10_000
"""Stand-ins that a session can have: their map is read and written whole."""


class VaultError(Exception):
    """The stored map is not one of this session's, or was changed."""


class VaultFull(Exception):  # noqa: N818 - read as a state
    """The session has as many stand-ins as it can have."""


class Vault:
    """The stand-ins of one session. Not shared between threads."""

    def __init__(self, key: bytes, session: str) -> None:
        """`key` is the installation's secret, 16 bytes at least; `session` names the session, its owner
        included, since whoever has both can read the map. Raises `ValueError` for a short key."""
        if len(key) < _LEAST_KEY:
            raise ValueError(f"a vault's key needs {_LEAST_KEY} bytes, got {len(key)}")
        self._session = session.encode()
        self._naming = hmac.digest(key, b"pseudonyms\0" + self._session, hashlib.sha256)
        self._closing = hmac.digest(key, b"vault\0" + self._session, hashlib.sha256)
        self._made: dict[tuple[str, str], str] = {}
        self._values: dict[str, tuple[str, str, str]] = {}
        """By what identifies a stand-in in whatever spelling: the type, the value, the stand-in."""
        self.changed = False
        """Whether there is anything that the last `dump` or `load` did not have."""

    def __len__(self) -> int:
        return len(self._made)

    # -- there ----------------------------------------------------------------------------------------

    def pseudonym(self, type_: str, value: str, text: str = "") -> str:
        """The stand-in for `value`. `text` is what it will be put into: what stands there already and is
        not this session's is not taken. Raises `VaultFull`."""
        if (made := self._made.get((type_, value))) is not None:
            return made
        if len(self._made) >= MOST:
            raise VaultFull
        for candidate in self._candidates(type_, value):
            identity = _identity(candidate)
            if identity not in self._values and candidate not in text:
                self._keep(type_, value, candidate)
                self.changed = True
                return candidate
        raise AssertionError("the candidates have no end")

    def known(self, pseudonym: str) -> bool:
        """Whether this is a stand-in of this session, in any spelling that `restore` reads."""
        return _identity(pseudonym) in self._values

    def _keep(self, type_: str, value: str, pseudonym: str) -> None:
        self._made[type_, value] = pseudonym
        self._values[_identity(pseudonym)] = (type_, value, pseudonym)

    def _candidates(self, type_: str, value: str) -> Iterator[str]:
        attempt = 0
        while True:
            seed = f"{type_}\0{value}\0{attempt}".encode("utf-8", "surrogatepass")
            digest = hmac.digest(self._naming, seed, hashlib.sha256)
            yield _shaped(type_, value, digest)
            attempt += 1

    # -- and back -------------------------------------------------------------------------------------

    def restore(self, text: str, *, json: bool = False) -> str:
        """`text` with every stand-in of this session replaced by its value, to the character.

        Stand-ins are also read in other case, without their brackets, with the brackets or underscores
        escaped (JSON, HTML, Markdown), and numbers with other separators. With `json`, `text` is inside of
        JSON, so values are put in as JSON strings have them.
        """
        if not self._values:
            return text

        parts: list[str] = []
        done = 0
        for start, end, value in self._occurrences(text):
            parts += (text[done:start], dumps(value, ensure_ascii=False)[1:-1] if json else value)
            done = end
        return "".join((*parts, text[done:]))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where stand-ins of this session are in `text`, in order."""
        return [(start, end) for start, end, _ in self._occurrences(text)]

    def _occurrences(self, text: str) -> Iterator[tuple[int, int, str]]:
        for match in _STAND_IN.finditer(text):
            start, end = match.span()
            if found := self._values.get(_identity(match.group())):
                yield start, end, found[1]
            elif match.group()[-1].isdigit() and match.group().lstrip("+").startswith("9"):
                # More digits follow the number.
                places = [digit.end() for digit in _DIGIT.finditer(text, start, end)]
                for size in range(_PHONE_DIGITS, min(_CARD_DIGITS, len(places) - 1) + 1):
                    stop = places[size - 1]
                    if not text[stop].isdigit() and (found := self._values.get(_identity(text[start:stop]))):
                        yield start, stop, found[1]
                        break

    # -- keeping --------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """The map, closed under the session's key. Never the same bytes twice."""
        plain = dumps([[type_, value, made] for (type_, value), made in self._made.items()]).encode()
        nonce = os.urandom(_NONCE)
        self.changed = False
        return _FORMAT + nonce + AESGCM(self._closing).encrypt(nonce, plain, _FORMAT + self._session)

    def merge(self, stored: bytes) -> None:
        """Takes over the entries of a `dump`. Raises `VaultError` when it is not this session's."""
        if stored[:1] != _FORMAT:
            raise VaultError("not a vault of this version")
        nonce, closed = stored[1 : 1 + _NONCE], stored[1 + _NONCE :]
        try:
            plain = AESGCM(self._closing).decrypt(nonce, closed, _FORMAT + self._session)
        except (InvalidTag, ValueError):
            raise VaultError("not this session's vault, or changed") from None
        for type_, value, made in loads(plain):
            # Two workers can have given one stand-in away at the same time; the stored map holds, and the
            # other value gets its next one.
            if (other := self._values.get(_identity(made))) and other[:2] != (type_, value):
                self._made.pop(other[:2], None)
            self._keep(type_, value, made)

    @classmethod
    def load(cls, key: bytes, session: str, stored: bytes) -> Vault:
        """The vault that was dumped. Raises as `merge` and the constructor do."""
        vault = cls(key, session)
        vault.merge(stored)
        return vault


# -- shapes -------------------------------------------------------------------------------------------


def _shaped(type_: str, value: str, digest: bytes) -> str:
    identity = base64.b32encode(digest[:7]).decode().lower()[:_ID]
    if type_ == "EMAIL_ADDRESS":
        return f"user-{identity}@{_DOMAIN}"
    if type_ == "PHONE_NUMBER":
        digits = _PHONE_PREFIX + _decimal(digest, _PHONE_DIGITS - len(_PHONE_PREFIX))
        return f"+{digits[:3]} {digits[3:7]} {digits[7:11]} {digits[11:]}"
    places = sum(c.isdigit() for c in value)
    if type_ == "CREDIT_CARD" and 16 <= places <= 19:
        digits = _CARD_PREFIX + _decimal(digest, places - len(_CARD_PREFIX))
        if luhn(digits):
            digits = digits[:-1] + str((int(digits[-1]) + 1) % 10)
        fresh = iter(digits)
        return "".join(next(fresh) if c.isdigit() else c for c in value)
    return f"<{_label(type_)}_{identity}>"


def _label(type_: str) -> str:
    """The type as `restore` recognises it: at most five words of letters and digits."""
    words = [word[:_WORD].upper() for word in re.findall(r"[A-Za-z0-9]+", type_)[:_WORDS]]
    return "_".join(words) if words and words[0][0].isalpha() else "_".join(("X", *words[: _WORDS - 1]))


def _decimal(digest: bytes, places: int) -> str:
    return f"{int.from_bytes(digest[:16]) % 10**places:0{places}d}"


_OPEN = r"(?:<|&lt;|\\u003c|(?<![A-Za-z0-9]))"
_CLOSE = r"(?:>|&gt;|\\u003e|(?![A-Za-z0-9]))"
_TYPE = rf"[A-Za-z][A-Za-z0-9]{{0,{_WORD - 1}}}(?:\\?_[A-Za-z0-9]{{1,{_WORD}}}){{0,{_WORDS - 1}}}"
_STAND_IN = re.compile(
    rf"{_OPEN}{_TYPE}\\?_[a-z2-7]{{{_ID}}}{_CLOSE}"
    rf"|(?<![A-Za-z0-9])user-[a-z2-7]{{{_ID}}}@example\.invalid"
    r"|(?<![A-Za-z0-9])\+?9[ .-]?9[ .-]?9(?:[ .()-]{0,2}\d){12,16}(?!\d)",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_ESCAPES = re.compile(r"\\u003[ce]|&[lg]t;|[\\<>]", re.IGNORECASE)


def _identity(pseudonym: str) -> str:
    """What is the same in every spelling of a stand-in."""
    if "@" not in pseudonym and "_" not in pseudonym:
        return re.sub(r"\D", "", pseudonym)
    return _ESCAPES.sub("", pseudonym).lower()
