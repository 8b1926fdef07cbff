"""Whether a tool call's arguments fit the JSON Schema that the request itself offers.

Schemas come with requests, so they are as hostile as any input. `jsonschema-rs` was chosen by measurement
(docs/dependencies.md): it never fetches a reference and its patterns run in linear time. What it does not
bound is the work that references and alternatives multiply, nor that of collecting every error; so each
schema is surveyed once, and arguments are validated only where the survey bounds the work. A schema that
cannot be used (foreign references, unknown drafts, too large) makes the answer None: nobody knows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs
import orjson

from gateway.domain import Json

MAX_NODES = 5000
"""Values in a schema; the largest definitions of real agents have some hundreds. 15 ms to compile."""
MAX_DEPTH = 64
"""Of schemas, references followed; of arguments, where the schema is recursive."""
MAX_WORK = 1_000_000
"""Schema nodes times values that they may be applied to: some 100 ms at worst, 1 ms for real schemas."""
MAX_PATTERN_WORK = 1_000_000
"""Patterns times characters that they may be applied to; above it patterns are left out."""
MAX_PATTERNS = 32
"""In a schema; above it patterns are left out."""
MAX_KEPT = 200_000
"""Values in all schemas that stay compiled."""
_FEW = 20_000
"""Work up to which every error is collected, not just the first."""
_PROBLEMS = 3
_SHOWN = 5
_WIDTH = 60
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1 << 19, dfa_size_limit=1 << 20)
"""Bytes; compiling a pattern of this size takes a millisecond."""

_BESIDE = ("allOf", "anyOf", "oneOf")
_INSTEAD = ("not", "if", "then", "else")
_OF_OBJECTS = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_OF_LISTS = ("items", "prefixItems", "additionalItems", "contains", "unevaluatedItems")
_DATA = frozenset(("const", "enum", "default", "examples", "example"))


class _Unusable(Exception):  # noqa: N818 - a property of the schema
    """The schema cannot be surveyed, or multiplies work beyond any bound."""


class _Survey:
    """What validating against a schema can cost, references followed.

    `work` is how many schema nodes one value may meet, `branching` how often one child may meet a schema
    that leads back to itself: above 1 the work grows exponentially with the depth of the arguments.
    """

    def __init__(self, root: Json) -> None:
        self._root = root
        self._known: dict[int, tuple[int, int, bool]] = {}
        self._open: dict[int, int] = {}
        self._of_name: dict[str, int] = {}
        self._any_name = self._any_item = 0
        self.names_by_pattern = False
        self.compiled_patterns = 0
        self.work, self.patterns, self.recursive = self._visit(root, 0, 0, None)
        self.branching = max(self._any_item, max(self._of_name.values(), default=0) + self._any_name)

    def _visit(self, node: Any, depth: int, below: int, via: str | None) -> tuple[int, int, bool]:
        """Work, patterns, and whether it leads back. `below` counts the steps into the arguments, `via` is
        the last of them: `.` and a name, `*` for any name, `[` for any element."""
        if type(node) is not dict:
            return 1, 0, False
        if depth > MAX_DEPTH:
            raise _Unusable
        key = id(node)
        if key in self._open:
            if self._open[key] == below:
                raise _Unusable
            self._leads_back(via)
            return 1, 0, True
        if key in self._known:
            known = self._known[key]
            if known[2]:
                self._leads_back(via)
            return known
        if (depth and isinstance(node.get("$id"), str)) or "$dynamicRef" in node or "$recursiveRef" in node:
            raise _Unusable
        self._open[key] = below
        work, patterns, recursive = self._own_work(node)
        for child, deeper, through in self._children(node, via):
            more = self._visit(child, depth + 1, below + deeper, through)
            work, patterns, recursive = work + more[0], patterns + more[1], recursive or more[2]
        if "unevaluatedProperties" in node or "unevaluatedItems" in node:
            work *= 3
        if work > MAX_WORK:
            raise _Unusable
        del self._open[key]
        self._known[key] = work, patterns, recursive
        return self._known[key]

    def _own_work(self, node: Json) -> tuple[int, int, bool]:
        options = node.get("enum")
        entries = 0
        if isinstance(options, list):
            # Mappings are compared key by key.
            entries = len(options) * (16 if any(isinstance(o, (dict, list)) for o in options) else 1)
        required = node.get("required")
        names = len(required) if isinstance(required, list) else 0
        own = node.get("patternProperties")
        by_pattern = len(own) if isinstance(own, dict) else 0
        self.names_by_pattern = self.names_by_pattern or by_pattern > 0
        patterns = by_pattern + isinstance(node.get("pattern"), str)
        self.compiled_patterns += patterns
        return 1 + entries + names, patterns, False

    def _children(self, node: Json, via: str | None) -> Iterator[tuple[Any, int, str | None]]:
        ref = node.get("$ref")
        if isinstance(ref, str):
            yield self._target(ref), 0, via
        for key in _BESIDE:
            if isinstance(several := node.get(key), list):
                yield from ((child, 0, via) for child in several)
        for key in _INSTEAD:
            if key in node:
                yield node[key], 0, via
        for key in ("dependentSchemas", "dependencies"):
            if isinstance(named := node.get(key), dict):
                yield from ((child, 0, via) for child in named.values())
        if isinstance(named := node.get("properties"), dict):
            yield from ((child, 1, "." + name) for name, child in named.items())
        if isinstance(named := node.get("patternProperties"), dict):
            yield from ((child, 1, "*") for child in named.values())
        for key in _OF_OBJECTS:
            if key in node:
                yield node[key], 1, "*"
        for key in _OF_LISTS:
            inner = node.get(key)
            elements = inner if isinstance(inner, list) else [] if inner is None else [inner]
            yield from ((child, 1, "[") for child in elements)

    def _leads_back(self, via: str | None) -> None:
        if via == "[":
            self._any_item += 1
        elif via == "*":
            self._any_name += 1
        elif via is not None:
            self._of_name[via] = self._of_name.get(via, 0) + 1

    def _target(self, ref: str) -> Any:
        """What a reference inside the schema points at."""
        if ref == "#":
            return self._root
        if not ref.startswith("#/"):
            raise _Unusable
        place: Any = self._root
        for token in unquote(ref[2:]).split("/"):
            token = token.replace("~1", "/").replace("~0", "~")
            if isinstance(place, dict) and token in place:
                place = place[token]
            elif isinstance(place, list) and token.isdecimal() and len(token) < 6 and int(token) < len(place):
                place = place[int(token)]
            else:
                raise _Unusable
        return place


class _Compiled:
    """A schema ready for use, and what its use can cost."""

    __slots__ = ("_plain", "_schema", "_survey", "_validator", "nodes")

    def __init__(self, schema: Json, nodes: int) -> None:
        self.nodes = nodes
        self._schema = schema
        self._survey = _Survey(schema)
        validator = None
        if self._survey.compiled_patterns <= MAX_PATTERNS:
            validator = _validator(schema)
        elif self._survey.names_by_pattern:
            raise _Unusable
        validator = validator or _validator(_without_patterns(schema, 0))
        if validator is None:
            raise _Unusable
        self._validator = validator
        self._plain: jsonschema_rs.Validator | None = None

    def validator(self, arguments: Any, text: str) -> jsonschema_rs.Validator | None:
        """What to validate these arguments with; None when it would cost too much."""
        if self._work(arguments, text) > MAX_WORK:
            return None
        if self._survey.patterns * len(text) <= MAX_PATTERN_WORK:
            return self._validator
        if self._survey.names_by_pattern:
            return None
        self._plain = self._plain or _validator(_without_patterns(self._schema, 0))
        return self._plain

    def problems(self, arguments: Any, text: str) -> tuple[str, ...] | None:
        """As `Schemas.problems`."""
        validator = self.validator(arguments, text)
        if validator is None or validator.is_valid(arguments):
            return None if validator is None else ()
        if self._work(arguments, text) <= _FEW:
            errors = list(itertools.islice(validator.iter_errors(arguments), _PROBLEMS))
        else:
            # The first alone: collecting all of them costs more than finding that there is one.
            try:
                validator.validate(arguments)
            except jsonschema_rs.ValidationError as error:
                errors = [error]
        return tuple(_said(error) for error in errors)

    def _work(self, arguments: Any, text: str) -> int:
        work = self._survey.work * (1 + text.count(",") + text.count("{") + text.count("["))
        if not self._survey.recursive:
            return work
        depth = _depth_of(arguments)
        return MAX_WORK + 1 if depth > MAX_DEPTH else work * max(1, self._survey.branching) ** depth


class Schemas:
    """The schemas of late, compiled. Forgets those used longest ago."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, _Compiled | None] = OrderedDict()
        self._nodes = 0

    def problems(self, schema: Mapping[str, Any], arguments: Any, text: str) -> tuple[str, ...] | None:
        """What is wrong with `arguments` (of which `text` is the JSON), in words for a model and at most
        three; empty when they fit, None when nobody can tell. Values of the arguments are never repeated."""
        compiled = self._compiled(schema)
        return None if compiled is None else compiled.problems(arguments, text)

    def _compiled(self, schema: Mapping[str, Any]) -> _Compiled | None:
        try:
            raw = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            return None
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if digest not in self._kept:
            return self._keep(digest, _compile(raw))
        self._kept.move_to_end(digest)
        return self._kept[digest]

    def _keep(self, digest: bytes, compiled: _Compiled | None) -> _Compiled | None:
        self._kept[digest] = compiled
        self._nodes += _weight(compiled)
        while self._nodes > MAX_KEPT:
            _, oldest = self._kept.popitem(last=False)
            self._nodes -= _weight(oldest)
        return compiled


def _weight(compiled: _Compiled | None) -> int:
    return 50 + (compiled.nodes if compiled else 0)


def _compile(raw: bytes) -> _Compiled | None:
    schema = orjson.loads(raw)
    nodes = _count(schema)
    if nodes > MAX_NODES:
        return None
    if b'"nullable":true' in raw:
        schema = _with_null(schema, 0)
    try:
        return _Compiled(schema, nodes)
    except _Unusable:
        return None


def _count(schema: Any) -> int:
    """Values in the schema; one more than allowed when there are too many."""
    nodes = 0
    open_: list[Any] = [schema]
    while open_ and nodes <= MAX_NODES:
        value = open_.pop()
        nodes += 1
        if type(value) is dict:
            open_.extend(value.values())
        elif type(value) is list:
            open_.extend(value)
    return nodes


def _depth_of(value: Any) -> int:
    """How deep arguments are nested, up to one more than allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        deeper: list[Any] = []
        for entry in level:
            if type(entry) is dict:
                deeper.extend(entry.values())
            elif type(entry) is list:
                deeper.extend(entry)
        level, depth = deeper, depth + 1
    return depth


def _validator(schema: Json) -> jsonschema_rs.Validator | None:
    """By the draft that the schema names, else the newest that takes it: lists under `items` and booleans
    under `exclusiveMinimum` are of older ones. Formats are notes, not rules."""
    older = () if "$schema" in schema else (jsonschema_rs.Draft7Validator, jsonschema_rs.Draft4Validator)
    for make in (jsonschema_rs.validator_for, *older):
        try:
            made: jsonschema_rs.Validator = make(
                schema, validate_formats=False, pattern_options=_PATTERNS, offline=True
            )
            return made
        except (ValueError, TypeError, jsonschema_rs.ReferencingError):
            continue
    return None


def _without_patterns(schema: Any, depth: int) -> Any:
    """The schema less its `pattern`s: the engine's own may lack what they use, such as lookaheads."""
    if depth > MAX_DEPTH * 2:
        raise _Unusable
    if type(schema) is dict:
        return {
            key: value if key in _DATA else _without_patterns(value, depth + 1)
            for key, value in schema.items()
            if not (key == "pattern" and isinstance(value, str))
        }
    if type(schema) is list:
        return [_without_patterns(entry, depth + 1) for entry in schema]
    return schema


def _with_null(schema: Any, depth: int) -> Any:
    """`nullable: true` of OpenAPI as JSON Schema has it."""
    if depth > MAX_DEPTH * 2:
        return schema
    if type(schema) is list:
        return [_with_null(entry, depth + 1) for entry in schema]
    if type(schema) is not dict:
        return schema
    out = {key: value if key in _DATA else _with_null(value, depth + 1) for key, value in schema.items()}
    if out.get("nullable") is True:
        if isinstance(kind := out.get("type"), str):
            out["type"] = [kind, "null"]
        if isinstance(options := out.get("enum"), list) and None not in options:
            out["enum"] = [*options, None]
    return out


# --- words for the model


def _said(error: jsonschema_rs.ValidationError) -> str:
    """One problem in words: where, and what was expected there. Never the value."""
    kind = error.kind
    at = place(error.instance_path)
    match kind:
        case jsonschema_rs.ValidationErrorKind.Required():
            return f"{place([*error.instance_path, kind.property])} is required"
        case jsonschema_rs.ValidationErrorKind.Type():
            wanted = _or([_A.get(name, name) for name in kind.types])
            return f"{at} must be {wanted}, not {_type_of(error.instance)}"
        case jsonschema_rs.ValidationErrorKind.Enum():
            return f"{at} must be one of {listed(kind.options)}"
        case jsonschema_rs.ValidationErrorKind.Constant():
            return f"{at} must be {listed([kind.expected_value])}"
        case (
            jsonschema_rs.ValidationErrorKind.AdditionalProperties()
            | jsonschema_rs.ValidationErrorKind.UnevaluatedProperties()
        ):
            names = ", ".join(repr(name[:_WIDTH]) for name in kind.unexpected[:_PROBLEMS])
            return f"{at} may not have {names}"
        case jsonschema_rs.ValidationErrorKind.Pattern():
            return f"{at} must match the pattern {kind.pattern[:_WIDTH]}"
        case _:
            pass
    limit = getattr(kind, "limit", None)
    if kind.name in _LIMITS and limit is not None:
        return f"{at} must {_LIMITS[kind.name].format(limit)}"
    return f"{at} does not fit its schema ({kind.name})"


_A = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_LIMITS = {
    "minimum": "be at least {}",
    "maximum": "be at most {}",
    "exclusiveMinimum": "be greater than {}",
    "exclusiveMaximum": "be less than {}",
    "minLength": "have at least {} characters",
    "maxLength": "have at most {} characters",
    "minItems": "have at least {} elements",
    "maxItems": "have at most {} elements",
    "minProperties": "have at least {} keys",
    "maxProperties": "have at most {} keys",
}


def place(path: list[str | int]) -> str:
    """A path in the arguments as a model reads it: `'orders[2].amount'`."""
    if not path:
        return "the arguments"
    out = ""
    for key in path[:8]:
        out += f"[{key}]" if isinstance(key, int) else f".{key[:_WIDTH]}"
    return "'" + out.removeprefix(".") + ("…" if len(path) > 8 else "") + "'"


def listed(options: list[Any] | tuple[Any, ...]) -> str:
    """Values that may be chosen from, when they are few."""
    if len(options) > _SHOWN:
        return f"{len(options)} allowed values"
    return _or([orjson.dumps(option).decode()[:_WIDTH] for option in options])


def _or(words: list[str]) -> str:
    if not words:
        return "nothing"
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a string", int: "an integer", float: "a number", list: "a list", dict: "an object"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "that")
