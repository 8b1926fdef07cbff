"""`${NAME}` and `file:/path` in the values of a policy.

`${NAME}` is the environment variable, `${NAME:-default}` has a default, `$${` is a plain `${`. A variable
that is unset or empty is missing. Values that are secrets may also say `file:/path`: the content of a
mounted file. Keys are never expanded, and a value that comes from outside is not expanded again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from gateway.policy.document import Document, KeyPath
from gateway.policy.language import is_secret_at, type_at
from gateway.policy.messages import Mistake, mistake_at, quoted

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")

HIDDEN = "**********"
"""Stands for a literal secret in what is shown, and for an unchanged one in what is sent back."""
_PLACEHOLDER = "placeholder-0123456789-{}"
_PLACEHOLDER_URL = "https://placeholder.example/v1"

MAX_SECRET_BYTES = 65_536
"""Of a secret file; a larger one is the wrong file."""


@dataclass(slots=True)
class Expansion:
    """A document with its references replaced, and what came of them."""

    data: Any
    mistakes: list[Mistake] = field(default_factory=list)
    missing: dict[KeyPath, str] = field(default_factory=dict)
    """Values that name a missing variable, with the variable's name. They stay as they are written."""
    secret_files: dict[Path, str] = field(default_factory=dict)
    """Files that were read, with the digest of what was in them."""


def expand(document: Document, env: Mapping[str, str]) -> Expansion:
    """Every reference replaced by what it stands for in `env` and in the mounted files.

    Reads files, and raises nothing: one that cannot be read is a mistake.
    """
    found = Expansion(None)
    found.data = _walk(
        document, document.data, (), lambda text, path: _value(document, text, path, env, found)
    )
    return found


def refuse(document: Document) -> Expansion:
    """For a policy that was sent: every reference is a mistake."""
    found = Expansion(document.data)

    def check(text: str, path: KeyPath) -> str:
        if "${" in text or (text.startswith("file:") and is_secret_at(path)):
            problem = f"got {quoted(text)}, expected a plain value: a policy sent by API expands nothing"
            found.mistakes.append(mistake_at(document, path, problem))
        return text

    _walk(document, document.data, (), check)
    return found


def pretend(document: Document) -> Expansion:
    """For a policy that is only tried: a placeholder stands for every variable and every secret file, and
    nothing is read. A number that is written as a variable has to have a default."""
    found = Expansion(None)
    numbers = iter(range(1, 1 << 30))

    def stand_in(text: str, path: KeyPath) -> str:
        if is_secret_at(path) and (text.startswith("file:") or text == HIDDEN):
            return _PLACEHOLDER.format(next(numbers))
        if "${" not in text:
            return text
        kind = type_at(path)
        whole_url = bool(path) and path[-1] in ("base_url", "url") and text.startswith("${")
        given = _PLACEHOLDER_URL if whole_url else ""
        if not given and kind in (str, SecretStr):
            given = _PLACEHOLDER.format(next(numbers))
        names = {match[1]: given for match in _REFERENCE.finditer(text) if match[1]}
        return _value(document, text, path, names, found)

    found.data = _walk(document, document.data, (), stand_in)
    return found


def _walk(document: Document, value: Any, path: KeyPath, replace: Any) -> Any:
    if isinstance(value, dict):
        return {key: _walk(document, part, (*path, key), replace) for key, part in value.items()}
    if isinstance(value, list):
        return [_walk(document, part, (*path, index), replace) for index, part in enumerate(value)]
    return replace(value, path) if isinstance(value, str) else value


def _value(document: Document, text: str, path: KeyPath, env: Mapping[str, str], found: Expansion) -> str:
    from_file = text.startswith("file:") and is_secret_at(path)
    if "${" not in text and not from_file:
        return text
    broken = False

    def one(match: re.Match[str]) -> str:
        nonlocal broken
        name, default = match.groups()
        if match.group() == "$${":
            return "${"
        if name is None:
            broken = True
            return ""
        value = env.get(name) or default
        if not value:
            found.missing.setdefault(path, name)
            return ""
        return value

    expanded = _REFERENCE.sub(one, text)
    if broken:
        # The text may hold a literal secret beside the slip, so only a plain value is repeated.
        got = "a broken reference" if is_secret_at(path) else quoted(text)
        problem = f'got {got}, expected ${{NAME}} or ${{NAME:-default}}; a plain "${{" is written "$${{"'
        found.mistakes.append(mistake_at(document, path, problem))
    if broken or path in found.missing:
        return text
    return _content(document, expanded, path, found) if from_file else expanded


def _content(document: Document, reference: str, path: KeyPath, found: Expansion) -> str:
    file = Path(reference.removeprefix("file:"))
    content, why = read_secret(file)
    found.secret_files[file] = secret_digest(content)
    try:
        secret = (content or b"").decode().strip()
    except UnicodeDecodeError:
        secret, why = "", "it is not UTF-8 text"
    if not secret:
        written = quoted(str(document.at(path)))
        problem = f"got {written}, expected a readable secret ({why or 'it is empty'})"
        found.mistakes.append(mistake_at(document, path, problem))
        return reference
    return secret


def read_secret(file: Path) -> tuple[bytes | None, str]:
    """The bytes of a secret file, or `None` and why there are none."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:
        return None, (getattr(error, "strerror", None) or "not a path").lower()
    if len(content) > MAX_SECRET_BYTES:
        return None, f"it is larger than {MAX_SECRET_BYTES} bytes"
    return content, ""


def secret_digest(content: bytes | None) -> str:
    """A digest of what was read, to notice that a secret was replaced."""
    return "none" if content is None else hashlib.sha256(content).hexdigest()
