"""Whether another model can take a step: a step must not fail there where it would not have failed here, and
neither must the steps after it, which may come back to the model that was asked for.

Pure. The policy's own words (`models.*.lacks`, `context_window`, `max_output_tokens`) come first; beside them
stands a small table of families whose providers are known to refuse something. A model of no known family is
taken for what the policy says of it. What cannot be carried to another wire API the translation itself tells.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import get_args

from gateway.domain import Json, Role, Step, Surface
from gateway.errors import CallerError
from gateway.metering.estimate import input_bound
from gateway.policy.sections.providers import Ability, Model
from gateway.rules.route import Route
from gateway.rules.steps import Classified, hosted_tool, seals
from gateway.translation import between
from gateway.values import frozen

USUAL_OUTPUT = 8_192
"""Output tokens to leave room for when the caller sets no limit."""
_ABILITIES: tuple[Ability, ...] = get_args(Ability)


@frozen
class Candidate:
    """A model that could serve a step."""

    name: str
    """As the policy and callers name it."""
    model: Model
    """What the policy says of it."""
    route: Route
    speaks: Surface
    """The wire API that its provider would be asked by; another than the step's means a translation."""


def unable(
    step: Step, classified: Classified, asked: Candidate, target: Candidate, *, outage: bool = False
) -> str | None:
    """Why the target cannot take a step that was asked of another model, as a short clause; None if it can.

    `outage`: the model asked for cannot be had, so what may go wrong later, or only at some servers, is no
    reason not to try.

    The check is for another model in the place of the one asked for: between two names of the same model at
    the same provider nothing can be lost.
    """
    if _is_same(asked, target):
        return None
    family = family_of(target.route.upstream_model)
    return (
        _lacking(classified.needs, target.model, family)
        or _bound_to_its_model(step, asked, target)
        or _too_small(step, asked, target, family)
        or _not_understood(step, target, family)
        or (None if outage else _may_be_missed(step, classified, asked, target))
    )


def _is_same(asked: Candidate, target: Candidate) -> bool:
    return (
        asked.route.upstream_model == target.route.upstream_model
        and asked.route.provider_name == target.route.provider_name
        and asked.speaks is target.speaks
    )


# -- families -----------------------------------------------------------------------------------------


@frozen
class Family:
    """What is known of models whose names begin alike."""

    start: str
    vendor: str
    lacks: frozenset[Ability] = frozenset()
    refuses: tuple[str, ...] = ()
    """Fields of a request that have to be absent, or to have their default."""
    efforts: tuple[str, ...] = ()
    """Amounts of reasoning that may be asked for."""
    thinking: tuple[str, ...] = ()
    """Forms of `thinking` that may be asked for."""
    output: int | None = None
    """Most output tokens; a limit above it is refused."""
    chat: bool = True
    """It is to be had by chat completions."""

    @property
    def thinks(self) -> bool:
        """Whether it may reason before it answers."""
        return bool(self.efforts or self.thinking)


def _lacks(*abilities: Ability) -> frozenset[Ability]:
    return frozenset(abilities)


_SAMPLING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
)
_REASONS = (*_SAMPLING, "max_tokens", "stop")
"""What OpenAI's reasoning models refuse: https://platform.openai.com/docs/guides/reasoning and
https://platform.openai.com/docs/guides/latest-model#gpt-5-parameter-compatibility"""
_SERIAL = (*_REASONS, "parallel_tool_calls", "verbosity")
_QUIET = ("verbosity",)
_OWN_SAMPLING = (*_SAMPLING, "top_k")
_LOW_TO_HIGH = ("low", "medium", "high")
_OLD = _lacks("json_schema", "reasoning", "files", "audio")
_DEAF = _lacks("audio")
_TEXT = _lacks("images", "files", "audio", "reasoning")
_MANUAL = ("enabled",)
_ADAPTIVE = ("adaptive",)
_FAMILIES = (
    # https://platform.openai.com/docs/models
    Family("gpt-3.5", "openai", _OLD | {"images"}, _QUIET, output=4_096),
    Family("gpt-4", "openai", _OLD | {"images"}, _QUIET, output=8_192),
    Family("gpt-4-turbo", "openai", _OLD, _QUIET, output=4_096),
    Family("gpt-4o", "openai", _lacks("reasoning", "audio"), _QUIET, output=16_384),
    Family("gpt-4o-2024-05-13", "openai", _OLD, _QUIET, output=4_096),
    Family("gpt-4o-audio", "openai", _lacks("reasoning", "images", "json_schema"), _QUIET, output=16_384),
    Family("gpt-4o-search", "openai", _lacks(*_ABILITIES), (*_SAMPLING, *_QUIET), output=16_384),
    Family("gpt-4o-mini-search", "openai", _lacks(*_ABILITIES), (*_SAMPLING, *_QUIET), output=16_384),
    Family("chatgpt-4o", "openai", _lacks("tools", *_OLD), _QUIET, output=16_384),
    Family("gpt-4.1", "openai", _lacks("reasoning", "audio"), _QUIET, output=32_768),
    Family("o1", "openai", _lacks("audio", "parallel_tools"), _SERIAL, _LOW_TO_HIGH, output=100_000),
    Family("o1-mini", "openai", _lacks(*_ABILITIES), _SERIAL, output=65_536),
    Family("o1-preview", "openai", _lacks(*_ABILITIES), _SERIAL, output=32_768),
    Family("o1-pro", "openai", _lacks("audio", "parallel_tools"), _SERIAL, _LOW_TO_HIGH, chat=False),
    Family("o3", "openai", _lacks("audio"), _SERIAL, _LOW_TO_HIGH, output=100_000),
    Family("o3-mini", "openai", _lacks("audio", "images"), _SERIAL, _LOW_TO_HIGH, output=100_000),
    Family("o3-pro", "openai", _lacks("audio"), _SERIAL, _LOW_TO_HIGH, chat=False),
    Family("o4-mini", "openai", _lacks("audio"), _SERIAL, _LOW_TO_HIGH, output=100_000),
    Family("gpt-5", "openai", _lacks("audio"), _REASONS, ("minimal", *_LOW_TO_HIGH), output=128_000),
    Family("gpt-5-pro", "openai", _lacks("audio"), _REASONS, ("high",), chat=False),
    Family("gpt-5-codex", "openai", _lacks("audio"), _REASONS, _LOW_TO_HIGH, output=128_000, chat=False),
    Family("gpt-5-chat", "openai", _lacks("tools", "reasoning", "audio"), _QUIET, output=16_384),
    Family("gpt-5-search", "openai", _lacks(*_ABILITIES), _REASONS),
    # Later ones take no sampling unless they do not reason, and know `none` in place of `minimal`.
    Family("gpt-5.", "openai", _lacks("audio"), _REASONS, ("none", *_LOW_TO_HIGH), output=128_000),
    Family("gpt-6", "openai", _lacks("audio"), _REASONS, _LOW_TO_HIGH, output=128_000),
    Family("gpt-oss", "openai-oss", _lacks("images", "audio", "files"), efforts=_LOW_TO_HIGH),
    # https://platform.claude.com/docs/en/about-claude/models/overview
    Family("claude-", "anthropic", _lacks("audio", "json_schema", "reasoning", "files"), output=4_096),
    Family("claude-2", "anthropic", _lacks(*_ABILITIES), output=4_096),
    Family("claude-instant", "anthropic", _lacks(*_ABILITIES), output=4_096),
    Family("claude-3-5", "anthropic", _lacks("audio", "json_schema", "reasoning"), output=8_192),
    Family("claude-3-7", "anthropic", _lacks("audio", "json_schema"), (), (), _MANUAL, 64_000),
    Family("claude-opus-4", "anthropic", _lacks("audio", "json_schema"), (), (), _MANUAL, 32_000),
    Family("claude-sonnet-4", "anthropic", _lacks("audio", "json_schema"), (), (), _MANUAL, 64_000),
    Family("claude-opus-4-1", "anthropic", _DEAF, (), (), _MANUAL, 32_000),
    Family("claude-haiku-4-5", "anthropic", _DEAF, (), (), _MANUAL, 64_000),
    Family("claude-sonnet-4-5", "anthropic", _DEAF, (), (), _MANUAL, 64_000),
    Family("claude-opus-4-5", "anthropic", _DEAF, (), _LOW_TO_HIGH, _MANUAL, 64_000),
    Family("claude-sonnet-4-6", "anthropic", _DEAF, (), _LOW_TO_HIGH, (*_MANUAL, *_ADAPTIVE), 64_000),
    Family("claude-opus-4-6", "anthropic", _DEAF, (), _LOW_TO_HIGH, (*_MANUAL, *_ADAPTIVE), 128_000),
    # From here on thinking is adaptive alone, and sampling is the model's own.
    Family("claude-opus-4-7", "anthropic", _DEAF, _OWN_SAMPLING, _LOW_TO_HIGH, _ADAPTIVE, 128_000),
    Family("claude-opus-4-8", "anthropic", _DEAF, _OWN_SAMPLING, _LOW_TO_HIGH, _ADAPTIVE, 128_000),
    Family("claude-opus-5", "anthropic", _DEAF, _OWN_SAMPLING, _LOW_TO_HIGH, _ADAPTIVE, 128_000),
    Family("claude-sonnet-5", "anthropic", _DEAF, _OWN_SAMPLING, _LOW_TO_HIGH, _ADAPTIVE, 64_000),
    Family("claude-haiku-5", "anthropic", _lacks("audio", "reasoning"), _OWN_SAMPLING, output=64_000),
    # https://ai.google.dev/gemini-api/docs/openai, https://docs.mistral.ai, https://api-docs.deepseek.com
    Family("gemini-", "google", efforts=("none", "minimal", *_LOW_TO_HIGH)),
    Family("gemini-3", "google-signed", efforts=("minimal", *_LOW_TO_HIGH)),
    Family("mistral-", "mistral", _lacks("audio", "reasoning")),
    Family("ministral-", "mistral", _lacks("audio", "reasoning")),
    Family("codestral", "mistral", _TEXT),
    Family("devstral", "mistral", _TEXT),
    Family("deepseek-chat", "deepseek", _TEXT | {"json_schema"}, output=8_192),
    Family("deepseek-reasoner", "deepseek", _lacks(*_ABILITIES), output=65_536),
)  # fmt: skip


@lru_cache(maxsize=1024)
def family_of(model: str) -> Family | None:
    """The family of a model by its provider's name for it; the longest beginning wins. A vendor in front
    (`openai/`, `us.anthropic.`) is passed over; a fine-tuned model is of its base's family."""
    name = model.lower().rpartition("/")[2].removeprefix("ft:")
    if (start := name.find("claude-")) > 0:
        name = name[start:]
    found = None
    for family in _FAMILIES:
        # `o1` is not the beginning of `o10`, and `gpt-4` not that of `gpt-4o`.
        follows = name[len(family.start) : len(family.start) + 1]
        named = name.startswith(family.start) and (family.start[-1] in "-." or follows in _FOLLOWS)
        if named and (found is None or len(family.start) > len(found.start)):
            found = family
    return found


_FOLLOWS = ("", "-", ":", "@", ".")


# -- reasons ------------------------------------------------------------------------------------------


def _lacking(needs: frozenset[Ability], model: Model, family: Family | None) -> str | None:
    for ability in _ABILITIES:
        if ability not in needs:
            continue
        if ability in model.lacks:
            return f"the policy says that it lacks {ability}"
        if family is not None and ability in family.lacks:
            return f"{family.start}* lacks {ability}"
    return None


def _bound_to_its_model(step: Step, asked: Candidate, target: Candidate) -> str | None:
    """What only the provider or the model that was asked for has or can read."""
    elsewhere = asked.route.provider_name != target.route.provider_name or target.speaks is not asked.speaks
    if (sealed := seals(step)) is not None:
        return f"the conversation carries {sealed} of another model"
    if (tool := hosted_tool(step)) is not None and (elsewhere or tool not in _SHARED_TOOLS):
        return f"'{tool}' is its provider's own, and not every model has it"
    if elsewhere and step.kept:
        return "the conversation or its files are kept at another provider"
    if elsewhere and step.background:
        return "the answer is to be fetched from its provider later"
    if step.state and _thinks(asked):
        return "the conversation kept at the provider may hold thoughts of another model"
    return None


def _may_be_missed(step: Step, classified: Classified, asked: Candidate, target: Candidate) -> str | None:
    """What later steps may want of the model that was asked for, or not every server understands."""
    elsewhere = asked.route.provider_name != target.route.provider_name or target.speaks is not asked.speaks
    if elsewhere and step.surface is Surface.RESPONSES and not _brings_its_history(step):
        return "the next step may go on from an answer that another provider keeps"
    if (
        target.speaks is step.surface is Surface.CHAT
        and asked.route.provider_name != target.route.provider_name
        and (field := _only_openai_s(step.body)) is not None
    ):
        return f"not every provider knows {field}"
    return _no_way_back(step, classified, asked, target)


def _brings_its_history(step: Step) -> bool:
    """Whether a client of Responses sends its conversation along, and so leaves nothing to be kept."""
    if step.body.get("store") is False:
        return True
    return not step.state and any(item.role is Role.ASSISTANT and not item.aside for item in step.items)


def _thinks(candidate: Candidate) -> bool:
    """Whether a model is known to reason."""
    family = family_of(candidate.route.upstream_model)
    return "reasoning" not in candidate.model.lacks and family is not None and family.thinks


def _too_small(step: Step, asked: Candidate, target: Candidate, family: Family | None) -> str | None:
    known = (target.route.output_cap, family.output if family is not None else None)
    caps = [cap for cap in known if cap is not None]
    limit = step.output_limit
    if limit is not None and caps and limit > min(caps):
        return f"it writes at most {min(caps)} tokens, and {limit} are asked for"
    window, other = target.route.context_window, asked.route.context_window
    if window is None or (other is not None and other <= window):
        return None
    # A token has two bytes or more in nearly every text; the bound from which this starts counts each byte.
    upper = input_bound(step, model=target.route.upstream_model, context_window=window) - step.text_bytes // 2
    room = min([limit or USUAL_OUTPUT, *caps])
    if upper + room > window:
        return f"up to {upper} tokens of input and {room} of output do not fit its window of {window}"
    return None


def _not_understood(step: Step, target: Candidate, family: Family | None) -> str | None:
    """What the target's provider would refuse of the request as it would be put."""
    body = step.body
    if target.speaks is not step.surface:
        translation = between(step.surface, target.speaks)
        if translation is None:
            return f"no translation leads from {step.surface.value} to {target.speaks.value}"
        try:
            body = translation.request(body)
        except CallerError as error:
            return f"{error.param or 'something'} cannot be carried to its wire API"
    if family is None:
        return None
    return (
        _refused_field(body, target, family)
        or _refused_thinking(body, family)
        or _refused_history(step, family)
    )


def _only_openai_s(body: Json) -> str | None:
    """A field or role of a chat request that servers of other vendors may refuse."""
    for name, value in body.items():
        if name not in _EVERYWHERE and value is not None:
            return f"'{name}'"
    messages = body.get("messages")
    for message in messages if type(messages) is list else ():
        if type(message) is dict and message.get("role") == "developer":
            return "the role 'developer'"
    return None


def _refused_field(body: Json, target: Candidate, family: Family) -> str | None:
    model = target.route.upstream_model
    if target.speaks is Surface.CHAT and (
        not family.chat or (family.vendor == "openai" and ("-codex" in model or "-pro" in model))
    ):
        return f"{model[:64]} is not to be had by chat completions"
    reasons_not = family.efforts[:1] == ("none",) and _effort(body) == "none"
    for name in family.refuses:
        if reasons_not and name in _SAMPLING:
            continue
        value = body.get(name)
        if value is not None and not _is_default(name, value):
            return f"{family.start}* refuses '{name}'"
    text = body.get("text")
    verbosity = text.get("verbosity") if type(text) is dict else None
    if "verbosity" in family.refuses and verbosity not in (None, "medium"):
        return f"{family.start}* refuses 'text.verbosity'"
    if family.vendor == "anthropic" and body.get("temperature") is not None and body.get("top_p") is not None:
        return f"{family.start}* refuses 'temperature' beside 'top_p'"
    return None


def _is_default(name: str, value: object) -> bool:
    return name in _DEFAULTS and value in _DEFAULTS[name]


def _refused_thinking(body: Json, family: Family) -> str | None:
    effort = _effort(body)
    if effort is not None and effort not in family.efforts:
        return f"{family.start}* knows no effort {str(effort)[:16]!r}"
    thinking = body.get("thinking")
    kind = thinking.get("type") if type(thinking) is dict else None
    if kind in ("enabled", "adaptive") and kind not in family.thinking:
        return f"{family.start}* knows no thinking of type {kind!r}"
    return None


def _effort(body: Json) -> object:
    """How much reasoning is asked for; None when nothing is said of it."""
    effort: object = body.get("reasoning_effort")
    for name in ("reasoning", "output_config"):
        if effort is None and type(asked := body.get(name)) is dict:
            effort = asked.get("effort")
    return effort


def _refused_history(step: Step, family: Family) -> str | None:
    """Earlier calls in a form that the target's provider does not take back."""
    if family.vendor not in _PARTICULAR:
        return None
    for item in step.items:
        for call in item.calls:
            if family.vendor == "google-signed":
                return f"{family.start}* wants its own signature on every call"
            if family.vendor == "mistral" and not _MISTRAL_ID.fullmatch(call.id):
                return f"{family.start}* wants ids of calls of nine letters or digits"
            if family.vendor == "openai" and len(call.id) > _LONGEST_OPENAI_ID:
                return f"{family.start}* takes no ids of calls of more than {_LONGEST_OPENAI_ID} characters"
    return None


def _no_way_back(step: Step, classified: Classified, asked: Candidate, target: Candidate) -> str | None:
    """What the target's answer would leave out of the history, or put there, so that a later step fails at
    the model that was asked for. Titles and the like are no part of a conversation."""
    if classified.kind == "title":
        return None
    family = family_of(asked.route.upstream_model)
    if family is not None and family.vendor == "google-signed" and step.tools:
        return f"{family.start}* wants its own signature on every call"
    thinking = step.body.get("thinking")
    if step.surface is Surface.MESSAGES and type(thinking) is dict and thinking.get("type") != "disabled":
        return "later steps bring back thoughts, which have to be signed by the model that was asked for"
    if step.surface is Surface.RESPONSES and target.speaks is Surface.RESPONSES and _thinks(target):
        return "its reasoning items would come back to the model that was asked for"
    return None


_SHARED_TOOLS = (
    "mcp",
    "mcp_servers",
    "file_search",
    "web_search",
    "web_search_preview",
    "web_search_20250305",
)
"""Tools that a provider runs for nearly all of its models."""
_EVERYWHERE = frozenset(
    (
        "model", "messages", "tools", "tool_choice", "stream", "stream_options", "temperature", "top_p",
        "max_tokens", "max_completion_tokens", "stop", "n", "seed", "response_format", "user",
        "presence_penalty", "frequency_penalty", "parallel_tool_calls", "reasoning_effort",
    )
)  # fmt: skip
_DEFAULTS: dict[str, tuple[object, ...]] = {
    "temperature": (1, 1.0),
    "top_p": (1, 1.0),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "stop": ([],),
    "verbosity": ("medium",),
}
_PARTICULAR = ("mistral", "openai", "google-signed")
_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")
_LONGEST_OPENAI_ID = 40
