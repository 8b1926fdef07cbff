"""A policy made from the configuration file of a LiteLLM proxy.

Pure: text in, text out. The file is read by the policy's own reader, with its limits on size, depth and
aliases. A literal secret never leaves this module: a variable to be set stands in for it. Of a setting that
cannot be carried its path is told and never its value, for the value may be a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation, localcontext
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gateway.policy import document
from gateway.policy.document import KeyPath
from gateway.policy.fields import (
    LARGEST_INTEGER,
    BaseUrl,
    Count,
    Label,
    LimitUsd,
    ModelName,
    RateUsd,
    Seconds,
    Whole,
)
from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError, kind_text, path_text, quoted

Entry = dict[str, Any]


class NotReadable(Exception):  # noqa: N818 - it says what the file is
    """A file that is no YAML, or no configuration of LiteLLM; the message says what it seems to be."""


class ImportFailed(Exception):  # noqa: N818 - the fault is here, not in the file
    """The policy that was made is not valid. That is a mistake in this module."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A policy in text, and what a person has to know about it."""

    text: str
    to_set: tuple[str, ...]
    """Secrets that were written out, each with the variable that stands for it now."""
    changed: tuple[str, ...]
    """What was carried and works otherwise here."""
    left: tuple[str, ...]
    """What was not carried."""


@dataclass(frozen=True, slots=True)
class _Host:
    """What LiteLLM's prefix of a model stands for."""

    base_url: str | None
    """`None` where the configuration has to say it."""
    key: str | None
    """The variable that LiteLLM takes the credential from; `None` for servers that ask for none."""
    dialect: str = "openai"
    name: str = ""
    below: str = ""
    """What LiteLLM's `api_base` lacks of our `base_url`."""


_HOSTS = {
    "openai": _Host("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": _Host("https://api.openai.com/v1", "OPENAI_API_KEY", name="openai"),
    "azure": _Host(None, "AZURE_API_KEY", "azure_openai"),
    "anthropic": _Host("https://api.anthropic.com", "ANTHROPIC_API_KEY", "anthropic"),
    "cerebras": _Host("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepinfra": _Host("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": _Host("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": _Host("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "gemini": _Host("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": _Host("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": _Host("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "nvidia_nim": _Host("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "openrouter": _Host("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": _Host("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "sambanova": _Host("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together_ai": _Host("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": _Host("https://api.x.ai/v1", "XAI_API_KEY"),
    "ollama": _Host("http://localhost:11434/v1", None, below="/v1"),
    "ollama_chat": _Host("http://localhost:11434/v1", None, name="ollama", below="/v1"),
    "hosted_vllm": _Host(None, None),
    "lm_studio": _Host(None, None),
    "llamafile": _Host("http://127.0.0.1:8080/v1", None),
    "openai_like": _Host(None, None),
    "custom_openai": _Host(None, None),
    "litellm_proxy": _Host(None, "LITELLM_PROXY_API_KEY"),
}
_OPENAI_NAMES = re.compile(
    r"(gpt-|chatgpt-|o[1-9](-|$)|text-embedding-|omni-moderation|text-moderation|davinci-|babbage-|ft:gpt-)"
)
_FOREIGN = ("bedrock", "sagemaker", "vertex_ai", "vertex_ai_beta", "watsonx")
_BALANCE = {"simple-shuffle": "weight", "least-busy": "least_busy", "latency-based-routing": "latency"}
_COUNTED = ("usage-based-routing", "usage-based-routing-v2")
_WINDOWS = {3600: "1h", 86_400: "1d", 604_800: "1w", 2_592_000: "1mo"}
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d|w|mo)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_PRICES = {
    "input_cost_per_token": "input_usd_per_mtok",
    "output_cost_per_token": "output_usd_per_mtok",
    "cache_read_input_token_cost": "cached_input_usd_per_mtok",
    "cache_creation_input_token_cost": "cache_write_usd_per_mtok",
}
_TIER = re.compile(rf"({'|'.join(_PRICES)})_above_([0-9]{{1,6}})k_tokens")
_ABILITIES = {
    "supports_function_calling": "tools",
    "supports_parallel_function_calling": "parallel_tools",
    "supports_vision": "images",
    "supports_pdf_input": "files",
    "supports_audio_input": "audio",
    "supports_response_schema": "json_schema",
    "supports_reasoning": "reasoning",
}
_SECTIONS = ("model_list", "litellm_settings", "router_settings", "general_settings")
_HINTS = {
    "alerting": "alerts are webhooks here: docs/alerts.md",
    "allowed_routes": "see keys[].models and passthrough",
    "base_model": "the price table goes by upstream_model: write a price where it does not know that",
    "cache_params": "stores of answers are the gateway's own: docs/caching.md",
    "content_policy_fallbacks": "fallbacks serve when a provider fails, not when it refuses",
    "context_window_fallbacks": "fallbacks serve when a provider fails; see context_window of a model",
    "custom_auth": "callers are known by keys: docs/policy.md",
    "database_url": "the ledger is chosen by --ledger",
    "default_internal_user_params": "see budgets with per: user",
    "default_team_settings": "see budgets with per: team",
    "drop_params": "requests go on as they came; what a provider refuses is answered 400",
    "environment_variables": "set these variables where the gateway runs",
    "failure_callback": "see docs/metrics.md and docs/alerts.md",
    "callbacks": "see docs/metrics.md and docs/alerts.md",
    "success_callback": "see docs/metrics.md and docs/alerts.md",
    "guardrails": "see screening: docs/screening.md",
    "include": "import each included file by itself and put the policies in one folder",
    "max_end_user_budget": "see budgets with per: user",
    "max_internal_user_budget": "see budgets with per: user",
    "mcp_servers": "agents call their MCP servers themselves; contracts hold for their tools",
    "pass_through_endpoints": "see passthrough: docs/policy.md",
    "provider_budget_config": "see budgets with match.model",
    "redis_host": "live state is put on Redis by --store",
    "redis_password": "live state is put on Redis by --store",
    "redis_port": "live state is put on Redis by --store",
    "redis_url": "live state is put on Redis by --store",
    "retry_policy": "routing.retries does not tell kinds of failure apart",
    "store_model_in_db": "models, keys and teams in LiteLLM's database are not in this file",
}
_MOST_TOLD = 200
_WIDTH = 118


class _Reference(str):
    """A text with `${NAME}` in it that is to be expanded."""


@dataclass(slots=True)
class _Section:
    """A mapping of the file that knows what was taken from it."""

    data: dict[str, Any]
    path: KeyPath

    def take(self, key: str) -> Any:
        return self.data.pop(key, None)


@dataclass(slots=True)
class _Place:
    """One entry of `model_list`: where a model is served."""

    index: int
    provider: str
    entry: Entry
    limits: dict[str, Decimal]
    """`weight`, `rpm`, `tpm` and `order`, as far as they are given."""


@dataclass(slots=True)
class _Report:
    to_set: list[str] = field(default_factory=list)
    changed: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)
    left: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)

    def leave(self, path: KeyPath, why: str = "has no counterpart") -> None:
        _tell(self.left, path, why)

    def change(self, path: KeyPath, how: str) -> None:
        _tell(self.changed, path, how)


def _tell(notes: dict[tuple[Any, ...], list[str]], path: KeyPath, why: str) -> None:
    # The same of several models is told once.
    alike = tuple(None if isinstance(part, int) else part for part in path)
    notes.setdefault((alike, why), []).append(path_text(path))


def _lines(notes: dict[tuple[Any, ...], list[str]]) -> tuple[str, ...]:
    told = []
    for (_, why), paths in list(notes.items())[:_MOST_TOLD]:
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        told.append(f"{paths[0]}{more}: {why}")
    if len(notes) > _MOST_TOLD:
        told.append(f"and {len(notes) - _MOST_TOLD} more")
    return tuple(told)


# -- reading -----------------------------------------------------------------------------------------


def convert(text: str, file: str) -> Imported:
    """The policy for a LiteLLM configuration; `file` is what messages call it.

    Raises: `NotReadable`, and `ImportFailed` when the policy does not pass our own checks.
    """
    importer = _Importer(_read(text, file), file)
    imported = importer.run()
    names = set(re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", imported.text))
    try:
        load_text(imported.text, {name: f"https://unset.invalid/{name}" for name in names}, name="policy")
    except PolicyError as error:
        raise ImportFailed(str(error)) from None
    return imported


def _read(text: str, file: str) -> dict[str, Any]:
    if len(text) > document.MAX_BYTES:
        raise NotReadable(f"{file}: got more than {document.MAX_BYTES:,} bytes, expected fewer")
    node, problems = document.read(text, file)
    if problems:
        first = problems[0]
        raise NotReadable(f"{first.place.file}:{first.place.line}: {first.problem}")
    data = document.flatten(node).data if node else None
    if not isinstance(data, dict):
        raise NotReadable(f"{file}: got {kind_text(data)}, expected a configuration of LiteLLM")
    if not any(section in data for section in _SECTIONS):
        expected = f"expected a configuration of LiteLLM, with one of {', '.join(_SECTIONS)}"
        raise NotReadable(f"{file}: got {_seems(data)}, {expected}")
    if not isinstance(data.get("model_list") or [], list):
        got = kind_text(data["model_list"])
        raise NotReadable(f"{file}: model_list: got {got}, expected a list of models")
    return data


def _seems(data: dict[str, Any]) -> str:
    if "version" in data and ("providers" in data or "models" in data):
        return "a policy of this gateway (try gateway check)"
    if "apiVersion" in data and "kind" in data:
        return "a Kubernetes manifest (the configuration is a text in it: save that as a file)"
    if "services" in data:
        return "a Compose file (the configuration is the file that it mounts)"
    if "model_name" in data or "litellm_params" in data:
        return "one model without its model_list"
    return "something else"


def _environment_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _environment_names(part)
    elif isinstance(value, list):
        for part in value:
            yield from _environment_names(part)
    elif isinstance(value, str) and (reference := _reference(value)):
        yield reference[2:-1]


def _reference(value: str) -> _Reference | None:
    """`os.environ/NAME`, or `${NAME}` of a template, as our reference."""
    found = re.fullmatch(
        r"os\.environ/([A-Za-z_][A-Za-z0-9_]{0,127})|\$\{([A-Za-z_][A-Za-z0-9_]{0,127})\}", value
    )
    return _Reference(f"${{{found.group(1) or found.group(2)}}}") if found else None


@cache
def _type(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fits(kind: Any, value: Any) -> bool:
    """Whether the policy takes a value there, and it can be written on a line."""
    if isinstance(value, str) and not value.isprintable():
        return False
    try:
        _type(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and _fits(Label, value) else None


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str) or len(str(value)) > 40:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 30 else None


def _plain(number: Decimal) -> int | Decimal:
    """A number as one would write it."""
    if number == number.to_integral_value():
        return int(number)
    # Exactly: `normalize` would round to the context's precision.
    return Decimal(format(number, "f").rstrip("0"))


def _whole(value: Any, kind: Any = Count) -> int | None:
    number = _number(value)
    if number is None or number != number.to_integral_value() or not _fits(kind, int(number)):
        return None
    return int(number)


def _seconds(value: Any) -> int | Decimal | None:
    number = _number(value)
    return _plain(number) if number is not None and _fits(Seconds, float(number)) else None


def _is_on(value: Any) -> bool:
    """LiteLLM reads YAML 1.1, where `yes` and `on` are true."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "yes", "on"))


def _usd_per_mtok(value: Any) -> Decimal | None:
    number = _number(value)
    if number is None:
        return None
    with localcontext() as context:
        context.prec = 80
        price = number.scaleb(6)
    exponent = price.as_tuple().exponent
    return price if isinstance(exponent, int) and exponent > -40 and _fits(RateUsd, price) else None


# -- the way through the file ------------------------------------------------------------------------


class _Importer:
    def __init__(self, data: dict[str, Any], file: str) -> None:
        self.file = file
        self.report = _Report()
        self.names = set(_environment_names(data))
        self.literals: dict[str, str] = {}
        self.root = _Section(dict(data), ())
        self.litellm = self.section(self.root, "litellm_settings")
        self.router = self.section(self.root, "router_settings")
        self.general = self.section(self.root, "general_settings")
        self.credentials = self.read_credentials()
        self.providers: dict[str, Entry] = {}
        self.models: dict[str, Entry] = {}
        self.origin: dict[tuple[str, str], str] = {}
        """Where an entry of a section comes from."""
        self.aliases: dict[str, str] = {}
        self.stand_ins: set[str] = set()
        """Entries that are deployments of another."""

    def section(self, parent: _Section, key: str) -> _Section:
        path = (*parent.path, key)
        value = parent.take(key)
        if value is not None and not isinstance(value, dict):
            self.report.leave(path, f"got {kind_text(value)}, expected a mapping")
        return _Section(dict(value) if isinstance(value, dict) else {}, path)

    def leave_rest(self, section: _Section) -> None:
        for key, value in section.data.items():
            if value is not None and value != [] and value != {}:
                why = _HINTS.get(key)
                self.report.leave((*section.path, key), why or "has no counterpart")

    def run(self) -> Imported:
        timeout = self.settings_seconds(self.router, "timeout")
        requested = self.settings_seconds(self.litellm, "request_timeout")
        self.timeout = timeout or requested
        self.stream_timeout = self.settings_seconds(self.router, "stream_timeout")
        self.breaker = self.read_breaker()
        self.parallel = self.first_count("max_parallel_requests", self.general)
        routed = self.first_count("default_max_parallel_requests", self.router)
        self.parallel = routed or self.parallel
        self.strategy = self.router.take("routing_strategy")
        checks = self.router.take("optional_pre_call_checks")
        self.enforces = self.strategy in _COUNTED
        if isinstance(checks, list):
            self.enforces |= "enforce_model_rate_limits" in checks
            if [each for each in checks if each != "enforce_model_rate_limits"]:
                self.report.leave(("router_settings", "optional_pre_call_checks"))
        self.rates: list[tuple[Entry, str]] = []
        self.read_models()
        self.read_aliases()
        self.read_fallbacks()
        keys, auth = self.read_master_key()
        budgets = self.read_budget()
        self.read_global_limit()
        routing = self.read_retries()
        exact = self.read_cache()
        for section in (self.root, self.litellm, self.router, self.general):
            self.leave_rest(section)
        return self.written(auth, keys, budgets, routing, exact)

    # -- settings --------------------------------------------------------------------------------

    def settings_seconds(self, section: _Section, key: str) -> int | Decimal | None:
        found: int | Decimal | None = self.checked(section, key, _seconds, "a number of seconds above 0")
        return found

    def first_count(self, key: str, section: _Section) -> int | None:
        found: int | None = self.checked(section, key, _whole, "a whole number above 0")
        return found

    def checked(self, section: _Section, key: str, read: Any, expected: str) -> Any:
        """A value that is taken by `read`; told when it is there and cannot be."""
        value = section.take(key)
        found = read(value) if value is not None else None
        if value is not None and found is None:
            got = "a variable" if isinstance(value, str) and _reference(value) else kind_text(value)
            if got == "a number":
                got = "another number"
            self.report.leave((*section.path, key), f"got {got}, expected {expected}")
        return found

    def read_credentials(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        value = self.root.take("credential_list")
        for index, each in enumerate(value if isinstance(value, list) else ()):
            name = each.get("credential_name") if isinstance(each, dict) else None
            values = each.get("credential_values") if isinstance(each, dict) else None
            if isinstance(name, str) and isinstance(values, dict):
                found[name] = values
            else:
                self.report.leave(("credential_list", index))
        return found

    def read_breaker(self) -> Entry | None:
        if _is_on(self.router.take("disable_cooldowns")):
            for section in (self.router, self.litellm):
                section.take("allowed_fails")
                section.take("cooldown_time")
            return None
        breaker: Entry = {}
        for section in (self.litellm, self.router):
            fails = self.checked(section, "allowed_fails", lambda v: _whole(v, Whole), "a whole number")
            cooldown = self.settings_seconds(section, "cooldown_time")
            if fails is not None:
                breaker |= {"min_calls": min(fails + 1, LARGEST_INTEGER), "window_s": 60}
                how = "a breaker opens when half of the calls of a minute have failed, and so many at least"
                self.report.change((*section.path, "allowed_fails"), how)
            if cooldown is not None:
                breaker["open_s"] = cooldown
        return breaker

    def read_retries(self) -> Entry:
        found: int | None = None
        where = ""
        for section in (self.litellm, self.router):
            own = self.checked(section, "num_retries", lambda v: _whole(v, Whole), "a whole number")
            if own is not None:
                found, where = own, path_text((*section.path, "num_retries"))
        if found is None:
            return {}
        retries: Entry = {"attempts": found}
        if pause := self.settings_seconds(self.router, "retry_after"):
            retries["first_delay_s"] = pause
        self.origin["routing", "retries"] = where
        return {"retries": retries}

    def read_master_key(self) -> tuple[list[Entry], Entry]:
        key = self.general.take("master_key")
        if key is None or key == "":
            self.report.change(
                ("general_settings", "master_key"), "there is none: open on this machine alone"
            )
            return [], {"mode": "open"}
        path = ("general_settings", "master_key")
        self.report.change(path, "it calls models; the admin API has a token of its own, GATEWAY_ADMIN_TOKEN")
        return [{"name": "litellm-master", "key": self.secret(key, path, "LITELLM_MASTER_KEY")}], {
            "mode": "keys"
        }

    def read_budget(self) -> list[Entry]:
        budgets: list[Entry] = []
        for section in (self.litellm, self.general):
            amount, duration = section.take("max_budget"), section.take("budget_duration")
            budget = self.budget(amount, duration, section.path, "litellm" if not budgets else "litellm-2")
            if budget:
                budgets.append(budget)
        return budgets

    def budget(self, amount: Any, duration: Any, path: KeyPath, name: str) -> Entry | None:
        if amount is None:
            if duration is not None:
                self.report.leave((*path, "budget_duration"), "there is no max_budget beside it")
            return None
        usd = _number(amount)
        if usd is None or not _fits(LimitUsd, usd):
            self.report.leave((*path, "max_budget"), "expected dollars above 0 and up to 9,000,000")
            return None
        budget: Entry = {"name": name, "per": "global"}
        if duration is not None:
            found = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
            window = _WINDOWS.get(int(found.group(1)) * _UNITS[found.group(2)]) if found else None
            if window is None:
                self.report.leave((*path, "max_budget"), "a window is 1h, 1d, 1w or 1mo: choose one")
                return None
            budget["window"] = window
            self.report.change((*path, "budget_duration"), f"{window} by the calendar, in UTC")
        budget["limit_usd"] = _plain(usd)
        self.origin["budgets", name] = path_text((*path, "max_budget"))
        return budget

    def read_global_limit(self) -> None:
        most = self.first_count("global_max_parallel_requests", self.general)
        if most:
            rate: Entry = {"name": "everyone", "per": "global", "max_concurrency": most}
            self.rates.append((rate, "general_settings.global_max_parallel_requests"))

    def read_cache(self) -> Entry | None:
        on = self.litellm.take("cache")
        params = self.section(self.litellm, "cache_params")
        if not _is_on(on):
            if params.data:
                self.report.leave(params.path, "cache is not on")
            return None
        kind = params.take("type")
        if isinstance(kind, str) and "semantic" in kind:
            self.report.leave((*params.path, "type"), "see cache.semantic: docs/caching.md")
        exact: Entry = {"mode": "shadow"}
        if ttl := self.settings_seconds(params, "ttl"):
            exact["ttl_s"] = ttl
        how = "in shadow, for one user each and for requests with temperature 0: docs/caching.md"
        self.report.change(("litellm_settings", "cache"), how)
        for key, value in params.data.items():
            if value is not None:
                self.report.leave((*params.path, key), _HINTS["cache_params"])
        return exact

    def secret(self, value: Any, path: KeyPath, variable: str) -> _Reference | str:
        """What stands for a credential: the variable it names, or one made up for a literal."""
        literal = str(value)
        if reference := _reference(literal):
            return reference
        if literal not in self.literals:
            number, name = 1, variable
            while name in self.names:
                number += 1
                name = f"{variable}_{number}"
            self.names.add(name)
            self.literals[literal] = name
            self.report.to_set.append(f"{name}: the secret at {path_text(path)}, which is not repeated here")
        return _Reference(f"${{{self.literals[literal]}}}")

    # -- models ----------------------------------------------------------------------------------

    def read_models(self) -> None:
        groups: dict[str, list[_Place]] = {}
        for index, each in enumerate(self.root.take("model_list") or ()):
            path: KeyPath = ("model_list", index)
            if not isinstance(each, dict):
                self.report.leave(path, f"got {kind_text(each)}, expected a mapping")
                continue
            name = each.get("model_name")
            if not isinstance(name, str) or not _fits(ModelName, name):
                why = "expected a name without spaces, with * at most at its end"
                self.report.leave((*path, "model_name"), why)
            elif place := self.place(index, name, dict(each)):
                groups.setdefault(name, []).append(place)
        balance = self.balance(groups)
        taken = set(groups)
        for name, places in groups.items():
            self.group(name, places, balance, taken)

    def balance(self, groups: dict[str, list[_Place]]) -> str:
        strategy = self.strategy
        if strategy is None:
            return "weight"
        found = _BALANCE.get(strategy) if isinstance(strategy, str) else None
        if found is None:
            self.report.leave(("router_settings", "routing_strategy"), "balance: weight is used instead")
        return found or "weight"

    def place(self, index: int, name: str, each: dict[str, Any]) -> _Place | None:
        path: KeyPath = ("model_list", index)
        model = _Section(each, path)
        model.take("model_name")
        params, info = self.section(model, "litellm_params"), self.section(model, "model_info")
        info.take("id")
        credential = params.take("litellm_credential_name")
        if credential is not None:
            known = self.credentials.get(credential) if isinstance(credential, str) else None
            if known is None:
                why = "no such credential in credential_list: the provider's usual variable is used"
                self.report.leave((*params.path, "litellm_credential_name"), why)
            params.data = {**(known or {}), **params.data}
        found = self.host(params)
        if found is None:
            return None
        prefix, upstream = found
        if not _fits(Label, upstream) or ("*" in upstream and not name.endswith("*")):
            self.report.leave((*params.path, "model"), "a wildcard needs a model_name that ends with one")
            return None
        if "*" in upstream and (upstream.count("*") > 1):
            self.report.leave((*params.path, "model"), "expected one * at most")
            return None
        provider = self.provider(index, name, prefix, params)
        if provider is None:
            return None
        entry: Entry = {"provider": provider}
        if upstream != name:
            entry["upstream_model"] = upstream
        limits = {}
        for key in ("weight", "rpm", "tpm", "order"):
            # Old files have rpm and tpm beside litellm_params.
            outer, inner = model.take(key), params.take(key)
            value = _number(inner if inner is not None else outer)
            if value is not None and value >= 0:
                limits[key] = value
            elif inner is not None or outer is not None:
                self.report.leave((*params.path, key), "expected a number")
        entry |= self.facts(prefix, params, info)
        for section in (model, params, info):
            self.leave_rest(section)
        return _Place(index, provider, entry, limits)

    def host(self, params: _Section) -> tuple[str, str] | None:
        """LiteLLM's provider of a model, and the model's name there."""
        model, custom = params.take("model"), params.take("custom_llm_provider")
        path = (*params.path, "model")
        if not isinstance(model, str) or not model:
            self.report.leave(path, f"got {kind_text(model)}, expected a model; its entry is left out")
            return None
        prefix, slash, name = model.partition("/")
        if isinstance(custom, str):
            prefix, name = custom, model.removeprefix(f"{custom}/")
        elif not slash:
            prefix, name = _guessed(model), model
        if prefix not in _HOSTS:
            why = f"{quoted(prefix)} is none of the providers that can be carried; its entry is left out"
            if prefix == "":
                why = "its provider is not known; its entry is left out"
            elif prefix in _FOREIGN:
                why = f"{prefix} has an API of its own; write its OpenAI-compatible endpoint as a provider"
            self.report.leave(path, why)
            return None
        if prefix == "azure":
            name = re.sub(r"^(o_series|gpt5_series|responses)/", "", name)
        elif prefix == "openai":
            name = name.removeprefix("responses/")
        return prefix, name

    def provider(self, index: int, model: str, prefix: str, params: _Section) -> str | None:
        """The name of the provider entry for a model, made where there is none alike."""
        host = _HOSTS[prefix]
        name = host.name or prefix
        base = self.base_url(host, prefix, params)
        if base is None:
            return None
        entry: Entry = {"dialect": host.dialect, "base_url": base}
        key = params.take("api_key")
        if isinstance(key, str) and key.strip().lower() in ("", "none", "na", "n/a", "empty"):
            entry["api_key"] = "none"
        elif key is not None and not isinstance(key, dict | list):
            variable = f"LITELLM_{re.sub('[^A-Za-z0-9]', '_', name).upper()}_KEY"
            entry["api_key"] = self.secret(key, (*params.path, "api_key"), variable)
        else:
            entry["api_key"] = _Reference(f"${{{host.key}}}") if host.key else "none"
            if key is not None:
                self.report.leave((*params.path, "api_key"), f"got {kind_text(key)}, expected text")
        if version := params.take("api_version"):
            known = _reference(version) if isinstance(version, str) else None
            if host.dialect == "azure_openai" and (known or _text(version)):
                entry["api_version"] = known or version
            else:
                self.report.leave((*params.path, "api_version"))
        total = self.settings_seconds(params, "timeout") or self.timeout
        first = self.settings_seconds(params, "stream_timeout") or self.stream_timeout or total
        timeouts = {"first_byte_s": first, "total_s": total}
        if given := {key: value for key, value in timeouts.items() if value is not None}:
            entry["timeouts"] = given
        if self.breaker != {}:
            entry["breaker"] = self.breaker
        most = self.first_count("max_parallel_requests", params) or self.parallel
        if most:
            # The limit is the deployment's, so it has a provider entry of its own.
            entry["max_concurrency"] = most
            slug = re.sub("[^A-Za-z0-9_.-]+", "-", model).strip("-.")
            name = f"{name}-{slug}"[:56].rstrip("-.")
        else:
            for other, known_entry in self.providers.items():
                if known_entry == entry:
                    return other
        name = _free(name, self.providers)
        self.providers[name] = entry
        self.origin["providers", name] = path_text(params.path)
        return name

    def base_url(self, host: _Host, prefix: str, params: _Section) -> str | None:
        given = params.take("api_base")
        other = params.take("base_url")
        given = other if given is None else given
        path = (*params.path, "api_base")
        if given is None:
            if host.base_url is not None:
                return host.base_url
            return _Reference(f"${{{prefix.upper()}_API_BASE}}")
        if not isinstance(given, str):
            self.report.leave(path, f"got {kind_text(given)}, expected a URL; its entry is left out")
            return None
        if reference := _reference(given):
            return _Reference(f"{reference}{host.below}")
        url = given.rstrip("/")
        for end in ("/chat/completions", "/v1/messages"):
            url = url.removesuffix(end)
        if host.dialect == "azure_openai":
            url = url.partition("/openai/deployments")[0]
        if host.below and not url.endswith(host.below):
            url += host.below
        if not _fits(BaseUrl, url) or "$" in url:
            why = "expected a URL without credentials, query or fragment; its entry is left out"
            self.report.leave(path, why)
            return None
        if host.dialect == "openai" and url.count("/") == 2:
            self.report.change(
                path, "paths such as /chat/completions are put behind it: most servers want /v1"
            )
        return url

    def facts(self, prefix: str, params: _Section, info: _Section) -> Entry:
        """What is known of a model: its price and its limits."""
        facts: Entry = {}
        if (price := self.price(params, info)) is not None:
            facts["price"] = price
        elif prefix in ("ollama", "ollama_chat", "llamafile", "lm_studio"):
            facts["price"] = "free"
        elif prefix == "azure":
            how = "priced by its deployment's name: write a price where the table does not know that"
            self.report.change((*params.path, "model"), how)
        window = self.checked(info, "max_input_tokens", _whole, "a whole number above 0")
        most = self.checked(info, "max_output_tokens", _whole, "a whole number above 0")
        alike = self.checked(info, "max_tokens", _whole, "a whole number above 0")
        asked = self.checked(params, "max_tokens", _whole, "a whole number above 0")
        if asked:
            self.report.change(
                (*params.path, "max_tokens"), "a default there, the most that is let through here"
            )
        if window:
            facts["context_window"] = window
        bounds = [bound for bound in (most or alike, asked) if bound]
        if bounds:
            facts["max_output_tokens"] = min(bounds)
        lacks = []
        for key, ability in _ABILITIES.items():
            if info.take(key) is False:
                lacks.append(ability)
        if lacks:
            facts["lacks"] = lacks
        info.take("mode")
        return facts

    def price(self, params: _Section, info: _Section) -> Entry | str | None:
        price: Entry = {}
        tiers: dict[int, Entry] = {}
        for section in (info, params):
            for key in list(section.data):
                tier = _TIER.fullmatch(key)
                if key not in _PRICES and not tier:
                    continue
                usd = self.checked(section, key, _usd_per_mtok, "dollars for a token")
                if usd is None:
                    continue
                if tier:
                    bound = int(tier.group(2)) * 1000
                    if bound:
                        tiers.setdefault(bound, {})[_PRICES[tier.group(1)]] = _plain(usd)
                else:
                    price[_PRICES[key]] = _plain(usd)
        if not price:
            for bound in tiers:
                self.report.leave(
                    (*params.path, f"…_above_{bound // 1000}k_tokens"), "there is no base price"
                )
            return None
        if not any(price.values()):
            if tiers:
                self.report.leave((*params.path, "…_above_…k_tokens"), "the base price is 0")
            return "free"
        ordered = {key: price[key] for key in _PRICES.values() if key in price}
        if not ("input_usd_per_mtok" in ordered and "output_usd_per_mtok" in ordered):
            how = "only part of a price is given; tokens without one are unknown here, not free"
            self.report.change(params.path, how)
        if tiers:
            ordered["tiers"] = [{"above_input_tokens": bound, **tiers[bound]} for bound in sorted(tiers)]
        return ordered

    def group(self, name: str, places: list[_Place], balance: str, taken: set[str]) -> None:
        if name.endswith("*") and len(places) > 1:
            for place in places[1:]:
                self.report.leave(
                    ("model_list", place.index), "a wildcard has one provider; give models names"
                )
            places = places[:1]
        weights = self.weights(name, places)
        main, others = places[0], places[1:]
        self.models[name] = dict(main.entry)
        self.origin["models", name] = f"model_list[{main.index}]"
        deployments = {}
        for place, weight in zip(others, weights[1:], strict=True):
            own = _free(name, taken, first=2)
            if not _fits(ModelName, own):
                self.report.leave(
                    ("model_list", place.index), "its name is too long for a further deployment"
                )
                continue
            taken.add(own)
            self.stand_ins.add(own)
            deployments[own] = weight
            entry = dict(place.entry)
            entry.setdefault("upstream_model", name)
            self.models[own] = {key: entry[key] for key in ("provider", "upstream_model", *entry)}
            self.origin["models", own] = f"model_list[{place.index}]"
        if deployments:
            if weights[0] != 1:
                self.models[name]["weight"] = weights[0]
            self.models[name]["deployments"] = deployments
            if balance != "weight":
                self.models[name]["balance"] = balance
        self.limit(name, places, list(deployments))

    def weights(self, name: str, places: Sequence[_Place]) -> list[int | Decimal]:
        by = next((key for key in ("weight", "rpm", "tpm") if any(key in p.limits for p in places)), None)
        found = [place.limits.get(by, Decimal(0)) if by else Decimal(1) for place in places]
        if not any(found):
            found = [Decimal(1)] * len(places)
        if all(weight == weight.to_integral_value() for weight in found):
            shared = math.gcd(*(int(weight) for weight in found))
            found = [weight / shared for weight in found]
        if (most := max(found)) > 1000:
            found = [(weight * 1000 / most).quantize(Decimal("0.001")) for weight in found]
        if by and any(by not in place.limits for place in places):
            how = f"a deployment without {by} only stands in"
            self.report.change(("model_list", places[0].index, "litellm_params", by), how)
        orders = [place.limits.get("order") for place in places]
        given = [order for order in orders if order is not None]
        if given and len(places) > 1:
            first = min(given)
            if any(weight for weight, order in zip(found, orders, strict=True) if order == first):
                found = [w if order == first else Decimal(0) for w, order in zip(found, orders, strict=True)]
        return [_plain(weight) for weight in found]

    def limit(self, name: str, places: Sequence[_Place], further: list[str]) -> None:
        """One rate for all deployments of a model, where each says how much it takes."""
        rate: Entry = {}
        for key, ours in (("rpm", "requests_per_minute"), ("tpm", "tokens_per_minute")):
            given = [place.limits[key] for place in places if key in place.limits]
            total = _whole(sum(given)) if len(given) == len(places) else None
            if total:
                rate[ours] = total
            elif given:
                some = len(given) < len(places)
                why = (
                    "not every deployment of the model has one" if some else "expected a whole number above 0"
                )
                self.report.leave(("model_list", places[0].index, "litellm_params", key), why)
        if not rate:
            return
        slug = re.sub("[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "any"
        label = _free(slug[:56].rstrip("-.") or "any", {str(each["name"]) for each, _ in self.rates})
        head: Entry = {"name": label, "per": "global", **rate}
        if not self.enforces:
            head["mode"] = "shadow"
            how = "rates in shadow: LiteLLM refuses by rpm and tpm with usage-based routing alone"
            self.report.change(("model_list", places[0].index, "litellm_params"), how)
        head["match"] = {"model": [name, *further] if further else name}
        self.rates.append((head, ", ".join(f"model_list[{place.index}]" for place in places)))

    def read_aliases(self) -> None:
        for section, key in ((self.router, "model_group_alias"), (self.litellm, "model_alias_map")):
            aliases = self.section(section, key)
            for alias, target in aliases.data.items():
                path = (*aliases.path, alias)
                group = target.get("model") if isinstance(target, dict) else target
                if not isinstance(group, str) or group not in self.models:
                    self.report.leave(path, "it names no model that was carried")
                elif alias in self.models or not _fits(ModelName, alias):
                    self.report.leave(path, "another model has this name, or it is no name here")
                elif alias.endswith("*") != group.endswith("*"):
                    self.report.leave(path, "only one of the two is a wildcard")
                else:
                    entry = dict(self.models[group])
                    entry.setdefault("upstream_model", group)
                    self.aliases[alias] = group
                    self.models[alias] = {k: entry[k] for k in ("provider", "upstream_model", *entry)}
                    self.origin["models", alias] = path_text(path)

    def read_fallbacks(self) -> None:
        found: dict[str, list[str]] = {}
        common: list[str] = []
        for section in (self.litellm, self.router):
            path = (*section.path, "fallbacks")
            value = section.take("fallbacks")
            for index, each in enumerate(value if isinstance(value, list) else ()):
                for name, names in each.items() if isinstance(each, dict) else ():
                    here = (*path, index, name)
                    targets = self.targets(names, here)
                    if name == "*":
                        common += targets
                    elif name in self.models:
                        # The router's own come instead of the general ones.
                        found[name] = targets
                    else:
                        self.report.leave(here, "no such model was carried")
                if not isinstance(each, dict):
                    self.report.leave((*path, index), f"got {kind_text(each)}, expected a mapping")
            if value is not None and not isinstance(value, list):
                self.report.leave(path, f"got {kind_text(value)}, expected a list")
            default = section.take("default_fallbacks")
            if default is not None:
                common += self.targets(default, (*section.path, "default_fallbacks"))
        for name, entry in self.models.items():
            if name in self.stand_ins:
                continue
            chosen = found.get(name, found.get(self.aliases.get(name, ""), common))
            targets = [each for each in chosen if each not in (name, self.aliases.get(name))]
            if targets:
                entry["fallbacks"] = list(dict.fromkeys(targets))
                self.origin["models", name] += ", fallbacks"

    def targets(self, names: Any, path: KeyPath) -> list[str]:
        """The fallbacks in a list that are models of the policy."""
        targets = []
        for index, name in enumerate(names if isinstance(names, list) else [names]):
            covered = isinstance(name, str) and not name.endswith("*") and self.covered(name)
            if covered:
                targets.append(str(name))
            else:
                self.report.leave((*path, index), "no such model was carried")
        return targets

    def covered(self, name: str) -> bool:
        patterns = [each[:-1] for each in self.models if each.endswith("*")]
        return _fits(ModelName, name) and (name in self.models or any(map(name.startswith, patterns)))

    # -- writing ---------------------------------------------------------------------------------

    def written(
        self, auth: Entry, keys: list[Entry], budgets: list[Entry], routing: Entry, exact: Entry | None
    ) -> Imported:
        imported_from = re.sub(r"[^\x20-\x7e]", "?", self.file)[-80:]
        lines = [
            f"# Made by `gateway import litellm` from {imported_from}. Comments name the part of it that",
            "# a line comes from; what was not carried, and what works otherwise here, is at the end.",
            "version: 1",
            "",
        ]
        if auth["mode"] == "open":
            lines += [
                "# Without a master_key anyone on this machine may call, and nobody else.",
                "auth: {mode: open}",
            ]
        else:
            lines.append("auth: {mode: keys}")
            lines += ["keys:", *(_item(key, "general_settings.master_key") for key in keys)]
        used = {entry["provider"] for entry in self.models.values()}
        providers = {name: entry for name, entry in self.providers.items() if name in used}
        for section, entries in (("providers", providers), ("models", self.models)):
            if entries:
                lines += ["", f"{section}:"]
                for name, entry in entries.items():
                    lines += _entry(name, entry, self.origin[section, name])
        if budgets:
            lines += ["", "budgets:"]
            lines += [_item(budget, self.origin["budgets", budget["name"]]) for budget in budgets]
        if self.rates:
            lines += ["", "rates:", *(_item(rate, where) for rate, where in self.rates)]
        if routing:
            lines += [
                "",
                "routing:",
                *_entry("retries", routing["retries"], self.origin["routing", "retries"]),
            ]
        if exact is not None:
            lines += ["", "cache:", *_entry("exact", exact, "litellm_settings.cache")]
        told = (tuple(self.report.to_set), _lines(self.report.changed), _lines(self.report.left))
        titles = ("To be set in the environment", "Carried, and works otherwise here", "Not carried")
        for title, notes in zip(titles, told, strict=True):
            if notes:
                lines += ["", f"# {title}:", *(f"# - {note}" for note in notes)]
        return Imported("\n".join(lines) + "\n", *told)


def _guessed(model: str) -> str:
    """LiteLLM's provider for a model that is named without one."""
    if _OPENAI_NAMES.match(model):
        return "openai"
    return "anthropic" if model.startswith("claude-") else ""


def _free(name: str, taken: Any, first: int = 1) -> str:
    """`name`, or with the first number from 2 on that nothing has."""
    number, own = first, name if first == 1 else f"{name}-{first}"
    while own in taken:
        number += 1
        own = f"{name}-{number}"
    return own


_WORD = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./:@+*-]*(?<!:)")
_LIKE_A_NUMBER = re.compile(r"[0-9._eE+-]+")
_RESERVED = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def _yaml(value: Any) -> str:
    """A value on one line, as a person would write it."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_key(key)}: {_yaml(part)}" for key, part in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_yaml, value)) + "]"
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case _Reference():
            return str(value)
        case str():
            return _key(value.replace("${", "$${"))
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _key(text: str) -> str:
    plain = _WORD.fullmatch(text) and not _LIKE_A_NUMBER.fullmatch(text) and text.lower() not in _RESERVED
    if plain:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _item(entry: Entry, where: str) -> str:
    return f"  - {_yaml(entry)}  # {where}"


def _entry(name: str, entry: Entry, where: str) -> list[str]:
    """A named section: on one line where that is short."""
    line = f"  {_key(name)}: {_yaml(entry)}"
    if len(line) + len(where) + 4 <= _WIDTH:
        return [f"{line}  # {where}"]
    return [
        f"  {_key(name)}:  # {where}",
        *(f"    {_key(key)}: {_yaml(part)}" for key, part in entry.items()),
    ]
