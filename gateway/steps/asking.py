"""How a model is asked something of the gateway's own, by whatever wire API its provider has.

One question, one answer in a given form, and no conversation. What is asked about stands between marks that
nobody can guess, so that no text ends its block.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import orjson

from gateway.domain import Json, Step, Surface
from gateway.errors import CallerError
from gateway.rules.route import Route
from gateway.surfaces import CODECS
from gateway.upstreams import openai
from gateway.upstreams.dialects import DIALECTS, Wire

SURFACES = (Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES)
"""Wire APIs by which a model is asked, the preferred first."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, and the form of the answer."""

    system: str
    user: str
    name: str
    """What the answer is called."""
    schema: Json
    """JSON schema of the answer."""
    output_tokens: int
    """Room for the answer, and for a model that thinks a little first."""


def marked(text: str) -> tuple[str, str]:
    """A mark that nobody can guess, and the text without it."""
    mark = secrets.token_hex(8).upper()
    return mark, text.replace(mark, "[...]")


def wire_of(route: Route) -> Wire:
    """How a model is asked. Raises `CallerError` where its provider has no wire API for it."""
    dialect = DIALECTS[route.provider.dialect]
    for surface in SURFACES:
        if dialect.serves(route.provider, surface):
            return Wire(dialect, surface, CODECS[surface], None)
    raise CallerError(
        "model_not_allowed", f"Provider {route.provider_name!r} serves no API by which a judge is asked."
    )


def question(prompt: Prompt, model: str, route: Route, wire: Wire, *, constrained: bool) -> Step:
    """The prompt as the model's provider reads it. `constrained`: its answer is held to the schema."""
    body: Json
    if wire.surface is Surface.CHAT:
        messages = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        body = {"messages": messages, openai.limit_field(route.provider): prompt.output_tokens}
        form: Json = {
            "type": "json_schema",
            "json_schema": {"name": prompt.name, "strict": True, "schema": prompt.schema},
        }
        constraint: Json = {"response_format": form}
    elif wire.surface is Surface.MESSAGES:
        body = {
            "system": prompt.system,
            "messages": [{"role": "user", "content": prompt.user}],
            "max_tokens": prompt.output_tokens,
        }
        constraint = {"output_config": {"format": {"type": "json_schema", "schema": prompt.schema}}}
    else:
        body = {
            "instructions": prompt.system,
            "input": [{"role": "user", "content": prompt.user}],
            "max_output_tokens": prompt.output_tokens,
            "store": False,
        }
        form = {"type": "json_schema", "name": prompt.name, "strict": True, "schema": prompt.schema}
        constraint = {"text": {"format": form}}
    return wire.codec.parse(orjson.dumps({"model": model, **body, **(constraint if constrained else {})}))
