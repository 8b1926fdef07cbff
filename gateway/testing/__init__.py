"""A simulated LLM provider: a real HTTP server that answers as it is told and keeps its own books.

    with running_provider() as provider:
        provider.script("two-steps", [Reply(tool_calls=[("lookup", {"id": 1})]), Reply("Found it.")])
        client = openai.OpenAI(base_url=provider.base_url, api_key="any")
        ...                                     # model="sim/two-steps"
        assert provider.journal.last.served.output_text == 4

It speaks chat, responses (with kept and background responses, conversations), messages, embeddings, legacy
completions, moderations, audio and files. It serves the tests, the benchmark and the demo, and newcomers as
the `sim/*` models (docs/simulated-provider.md).
"""

from __future__ import annotations

from gateway.testing.journal import Attempt, Journal, Totals
from gateway.testing.script import (
    ABSENT,
    HONEST,
    Ask,
    Reply,
    Scenario,
    Script,
    ScriptError,
    ToolCall,
    ToolOffer,
    Turn,
    Upload,
    error_json,
    error_reply,
    upload_from_json,
    upload_to_json,
)
from gateway.testing.server import ProviderServer, running_provider
from gateway.testing.tokens import ByteTokens, ExactTokens, Tokens

__all__ = [
    "ABSENT",
    "HONEST",
    "Ask",
    "Attempt",
    "ByteTokens",
    "ExactTokens",
    "Journal",
    "ProviderServer",
    "Reply",
    "Scenario",
    "Script",
    "ScriptError",
    "Tokens",
    "ToolCall",
    "ToolOffer",
    "Totals",
    "Turn",
    "Upload",
    "error_json",
    "error_reply",
    "running_provider",
    "upload_from_json",
    "upload_to_json",
]
