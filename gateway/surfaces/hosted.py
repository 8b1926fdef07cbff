"""What requests say of tools that the provider runs: which have a type for a name, and which are asked for
elsewhere than in `tools`. Contracts, kills and breakers know them by the names that are told here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.domain import Json, ToolDef

SEARCH = "web_search"
NAMELESS = frozenset(
    (
        "apply_patch", "browser_search", "code_interpreter", "computer", "computer_use",
        "computer_use_preview", "file_search", "image_generation", "local_shell", "mcp",
        "programmatic_tool_calling", "shell", "tool_search", SEARCH, "web_search_2025_08_26",
        "web_search_preview", "web_search_preview_2025_03_11",
    )
)  # fmt: skip
"""Types of OpenAI's tools that have no name. A server that does not mind one beside the type still runs the
tool of this type, so that the name must not hide it from a contract."""
_SEARCH_FIELDS = ("web_search_options", "search_parameters", "enable_search")
"""Of OpenAI, xAI and Qwen: the field itself asks for searches."""


def searches(body: Json) -> bool:
    """Whether fields beside `tools` ask the provider to search the web."""
    if any(body.get(name) not in (None, False) for name in _SEARCH_FIELDS):
        return True
    return any(_searches(plugin) and plugin.get("enabled") is not False for plugin in _plugins(body))


def leave_out_searches(body: Json) -> None:
    """Take the fields that ask for searches out of a body, in place."""
    for name in _SEARCH_FIELDS:
        body.pop(name, None)
    plugins = _plugins(body)
    if left := [plugin for plugin in plugins if not _searches(plugin)]:
        body["plugins"] = left
    elif plugins:
        del body["plugins"]


def _plugins(body: Json) -> list[Any]:
    """OpenRouter's: https://openrouter.ai/docs/features/web-search"""
    plugins = body.get("plugins")
    return plugins if isinstance(plugins, list) else []


def _searches(plugin: Any) -> bool:
    return isinstance(plugin, dict) and plugin.get("id") == "web"


def with_names(tools: Iterable[ToolDef], names: Iterable[str]) -> tuple[ToolDef, ...]:
    """The tools defined, and one of no definition for each further name that something offered goes by."""
    defined = tuple(tools)
    known = {tool.name for tool in defined}
    return (*defined, *[ToolDef(name, "", None) for name in dict.fromkeys(names) if name not in known])
