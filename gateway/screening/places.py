"""Where the texts of a request stand, for detectors to read and for their findings to be acted on.

Every surface tells the texts of its conversation as items (`domain.Item`). To these come the arguments of
the calls that stand in the history, the definitions of tools, names of keys among them, and who the caller
says that asks, so that nothing is passed by which a model reads or a provider keeps.
Each has a channel, by which rules and thresholds differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.domain import Item, Json, Role, Step, Surface
from gateway.screening.base import Channel, Finding
from gateway.values import frozen

SEAM = 256
"""Characters on either side of the border between two texts that are read together."""
MOST_JOINED = 8 * SEAM
"""Short texts in a row are read together up to so many characters."""
_CHANNELS: dict[Role, Channel] = {
    Role.SYSTEM: "system",
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.TOOL: "tool",
}
_LEAST_DIGITS = 8
"""A number of so many digits may be somebody's."""
_WORD_CHARS = 32
"""A name without digits, of so many characters at most, is nobody's value and no instruction."""
_CALLS = ("_call", "mcp_approval_request")
"""How the types of items end that hold arguments."""
_ASKERS = ("user", "safety_identifier", "prompt_cache_key")


@frozen
class Key:
    """The last part of a pointer that leads to the name of a key, and not to its value."""

    name: str


Pointer = tuple[str | int | Key, ...]


@frozen
class Place:
    """A text, and where it stands."""

    channel: Channel
    text: str
    pointer: Pointer
    tool: str = ""
    """The tool whose result, arguments or definition it is."""
    spoken: bool = True
    """It is part of the conversation, and its neighbours stand beside it there."""
    label: str = ""
    """What says in front of it what it is, as a key does of its value. It is read with it, and is no part of
    it."""


def places(step: Step) -> list[Place]:
    """Every text of a request, texts that belong together in the order in which the model reads them."""
    found: list[Place] = []
    names = {call.id: call.name for item in step.items for call in item.calls if call.id}
    for item in step.items:
        channel = _CHANNELS[item.role]
        tool = names.get(item.call_id or "", "") if item.role is Role.TOOL else ""
        found += [Place(channel, text.text, text.pointer, tool) for text in item.texts]
    known = {place.pointer for place in found}
    more = (*_arguments(step), *_definitions(step), *_askers(step))
    return found + [replace(place, spoken=False) for place in more if place.pointer not in known]


def is_unreadable(step: Step) -> str:
    """What of a request no detector can read: a kind of part, or nothing."""
    if step.surface is Surface.PASSTHROUGH:
        return "passthrough"
    for item in step.items:
        for media in item.media:
            return media.kind
    if step.surface is Surface.RESPONSES and step.body.get("prompt") is not None:
        return "prompt"
    return ""


def with_texts(body: Json, texts: Mapping[Pointer, str]) -> Json:
    """The body with other texts in some places. What is given stays as it is."""
    copied: dict[Pointer, Any] = {}
    # Values first, so that their pointers still lead to them; then keys, the deepest first.
    for pointer in sorted(texts, key=lambda p: (type(p[-1]) is Key, -len(p))):
        node = copied.setdefault((), dict(body)) if not copied else copied[()]
        for depth, part in enumerate(pointer[:-1], 1):
            at = pointer[:depth]
            if at not in copied:
                inner = node[part]
                copied[at] = dict(inner) if type(inner) is dict else list(inner)
                node[part] = copied[at]
            node = copied[at]
        last = pointer[-1]
        if type(last) is Key:
            _rename(node, last.name, texts[pointer])
        else:
            node[last] = texts[pointer]
    changed: Json = copied.get((), body)
    return changed


def _rename(node: Json, old: str, new: str) -> None:
    """Another name for a key, in its place; one that the object has already gets a number."""
    free, number = new, 2
    while free in node:
        free, number = f"{new} ({number})", number + 1
    entries = [(free if key == old else key, value) for key, value in node.items()]
    node.clear()
    node.update(entries)


def items_with(items: Sequence[Item], texts: Mapping[Pointer, str]) -> tuple[Item, ...]:
    """The same for the items that were read from the body."""
    return tuple(
        replace(
            item,
            texts=tuple(
                replace(text, text=texts[text.pointer]) if text.pointer in texts else text
                for text in item.texts
            ),
        )
        if any(text.pointer in texts for text in item.texts)
        else item
        for item in items
    )


# -- borders ------------------------------------------------------------------------------------------


@frozen
class Seam:
    """A text that is put together from the ends of several, for what was cut in two."""

    channel: Channel
    text: str
    parts: tuple[tuple[int, int, int], ...]
    """`(index of the place, where its part begins in it, where it begins here)`, in order."""

    def across(
        self, findings: Sequence[Finding], own: Mapping[int, Sequence[Finding]]
    ) -> Iterator[tuple[int, Finding]]:
        """The findings that reach over a border, cut to the places they are in. One that a place has by
        itself (`own`) only seems to go on where the next begins without a space."""
        starts = [at for _, _, at in self.parts]
        ends = [*starts[1:], len(self.text)]
        for found in findings:
            touched = [i for i, start in enumerate(starts) if found.start < ends[i] and start < found.end]
            if len(touched) < 2:
                continue
            parts = []
            for i in touched:
                index, begin, at = self.parts[i]
                start, end = max(found.start, at), min(found.end, ends[i])
                parts.append((index, replace(found, start=begin + start - at, end=begin + end - at)))
            if not any(_overlaps(part, own.get(index, ())) for index, part in parts):
                yield from parts


def _overlaps(part: Finding, own: Sequence[Finding]) -> bool:
    return any(found.type == part.type and found.start < part.end and part.start < found.end for found in own)


def seams(found: Sequence[Place]) -> list[Seam]:
    """The borders between neighbouring texts of one channel."""
    out: list[Seam] = []
    group: list[int] = []
    for index, place in enumerate(found):
        if not place.spoken:
            continue
        if group and found[group[-1]].channel != place.channel:
            out += _group_seams(found, group)
            group = []
        group.append(index)
    return [*out, *_group_seams(found, group)]


def _group_seams(found: Sequence[Place], group: Sequence[int]) -> Iterator[Seam]:
    """Windows over texts in a row: the end of a long one, short ones whole, the beginning of a long one."""
    if len(group) < 2:
        return
    channel = found[group[0]].channel
    parts: list[tuple[int, int, int]] = []
    text = ""
    for index in group:
        whole = found[index].text
        if len(whole) <= 2 * SEAM and len(text) + len(whole) <= MOST_JOINED:
            parts.append((index, 0, len(text)))
            text += whole
            continue
        parts.append((index, 0, len(text)))
        text += whole[:SEAM]
        if len(parts) > 1:
            yield Seam(channel, text, tuple(parts))
        begin = max(0, len(whole) - SEAM)
        parts, text = [(index, begin, 0)], whole[begin:]
    if len(parts) > 1:
        yield Seam(channel, text, tuple(parts))


# -- beside the conversation ----------------------------------------------------------------------------


def _arguments(step: Step) -> Iterator[Place]:
    if step.surface is Surface.CHAT:
        for i, message in enumerate(_list(step.body.get("messages"))):
            yield from _chat_arguments(message, ("messages", i))
    elif step.surface is Surface.MESSAGES:
        for at, block in _blocks(step.body, "tool_use"):
            name = str(block.get("name") or "")
            yield from _strings(block.get("input"), (*at, "input"), "assistant", name)
    elif step.surface is Surface.RESPONSES:
        for i, item in enumerate(_list(step.body.get("input"))):
            if type(item) is dict and str(item.get("type")).endswith(_CALLS):
                name = str(item.get("name") or item.get("type"))
                for field in ("arguments", "input", "action", "actions", "operation"):
                    yield from _strings(item.get(field), ("input", i, field), "assistant", name)


def _chat_arguments(message: Json, at: Pointer) -> Iterator[Place]:
    calls = message.get("tool_calls")
    for j, call in enumerate(calls if isinstance(calls, list) else ()):
        for kind, field in (("function", "arguments"), ("custom", "input")):
            inner = call.get(kind) if type(call) is dict else None
            if type(inner) is dict:
                name = str(inner.get("name") or "")
                yield from _strings(inner.get(field), (*at, "tool_calls", j, kind, field), "assistant", name)
    legacy = message.get("function_call")
    if type(legacy) is dict:
        name = str(legacy.get("name") or "")
        yield from _strings(legacy.get("arguments"), (*at, "function_call", "arguments"), "assistant", name)


def _definitions(step: Step) -> Iterator[Place]:
    for key in ("tools", "functions"):
        yield from _offered(step.body.get(key), (key,))
    if step.surface is Surface.RESPONSES:
        for i, item in enumerate(_list(step.body.get("input"))):
            if type(item) is dict and item.get("type") == "additional_tools":
                yield from _offered(item.get("tools"), ("input", i, "tools"))
    elif step.surface is Surface.MESSAGES:
        for at, block in _blocks(step.body, "tool_addition"):
            tool = block.get("tool")
            if type(tool) is dict and type(inner := tool.get("definition")) is dict:
                yield from _definition(inner, (*at, "tool", "definition"))


def _offered(offered: Any, at: Pointer) -> Iterator[Place]:
    for i, tool in enumerate(offered if isinstance(offered, list) else ()):
        if type(tool) is dict:
            yield from _definition(tool, (*at, i))


def _definition(tool: Json, at: Pointer) -> Iterator[Place]:
    for kind in ("function", "custom"):
        if type(inner := tool.get(kind)) is dict:
            tool, at = inner, (*at, kind)
            break
    name = str(tool.get("name") or tool.get("type") or "")
    for field in ("description", "server_description", "parameters", "input_schema"):
        yield from _strings(tool.get(field), (*at, field), "definition", name, schema=True)
    if tool.get("type") == "namespace":
        yield from _offered(tool.get("tools"), (*at, "tools"))


def _strings(
    value: Any, at: Pointer, channel: Channel, tool: str, *, schema: bool = False, label: str = ""
) -> Iterator[Place]:
    """The texts below a value, names of keys and long numbers among them. `schema`: names are left out, since
    a schema is made of them."""
    if type(value) is str:
        if value and not (schema and is_name(value)):
            yield Place(channel, value, at, tool, label=label)
    elif type(value) is int:
        if not schema and len(str(abs(value))) >= _LEAST_DIGITS:
            yield Place(channel, str(value), at, tool, label=label)
    elif type(value) is dict:
        for key, inner in value.items():
            if not is_name(key):
                yield Place(channel, key, (*at, Key(key)), tool)
            yield from _strings(
                inner, (*at, key), channel, tool, schema=schema, label="" if schema else f"{key}: "
            )
    elif type(value) is list:
        for i, inner in enumerate(value):
            yield from _strings(inner, (*at, i), channel, tool, schema=schema, label=label)


def is_name(text: str) -> bool:
    """Whether it can be nothing but the name of something."""
    return len(text) <= _WORD_CHARS and text.isidentifier() and not any(c.isdigit() for c in text)


def _askers(step: Step) -> Iterator[Place]:
    """Whom the caller says that it asks for, where it tells that to the provider."""
    for name in _ASKERS:
        who = step.body.get(name)
        if type(who) is str and who:
            yield Place("user", who, (name,))


def _blocks(body: Json, kind: str) -> Iterator[tuple[Pointer, Json]]:
    """The blocks of one kind in Anthropic's messages, and where they stand."""
    for i, message in enumerate(_list(body.get("messages"))):
        for j, block in enumerate(_list(message.get("content"))):
            if type(block) is dict and block.get("type") == kind:
                yield ("messages", i, "content", j), block


def _list(value: Any) -> list[Json]:
    return value if isinstance(value, list) else []
