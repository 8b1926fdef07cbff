"""What a page of the documentation holds to be tried: its fenced blocks, and the commands in them.

A command of a `console` block begins with `$ `; a line that ends with a backslash, and an indented line behind it,
belong to it. What follows until the next command is what the page shows of its output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE = re.compile(r"# (~?[\w./-]+\.(?:yaml|toml|py))$")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page, as one line, and the lines that the page shows of its output."""

    page: str
    line: int
    text: str
    shown: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: $ {self.text}"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `page` is relative to the repository, `line` that of its first line."""

    page: str
    line: int
    language: str
    text: str
    heading: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that it is, when its first line is a comment with nothing but a path."""
        found = _FILE.match(self.text.split("\n", 1)[0])
        return found[1] if found else None

    def commands(self) -> list[Command]:
        """The commands of a console block, in order."""
        found: list[Command] = []
        shown: list[str] = []
        parts: list[str] = []
        begun = 0
        open_ended = False

        def close() -> None:
            if parts:
                found.append(Command(self.page, begun, "\n".join(parts), tuple(shown)))

        for number, line in enumerate(self.text.splitlines()):
            if line.startswith("$ "):
                close()
                parts, shown, begun = [line[2:]], [], self.line + number
            elif not parts:
                raise ValueError(f"{self.place}: a console block begins with a command")
            elif open_ended or (line.startswith("    ") and not shown):
                parts.append(line.strip())
            else:
                shown.append(line)
                continue
            open_ended = line.endswith("\\") or _quote_is_open("\n".join(parts))
        close()
        return found


def _quote_is_open(text: str) -> bool:
    """Whether a shell would wait for a quote to end."""
    quote = ""
    for letter in re.sub(r"\\.", "", text, flags=re.DOTALL) if "'" not in text else text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#":
            # A comment may have an apostrophe.
            break
    return bool(quote)


@lru_cache
def blocks(path: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page."""
    return tuple(_blocks(path))


def _blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in _FENCE.finditer(text):
        headings = _HEADING.findall(_FENCE.sub("", text[: found.start()]))
        line = text.count("\n", 0, found.start(2)) + 1
        yield Block(
            str(path.relative_to(ROOT)), line, found[1], found[2], headings[-1].strip() if headings else ""
        )


def every(language: str) -> list[Block]:
    """The blocks of one language, of all pages."""
    return [block for path in PAGES for block in blocks(path) if block.language == language]
