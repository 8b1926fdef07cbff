"""Usage and finish reasons in the words of each client API.

Usage comes as the gateway's disjoint buckets (`metering.usage` reads them), so nothing is subtracted here:
chat and responses count cached tokens as part of the input, messages counts them beside it; both count
reasoning as part of the output.
"""

from __future__ import annotations

from gateway.domain import Json, Usage

FINISH_OF_STOP = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    # A hosted tool is at work, which no translated request can ask for: what came is a part.
    "pause_turn": "length",
    "refusal": "content_filter",
}
STOP_OF_FINISH = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
_TIER_OF_CHAT = {"default": "standard", "priority": "priority"}
_TIER_OF_MESSAGES = {"standard": "default", "priority": "priority"}


def finish_reason(stop_reason: object, *, calls: bool) -> str:
    """Chat's word for how a message ended. An answer with calls that merely ended is `tool_calls`: clients
    run tools on that word alone."""
    finish = FINISH_OF_STOP.get(stop_reason, "stop") if isinstance(stop_reason, str) else "stop"
    return "tool_calls" if calls and finish == "stop" else finish


def stop_reason(finish: object, *, calls: bool) -> str:
    """The Messages API's word for how a completion ended; some servers end calls with `stop`."""
    stop = STOP_OF_FINISH.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"
    return "tool_use" if calls and stop == "end_turn" else stop


def chat_usage(usage: Usage) -> Json:
    """The `usage` of a chat completion."""
    given, made = usage.input_total, usage.output_total
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
            "audio_tokens": usage.audio_in,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.output_reasoning,
            "audio_tokens": usage.audio_out,
        },
    }


def messages_usage(usage: Usage) -> Json:
    """The `usage` of a message."""
    return {
        "input_tokens": usage.input_uncached + usage.audio_in + usage.image_in,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output_total,
        "output_tokens_details": {"thinking_tokens": usage.output_reasoning},
    }


def responses_usage(usage: Usage) -> Json:
    """The `usage` of a response."""
    given, made = usage.input_total, usage.output_total
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.output_reasoning},
        "total_tokens": given + made,
    }


def chat_tier(tier: object) -> str | None:
    """A message's `usage.service_tier` as chat's `service_tier`; None for what chat has no word for."""
    return _TIER_OF_MESSAGES.get(tier) if isinstance(tier, str) else None


def messages_tier(tier: object) -> str | None:
    """The other way round."""
    return _TIER_OF_CHAT.get(tier) if isinstance(tier, str) else None
