"""YAML text to plain data that remembers where each value was written.

A policy is a small language of mappings, lists and scalars, so YAML is read from its parser's events and
never by a constructor: no tag can build an object, and size, depth and the growth of aliases are bounded
before anything is expanded. Scalars follow YAML 1.2, where `on`, `off`, `yes` and `no` are words: a policy
says `mode: off` and `on: [...]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_048_576
"""Of all files of a policy together. The largest real ones are some tens of kilobytes."""
MAX_DEPTH = 32
"""The language itself is seven levels deep."""
MAX_NODES = 100_000
"""Values after aliases are expanded; nine lines of aliases to aliases make a billion."""
TOO_MANY = f"got more than {MAX_NODES:,} values, expected fewer"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written; lines count from 1, 0 means the file as a whole."""

    file: str
    line: int


@dataclass(slots=True)
class Node:
    """A value in the text: a scalar, a list of nodes, or a mapping of keys to their place and node."""

    place: Place
    value: Any
    size: int = 1
    """Values in it, itself included, aliases expanded."""
    height: int = 1
    """Levels from here down, aliases expanded."""


class DocumentError(Exception):
    """Text that is no readable document: the place, the path, and what is wrong."""

    def __init__(self, place: Place, path: KeyPath, problem: str) -> None:
        super().__init__(problem)
        self.place = place
        self.path = path
        self.problem = problem


@dataclass(slots=True)
class Document:
    """Plain data (dict, list, str, int, Decimal, bool, None) as written, and the place of each value."""

    data: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)
    file: str = ""

    def place(self, path: KeyPath) -> Place:
        """Where the value at `path` is written; for one that is not, where the nearest thing around it is."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path[:-1]
        return self.places.get((), Place(self.file, 1))

    def at(self, path: KeyPath) -> Any:
        """The value at `path` as written; `None` where there is none."""
        return value_at(self.data, path)


def value_at(data: Any, path: KeyPath) -> Any:
    """The value at `path` in plain data; `None` where there is none."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and 0 <= part < len(data):
            data = data[part]
        else:
            return None
    return data


def read(text: str, file: str) -> tuple[Node | None, list[DocumentError]]:
    """The one document in `text` (`None` when there is none), and the problems met on the way.

    After a problem of syntax or size the node is `None`; after a duplicate key it is what could be read.
    """
    reader = _Reader(file)
    try:
        return reader.document(yaml.parse(_covered(text), Loader=_LOADER)), reader.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "not readable"
        problem = DocumentError(Place(file, mark.line + 1 if mark else 1), (), f"not valid YAML: {said}")
    except (yaml.YAMLError, UnicodeError):
        problem = DocumentError(
            Place(file, _odd_line(text)), (), "not valid YAML: a character is not allowed"
        )
    except DocumentError as found:
        problem = found
    return None, [*reader.problems, problem]


_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*(?::-[^{}\n]*)?)\}")
_COVERED = re.compile("\\$\ue000([^\ue001]*)\ue001")


def _covered(text: str) -> str:
    """`text` with the braces of references replaced, on the same lines.

    In `{api_key: ${NAME}}` YAML takes the inner braces for a mapping; people write it all the same. Two
    characters for private use stand in for the braces until the scalar is read.
    """
    return _REFERENCE.sub("$\ue000\\1\ue001", text)


def _uncovered(text: str) -> str:
    return _COVERED.sub(r"${\1}", text)


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _odd_line(text: str) -> int:
    """The line of the first character that YAML does not allow."""
    odd = re.search("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]", text)
    return text.count("\n", 0, odd.start()) + 1 if odd else 1


class _Reader:
    """Builds nodes from parser events; recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[DocumentError] = []
        self.anchors: dict[str, Node] = {}

    def document(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise DocumentError(
                        self._place(event), (), "got a second document, expected one per file"
                    )
                root = self.node(next(events), events, ())
        empty = root is not None and root.value is None
        return None if empty else root

    def node(self, event: Any, events: Iterator[Any], path: KeyPath) -> Node:
        place = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise DocumentError(
                    place, path, f"got the alias *{event.anchor}, expected one whose anchor is complete above"
                )
            target = self.anchors[event.anchor]
            return Node(place, target.value, target.size, target.height)
        if len(path) >= MAX_DEPTH:
            raise self._too_deep(place, path)
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise DocumentError(place, path, "got a YAML tag, expected plain values")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(place, _scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(events, place, path)
        else:
            node = self._mapping(events, place, path)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _list(self, events: Iterator[Any], place: Place, path: KeyPath) -> Node:
        items: list[Node] = []
        node = Node(place, items)
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            item = self.node(event, events, (*path, len(items)))
            items.append(item)
            self._grow(node, item, path)
        return node

    def _mapping(self, events: Iterator[Any], place: Place, path: KeyPath) -> Node:
        entries: dict[str, tuple[Place, Node]] = {}
        inherited: list[Node] = []
        node = Node(place, entries)
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            at = self._place(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise DocumentError(at, path, "got a key that is no plain text, expected a word")
            key = _uncovered(event.value)
            value = self.node(next(events), events, (*path, key))
            self._grow(node, value, path)
            if key == "<<" and event.implicit[0]:
                inherited += value.value if isinstance(value.value, list) else [value]
            elif key in entries:
                problem = (
                    f"got this key a second time, expected it once (first in line {entries[key][0].line})"
                )
                self.problems.append(DocumentError(at, (*path, key), problem))
            else:
                entries[key] = (at, value)
        for base in inherited:
            if not isinstance(base.value, dict):
                raise DocumentError(
                    base.place, (*path, "<<"), "got something else, expected a mapping to merge"
                )
            for key, entry in base.value.items():
                entries.setdefault(key, entry)
        return node

    def _grow(self, node: Node, part: Node, path: KeyPath) -> None:
        node.size += part.size
        if node.size > MAX_NODES:
            raise DocumentError(part.place, path[:4], TOO_MANY)
        node.height = max(node.height, part.height + 1)
        if len(path) + node.height > MAX_DEPTH:
            raise self._too_deep(part.place, path)

    def _too_deep(self, place: Place, path: KeyPath) -> DocumentError:
        return DocumentError(place, path[:4], f"got more than {MAX_DEPTH} levels, expected fewer")

    def _place(self, event: Any) -> Place:
        return Place(self.file, event.start_mark.line + 1)


_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _scalar(event: Any) -> str | int | Decimal | bool | None:
    text = _uncovered(event.value)
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    # A number too long to mean anything stays text, and is refused where a number is wanted.
    if len(text) > 40:
        return text
    if re.fullmatch(r"[-+]?[0-9]+", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,2})?", text, re.ASCII):
        return Decimal(text)
    return text


def merge(nodes: list[Node]) -> tuple[Node, list[DocumentError]]:
    """Several files as one: mappings merge by key, lists concatenate, of other values the last stays."""
    problems: list[DocumentError] = []
    merged = nodes[0]
    for node in nodes[1:]:
        merged = _merge(merged, node, (), problems)
    return merged, problems


def _merge(first: Node, second: Node, path: KeyPath, problems: list[DocumentError]) -> Node:
    size = first.size + second.size
    if isinstance(first.value, dict) and isinstance(second.value, dict):
        entries = dict(first.value)
        for key, (place, value) in second.value.items():
            if key in entries:
                before, old = entries[key]
                entries[key] = (place, _merge(old, value, (*path, key), problems))
                if isinstance(old.value, dict):
                    entries[key] = (before, entries[key][1])
            else:
                entries[key] = (place, value)
        return Node(first.place, entries, size)
    if isinstance(first.value, list) and isinstance(second.value, list):
        return Node(first.place, first.value + second.value, size)
    if isinstance(first.value, dict | list) or isinstance(second.value, dict | list):
        seen = f"{first.place.file}:{first.place.line}"
        problem = f"got {_kind(second)}, expected {_kind(first)} as in {seen}"
        problems.append(DocumentError(second.place, path, problem))
        return first
    return second


def _kind(node: Node) -> str:
    match node.value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return "a plain value"


def flatten(root: Node) -> Document:
    """The plain data of a tree, and its places. Raises nothing: the tree's size is bounded."""
    places: dict[KeyPath, Place] = {(): root.place}

    def plain(node: Node, path: KeyPath) -> Any:
        if isinstance(node.value, dict):
            data = {}
            for key, (place, value) in node.value.items():
                places[(*path, key)] = place
                data[key] = plain(value, (*path, key))
            return data
        if isinstance(node.value, list):
            items = []
            for index, item in enumerate(node.value):
                places[(*path, index)] = item.place
                items.append(plain(item, (*path, index)))
            return items
        return node.value

    return Document(plain(root, ()), places, root.place.file)
