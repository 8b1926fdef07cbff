"""What editors and the reference say about the policy file, made from the models.

`python -m gateway.policy.schema docs/policy.md` writes the table of keys anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.policy.models import Policy

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"
"""Around the table of keys in docs/policy.md."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a policy file, with a title and a description for each key."""
    schema = Policy.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def key_table() -> str:
    """A Markdown table for each section: key, what it takes, default, meaning. Ends without a newline."""
    schema = Policy.model_json_schema(by_alias=True)
    return "\n\n".join(_section(name, part, schema["$defs"]) for name, part in _sections(schema))


def keys() -> Iterator[tuple[str, str]]:
    """Every section and key of the language, such as `("Budget", "limit_usd")`."""
    for name, part in _sections(Policy.model_json_schema(by_alias=True)):
        yield from ((name, key) for key in part["properties"])


def with_table(text: str) -> str:
    """A reference with its table of keys made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{key_table()}\n\n{END}{after}"


_TITLES = {
    "Policy": "The file",
    "Provider": "`providers.NAME`",
    "Timeouts": "`providers.NAME.timeouts`",
    "ProviderBreaker": "`providers.NAME.breaker`",
    "Queue": "`providers.NAME.queue`",
    "Model": "`models.NAME`",
    "Price": "`models.NAME.price`, `passthrough[].price`",
    "PriceTier": "`models.NAME.price.tiers[]`",
    "Auth": "`auth`",
    "Key": "`keys[]`",
    "Budget": "`budgets[]`",
    "Runs": "`runs`",
    "LandingStep": "`runs.landing`",
    "Anomaly": "`runs.anomaly`",
    "Loops": "`loops`",
    "Ladder": "`loops.RULE`, as a ladder",
    "Rate": "`rates[]`",
    "Tool": "`tools.NAME`, `tools.defaults`",
    "ArgumentRule": "`tools.NAME.arguments.PATH`",
    "Breaker": "`tools.NAME.breaker`",
    "Approvals": "`approvals`",
    "Claims": "`claims`",
    "Routing": "`routing`",
    "RoutingRule": "`routing.rules[]`",
    "When": "`routing.rules[].when`",
    "Between": "`routing.rules[].when.tokens`, `.tools`",
    "Retries": "`routing.retries`",
    "Screening": "`screening`",
    "ScreenException": "`screening.exceptions[]`",
    "Screen": "`screening.secrets`, `screening.leak`",
    "PiiScreen": "`screening.pii`",
    "InjectionScreen": "`screening.injection`",
    "InjectionClassifier": "`screening.injection.classifier`",
    "InjectionJudge": "`screening.injection.judge`",
    "Moderation": "`screening.moderation`",
    "LinkScreen": "`screening.links`",
    "CustomEntity": "`screening.pii.custom.NAME`",
    "ChannelAction": "`screening.*.user`, `.tool`, `.output`",
    "Context": "`context`",
    "Cache": "`cache`",
    "ExactCache": "`cache.exact`",
    "SemanticCache": "`cache.semantic`",
    "Alert": "`alerts[]`",
    "Audit": "`audit`",
    "Recording": "`recording`",
    "Retention": "`retention`",
    "RetentionRule": "`retention.rules[]`",
    "Tenant": "`retention.rules[].match`",
    "PassthroughRoute": "`passthrough[]`",
    "Server": "`server`",
    "Profile": "`profiles.NAME`",
    "Tracing": "`tracing`",
    "Match": "`match`, in every rule",
}


def _sections(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    definitions = schema["$defs"]
    yield "Policy", schema
    # A section without a title fails here, and so in the test of the reference.
    known = [name for name in _TITLES if name in definitions]
    missing = {name for name, part in definitions.items() if "properties" in part} - set(known)
    if missing:
        raise LookupError(f"sections without a title in the reference: {', '.join(sorted(missing))}")
    for name in known:
        yield name, definitions[name]


def _section(name: str, part: dict[str, Any], definitions: dict[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_takes(value)} | {_default(part, key, value)} | {_cell(value, definitions)} |"
        for key, value in part["properties"].items()
    ]
    head = "| key | takes | default | meaning |\n|---|---|---|---|"
    return f"### {_TITLES[name]}\n\n" + "\n".join([head, *rows])


def _cell(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    # Pydantic leaves a description out where it is that of the section itself.
    section = definitions.get(value.get("$ref", "").rsplit("/", 1)[-1], {})
    text = value.get("description") or section.get("description", "")
    return re.sub(r"\s+", " ", text).replace("|", r"\|")


def _default(part: dict[str, Any], key: str, value: dict[str, Any]) -> str:
    if key in part.get("required", ()):
        return "required"
    default = value.get("default")
    return (
        ""
        if default in (None, {}, []) or isinstance(default, dict)
        else f"`{json.dumps(default).strip(chr(34))}`"
    )


def _takes(value: dict[str, Any]) -> str:
    """What a key takes, in a word or a list of words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return _words(("chat", "…")) if name == "Surface" else "section"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return _words(value["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in value:
            sides = [_takes(side) for side in value[choice] if side.get("type") != "null"]
            # A decimal is a number or its text; the reader writes a number.
            sides = ["number"] if sides == ["number", "text"] else sides
            sides = [side for side in sides if side != "whole number" or "number" not in sides]
            return " or ".join(dict.fromkeys(sides))
    match value.get("type"):
        case "array":
            return f"list of {_takes(value.get('items', {}))}"
        case "object":
            return "mapping"
        case "string":
            return "secret" if value.get("format") == "password" else "text"
        case "integer":
            return "whole number"
        case "boolean":
            return "`true`, `false`"
        case "number":
            return "number"
    return "text"


def _words(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    reference = Path(sys.argv[1])
    reference.write_text(with_table(reference.read_text(encoding="utf-8")), encoding="utf-8")
