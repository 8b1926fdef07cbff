"""Steps as a surface would make them, for the tests of this package."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.domain import Item, Media, Role, Step, Surface, Text, ToolDef


def chat_step(
    *texts: str,
    model: str = "gpt-4o",
    media: tuple[Media, ...] = (),
    tools: tuple[ToolDef, ...] = (),
    output_limit: int | None = None,
    choices: int = 1,
    surface: Surface = Surface.CHAT,
    **body: Any,
) -> Step:
    """A step with one user item per text; `media` goes into the last one."""
    messages = [{"role": "user", "content": text} for text in texts]
    whole = {"model": model, "messages": messages, **body}
    if tools:
        whole["tools"] = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.schema},
            }
            for t in tools
        ]
    raw = orjson.dumps(whole)
    items = [Item(Role.USER, (Text(text, ("messages", i, "content")),)) for i, text in enumerate(texts)]
    if media:
        items.append(Item(Role.USER, media=media))
    return Step(
        surface=surface,
        model=model,
        stream=False,
        body=whole,
        raw=raw,
        items=tuple(items),
        tools=tools,
        output_limit=output_limit,
        choices=choices,
        wants_usage=False,
        text_bytes=len(raw),
    )
