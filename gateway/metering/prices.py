"""What a token costs: rates per bucket of `Usage`, and the book that finds them for a provider's model.

Prices come from the policy first, then from the snapshot that the `genai-prices` package carries; nothing
is fetched. `Rates` are plain integers made once per model, because the package's own arithmetic is too slow
for every request. A model without a price is an error (`UnknownPrice`), never zero; zero needs `price: free`.

Names are matched more strictly than the package does: a clause such as "starts with gpt-5-nano-" counts
only when the rest of the name is a version, so that no model gets another's price by its prefix.
Times are UTC milliseconds and passed in; rates that change with the time of day are looked up again every
`PERIOD_MS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from difflib import get_close_matches
from importlib.metadata import version
from typing import Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from genai_prices import types as tables
from genai_prices.data_snapshot import get_snapshot

from gateway.domain import NANO_PER_USD, Millis, Nano, Usage
from gateway.metering.usage import PriceContext, ReadUsage

PERIOD_MS = 15 * 60 * 1000
"""Prices by the time of day begin and end on a full or half hour, so a quarter is always one price."""

MTOK = 1_000_000
SIMULATED = "simulated"
"""Price reference of the simulated provider, whose models are no one's and cost `SIM_RATES`."""
SIM_PROVIDER = "sim"
SIM_PREFIX = "sim/"
"""The built-in provider's name, and what its models' names begin with."""

_CACHED_RATES = 4096
_LONGEST_NAME = 200
_USUAL_TOOL_NANO = 10_000_000
"""$10 per 1,000 web searches, which OpenAI and Anthropic ask; for providers whose price is not listed."""


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Nano-dollars per million tokens, one for each token bucket of `Usage`."""

    input_uncached: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output_text: int
    output_reasoning: int
    audio_in: int
    audio_out: int
    image_in: int
    image_out: int

    def __post_init__(self) -> None:
        for bucket in TOKEN_BUCKETS:
            rate = getattr(self, bucket)
            if type(rate) is not int or rate < 0:
                raise ValueError(f"rate of {bucket}: got {rate!r}, expected an integer of at least 0")

    def at_least(self, other: TokenRates) -> TokenRates:
        """The dearer of both in every bucket."""
        return TokenRates(*(max(getattr(self, b), getattr(other, b)) for b in TOKEN_BUCKETS))

    def scaled(self, numerator: int, denominator: int) -> TokenRates:
        """Every rate times a fraction, rounded up."""
        return TokenRates(*(-(-getattr(self, b) * numerator // denominator) for b in TOKEN_BUCKETS))


TOKEN_BUCKETS: tuple[str, ...] = tuple(f.name for f in fields(TokenRates))


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates for the whole of a call whose input has more than `above` tokens."""

    above: int
    rates: TokenRates


class TierPrice(Protocol):
    """A tier as a policy writes it, in dollars per million tokens; `None` keeps the base price."""

    @property
    def above_input_tokens(self) -> int: ...
    @property
    def input_usd_per_mtok(self) -> Decimal | None: ...
    @property
    def output_usd_per_mtok(self) -> Decimal | None: ...
    @property
    def cached_input_usd_per_mtok(self) -> Decimal | None: ...
    @property
    def cache_write_usd_per_mtok(self) -> Decimal | None: ...


@dataclass(frozen=True, slots=True)
class Rates:
    """Everything that a call to one model is priced by.

    A tier is never cheaper than the one below it: where a table says so, the dearer rate is kept, so that
    cost grows with every bucket. Raises `ValueError` for negative or non-integer rates.
    """

    base: TokenRates
    tiers: tuple[Tier, ...] = ()
    """By rising `above`."""
    request_nano: Nano = 0
    """Per call."""
    tool_nano: Nano = 0
    """Per `Usage.tool_requests`."""
    free: bool = False
    """Declared to cost nothing; the only way to cost nothing."""
    prices_output: bool = True
    """False for models that only read (embeddings): output, if any came, costs as input does."""
    origin: Literal["policy", "table", "simulated"] = "policy"

    def __post_init__(self) -> None:
        if type(self.request_nano) is not int or type(self.tool_nano) is not int:
            raise ValueError("prices per piece are integers")
        if self.request_nano < 0 or self.tool_nano < 0:
            raise ValueError("prices per piece are at least 0")
        rising: list[Tier] = []
        below = self.base
        for tier in sorted(self.tiers, key=lambda tier: tier.above):
            below = tier.rates.at_least(below)
            rising.append(Tier(tier.above, below))
        object.__setattr__(self, "tiers", tuple(rising))

    def at(self, input_tokens: int) -> TokenRates:
        """The rates of a call with that much input, cached tokens included."""
        found = self.base
        for tier in self.tiers:
            if input_tokens <= tier.above:
                break
            found = tier.rates
        return found

    def cost(self, usage: Usage) -> Nano:
        """What a call cost, in nano-dollars: exact, rounded up once, at least 0."""
        if self.free:
            return 0
        r = self.at(usage.input_total)
        parts = (
            usage.input_uncached * r.input_uncached
            + usage.cache_read * r.cache_read
            + usage.cache_write_5m * r.cache_write_5m
            + usage.cache_write_1h * r.cache_write_1h
            + usage.output_text * r.output_text
            + usage.output_reasoning * r.output_reasoning
            + usage.audio_in * r.audio_in
            + usage.audio_out * r.audio_out
            + usage.image_in * r.image_in
            + usage.image_out * r.image_out
        )
        return max(0, -(-parts // MTOK)) + self.request_nano + max(0, usage.tool_requests) * self.tool_nano

    def scaled(self, numerator: int, denominator: int) -> Rates:
        """Every token rate times a fraction, rounded up."""
        return Rates(
            self.base.scaled(numerator, denominator),
            tuple(Tier(t.above, t.rates.scaled(numerator, denominator)) for t in self.tiers),
            self.request_nano,
            self.tool_nano,
            self.free,
            self.prices_output,
            self.origin,
        )

    @staticmethod
    def free_of_charge() -> Rates:
        """The rates of `price: free`."""
        return Rates(TokenRates(*(0 for _ in TOKEN_BUCKETS)), free=True)

    @staticmethod
    def from_policy(
        *,
        input_usd_per_mtok: Decimal | None = None,
        output_usd_per_mtok: Decimal | None = None,
        cached_input_usd_per_mtok: Decimal | None = None,
        cache_write_usd_per_mtok: Decimal | None = None,
        request_usd: Decimal | None = None,
        tiers: Iterable[TierPrice] = (),
    ) -> Rates:
        """The rates that a policy declares, from dollars.

        Cached input without a price costs as input; a cache write costs at least as input and, for an hour,
        as for five minutes. Input without a price costs as output and the other way round.
        Raises: `ValueError` when no price is given at all, or one is negative or not finite.
        """
        base = _Declared(
            input_usd_per_mtok, output_usd_per_mtok, cached_input_usd_per_mtok, cache_write_usd_per_mtok
        )
        if input_usd_per_mtok is None and output_usd_per_mtok is None and request_usd is None:
            raise ValueError("a price needs at least one of input, output and request")
        return Rates(
            base.rates(),
            tuple(
                Tier(
                    tier.above_input_tokens,
                    _Declared(
                        _first(tier.input_usd_per_mtok, base.given),
                        _first(tier.output_usd_per_mtok, base.made),
                        _first(tier.cached_input_usd_per_mtok, base.cached),
                        _first(tier.cache_write_usd_per_mtok, base.written),
                    ).rates(),
                )
                for tier in tiers
            ),
            request_nano=_ceil(request_usd or Decimal(0)),
            prices_output=output_usd_per_mtok is not None,
        )


def _first(own: Decimal | None, base: Decimal | None) -> Decimal | None:
    return base if own is None else own


@dataclass(frozen=True, slots=True)
class _Declared:
    given: Decimal | None
    made: Decimal | None
    cached: Decimal | None
    written: Decimal | None

    def rates(self) -> TokenRates:
        given = _ceil(_first(_first(self.given, self.made), Decimal(0)) or Decimal(0))
        made = _ceil(_first(_first(self.made, self.given), Decimal(0)) or Decimal(0))
        cached = given if self.cached is None else _ceil(self.cached)
        written = given if self.written is None else _ceil(self.written)
        return TokenRates(given, cached, written, written, made, made, given, made, given, made)


def _ceil(usd: Decimal) -> Nano:
    """Dollars in nano-dollars, rounded up. Raises `ValueError` for what is no price."""
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"price: got {usd}, expected a number of at least 0")
    return int((usd * NANO_PER_USD).to_integral_value(rounding=ROUND_CEILING))


FREE = Rates.free_of_charge()

SIM_RATES = Rates(
    TokenRates(
        input_uncached=2_500_000_000,
        cache_read=1_250_000_000,
        cache_write_5m=2_500_000_000,
        cache_write_1h=2_500_000_000,
        output_text=10_000_000_000,
        output_reasoning=10_000_000_000,
        audio_in=2_500_000_000,
        audio_out=10_000_000_000,
        image_in=2_500_000_000,
        image_out=10_000_000_000,
    ),
    origin="simulated",
)
"""$2.50 in, $1.25 cached, $10 out per million tokens: invented, on no provider's bill."""


class UnknownPrice(Exception):  # noqa: N818 - named as its error code is
    """No price is known for a model, or not for the way it was asked for. Nothing may be sent."""

    def __init__(self, provider: str, model: str, reason: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"no price for model '{model[:_LONGEST_NAME]}' of provider '{provider}': {reason}")
        self.provider = provider
        self.model = model
        self.reason = reason
        self._known = known

    def again(self) -> UnknownPrice:
        """The same error, to be raised once more without the first one's traceback."""
        return UnknownPrice(self.provider, self.model, self.reason, self._known)

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Names like it that do have a price; worked out when asked for."""
        return tuple(
            get_close_matches(self.model[:_LONGEST_NAME].lower(), list(self._known), n=3, cutoff=0.6)
        )


@dataclass(frozen=True, slots=True)
class TableInfo:
    """Which price table is in use: the package's version, and the newest day its entries speak of."""

    version: str
    newest_entry: date | None


_HOSTS = {
    "api.openai.com": "openai",
    "us.api.openai.com": "openai",
    "eu.api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "aiplatform.googleapis.com": "google",
    "api.groq.com": "groq",
    "openrouter.ai": "openrouter",
    "api.openrouter.ai": "openrouter",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "api.x.ai": "x-ai",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "api.fireworks.ai": "fireworks",
    "api.perplexity.ai": "perplexity",
    "api.cerebras.ai": "cerebras",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.moonshot.ai": "moonshotai",
    "api.moonshot.cn": "moonshotai",
    "api.novita.ai": "novita",
    "api.z.ai": "zai",
    "open.bigmodel.cn": "zhipuai",
    "api.minimax.io": "minimax",
    "api.voyageai.com": "voyageai",
}
_HOST_ENDINGS = (
    (".openai.azure.com", "azure"),
    (".services.ai.azure.com", "azure"),
    (".cognitiveservices.azure.com", "azure"),
    ("-aiplatform.googleapis.com", "google"),
)
_BEDROCK = re.compile(r"bedrock-(?:runtime|mantle)\.[a-z0-9-]+\.(?:amazonaws\.com|api\.aws)")


def provider_ref(dialect: str, base_url: str) -> str | None:
    """The price table's name for a provider, by the host of its address.

    `None` for hosts that are not known (vLLM, Ollama, a proxy): their models need a price in the policy.
    """
    if dialect == SIMULATED:
        return SIMULATED
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    if host in _HOSTS:
        return _HOSTS[host]
    for ending, ref in _HOST_ENDINGS:
        if host.endswith(ending):
            return ref
    if _BEDROCK.fullmatch(host):
        return "aws"
    if host == "router.huggingface.co":
        backend = parts.path.strip("/").split("/")[0]
        return f"huggingface_{backend}" if backend else None
    return None


_VENDOR = re.compile(r"(?:[a-z0-9-]+[./])*")
"""What may stand before a name that a clause finds inside another: `us.anthropic.`, `publishers/google/`."""
_VERSION = re.compile(r"(?:[-@:._]?(?:v\d++(?::\d)?|\d{2,}+|latest|preview|exp|experimental|beta|stable))*")
"""What may stand after it. One digit alone may not: the 1 of `-4-1` is another model than `-4`. Digits are
taken together or not at all: a long row of them would else be cut up in every way there is."""
_COMPACT_DATE = re.compile(r"-(20\d\d)(\d\d)(\d\d)(?=-|:|$)")


def _exactly(clause: tables.MatchLogic, name: str) -> bool:
    """Whether a clause names the model in full; the table's regular expressions spell out dated names."""
    if isinstance(clause, tables.ClauseOr):
        return any(_exactly(part, name) for part in clause.or_)
    return isinstance(clause, tables.ClauseEquals | tables.ClauseRegex) and clause.is_match(name)


def _loosely(clause: tables.MatchLogic, name: str) -> Iterator[str]:
    """The literals by which a clause matches a part of the name."""
    if isinstance(clause, tables.ClauseOr):
        for part in clause.or_:
            yield from _loosely(part, name)
    elif isinstance(clause, tables.ClauseAnd):
        if clause.is_match(name):
            for part in clause.and_:
                yield from _loosely(part, name)
    elif clause.is_match(name):
        if isinstance(clause, tables.ClauseStartsWith):
            yield clause.starts_with.lower()
        elif isinstance(clause, tables.ClauseEndsWith):
            yield clause.ends_with.lower()
        elif isinstance(clause, tables.ClauseContains):
            yield clause.contains.lower()


def _is_version_of(literal: str, name: str) -> bool:
    before, _, after = name.partition(literal)
    if not _VENDOR.fullmatch(before) or not _VERSION.fullmatch(after):
        return False
    if literal[-1:].isdigit() and after[:1].isdigit():
        # "claude-sonnet-4-2025" + "0514" completes a date; "claude-opus-4-1" + "05" does not.
        return bool(re.search(r"(?<!\d)20\d{6}$", literal + re.split(r"\D", after, maxsplit=1)[0]))
    return True


_FINE_TUNED = {
    "gpt-4.1-2025-04-14": ("3", "0.75", "12"),
    "gpt-4.1-mini-2025-04-14": ("0.80", "0.20", "3.20"),
    "gpt-4.1-nano-2025-04-14": ("0.20", "0.05", "0.80"),
    "o4-mini-2025-04-16": ("4", "1", "16"),
}
"""Fine-tuned models that the table lacks: input, cached input, output in dollars per million tokens.
Source: https://platform.openai.com/docs/pricing#fine-tuning, prices without data sharing."""

_AUDIO = {
    "gpt-4o-audio-preview-2024-10-01": ("100", "200"),
    "gpt-4o-audio-preview": ("40", "80"),
    "gpt-4o-mini-audio-preview": ("10", "20"),
}
"""Audio input and output of models for which the table has text prices alone; the first that begins the name.
Source: https://platform.openai.com/docs/pricing#audio-tokens"""

_FREE_AT_PROVIDER = {"openai": re.compile(r"(?:omni|text)-moderation-[a-z0-9-]+")}
"""Free by the provider's own documentation: https://platform.openai.com/docs/guides/moderation"""


class PriceBook:
    """Rates of every model in use. Reads are one dictionary access once a model has been seen.

    `policy_prices`: by (provider, model) as the policy names the provider and the provider the model; they
    hold whatever else the table says. `refs`: each provider's name in the table (`provider_ref`).
    `aliases`: by the same key, the name whose price a deployment has.
    """

    def __init__(
        self,
        policy_prices: Mapping[tuple[str, str], Rates] | None = None,
        refs: Mapping[str, str | None] | None = None,
        aliases: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self._policy = dict(policy_prices or {})
        self._refs = dict(refs or {})
        self._aliases = dict(aliases or {})
        self._providers: dict[str, tables.Provider] = {}
        self._known: dict[tuple[str, str, PriceContext], tuple[int, Rates]] = {}
        self._unknown: dict[tuple[str, str, PriceContext], tuple[int, UnknownPrice]] = {}
        self._windows: dict[tuple[str, str, PriceContext], int] = {}
        """0 where the table does not tell."""

    def rates(self, provider: str, model: str, now: Millis, context: PriceContext = ()) -> Rates:
        """The rates of a provider's model at a time, for a way of serving.

        `provider` is the policy's name for it, or the table's own.
        Raises: `UnknownPrice`; a dearer way of serving (`priority`) that has no price is unknown too.
        """
        own = self._policy.get((provider, model))
        if own is not None:
            return own
        key = (provider, model, context)
        period = now // PERIOD_MS
        known = self._known.get(key)
        if known is not None and known[0] in (-1, period):
            return known[1]
        missed = self._unknown.get(key)
        if missed is not None and missed[0] == period:
            raise missed[1].again()
        try:
            rates, changes = self._look_up(provider, model, now, context)
        except UnknownPrice as error:
            _remember(self._unknown, key, (period, error))
            raise
        _remember(self._known, key, (period if changes else -1, rates))
        return rates

    def cost(
        self, provider: str, model: str, read: ReadUsage, now: Millis, *, reserved: Rates | None = None
    ) -> Nano:
        """What a call cost in all, hosted models it used besides included, at the price it was served for.

        `now` is the time of admission. `reserved` are the rates it was admitted with, used where the reply
        tells of a way of serving that has no price. A hosted model without a price costs as the caller's.
        Raises: `UnknownPrice` when nothing was reserved and the model has none.
        """
        try:
            rates = self.rates(provider, model, now, read.context)
        except UnknownPrice:
            if reserved is None:
                raise
            rates = reserved
        total = rates.cost(read.usage)
        for other, usage in read.extras:
            try:
                extra = rates if other is None else self.rates(provider, other, now, read.context)
            except UnknownPrice:
                extra = rates
            total += extra.cost(usage)
        return total

    def warm(self, models: Iterable[tuple[str, str]], now: Millis) -> tuple[UnknownPrice, ...]:
        """Look up every (provider, model) before the first request; those without a price come back."""
        missing: list[UnknownPrice] = []
        for provider, model in models:
            try:
                self.rates(provider, model, now)
            except UnknownPrice as error:
                missing.append(error)
        return tuple(missing)

    def context_window(self, provider: str, model: str) -> int | None:
        """The most input tokens the model takes, where the table says."""
        key = (provider, model, ())
        if (known := self._windows.get(key)) is not None:
            return known or None
        found = self._find(self._ref(provider), self._aliases.get((provider, model), model))
        window = (found[1].context_window or 0) if found else 0
        _remember(self._windows, key, window)
        return window or None

    @property
    def table(self) -> TableInfo:
        """Which price table this is; walks the whole of it."""
        days: list[str] = []
        for provider in get_snapshot().providers:
            for text in (provider.price_comments, *(m.price_comments for m in provider.models)):
                days += re.findall(r"(?:checked|verified)[^.;]{0,40}?(20\d\d-\d\d-\d\d)", text or "")
        return TableInfo(version("genai-prices"), max(map(date.fromisoformat, days), default=None))

    def _ref(self, provider: str) -> str | None:
        return self._refs.get(provider, None if provider in self._refs else provider)

    def _provider(self, ref: str) -> tables.Provider | None:
        if not self._providers:
            self._providers = {p.id: p for p in get_snapshot().providers}
        return self._providers.get(ref)

    def _find(self, ref: str | None, model: str) -> tuple[tables.Provider, tables.ModelInfo] | None:
        """The table's entry for a model: by its full name if any has it, else by a version of a name."""
        provider = self._provider(ref) if ref else None
        if provider is None:
            return None
        sellers = [provider]
        for other in provider.fallback_model_providers or ():
            if seller := self._provider(other):
                sellers.append(seller)
        names = list(_spellings(provider.id, model))
        for name in names:
            for seller in sellers:
                for entry in seller.models:
                    if _exactly(entry.match, name):
                        return seller, entry
        for name in names:
            for seller in sellers:
                for entry in seller.models:
                    if any(_is_version_of(literal, name) for literal in _loosely(entry.match, name)):
                        return seller, entry
        return None

    def _look_up(self, provider: str, model: str, now: Millis, context: PriceContext) -> tuple[Rates, bool]:
        """Rates from the table, and whether they change with time."""
        ref = self._ref(provider)
        if ref == SIMULATED:
            return SIM_RATES, False
        source = self._provider(ref) if ref else None
        if ref is None or source is None:
            raise UnknownPrice(provider, model, "its provider is in no price table; declare 'price'")
        name = self._aliases.get((provider, model), model)
        if (free := _FREE_AT_PROVIDER.get(ref)) and free.fullmatch(name.lower()):
            return FREE, False
        known = [entry.id for entry in source.models]
        if name.lower().startswith("ft:"):
            declared, entry = self._fine_tuned(source, name.lower())
            if declared is not None:
                return _in_context(declared, source, None, context, provider, model), False
            found = (source, entry) if entry is not None else None
        else:
            found = self._find(ref, name)
        if found is None:
            raise UnknownPrice(provider, model, "the price table does not know it; declare 'price'", known)
        seller, entry = found
        own = seller.id == ref
        day = datetime.fromtimestamp(now / 1000, UTC)
        rates = _from_table(
            entry.get_prices(day, dict(context) if own and context else None),
            claude="claude" in entry.id.lower(),
            audio=next(
                (usd for start, usd in _AUDIO.items() if name.lower().rpartition("/")[2].startswith(start)),
                None,
            ),
        )
        if rates is None:
            raise UnknownPrice(
                provider,
                model,
                "no price per token is listed; declare 'price', or 'free'",
                known,
            )
        changes = not isinstance(entry.prices, tables.ModelPrice) or bool(context)
        return _in_context(rates, seller, entry if own else None, context, provider, model, day), changes

    def _fine_tuned(
        self, provider: tables.Provider, name: str
    ) -> tuple[Rates | None, tables.ModelInfo | None]:
        """The price of `ft:BASE:ORG:NAME:ID`. A known base is needed, and a price of its own: the base's
        price is always lower."""
        base = name.split(":")[1]
        if provider.id == "openai" and base in _FINE_TUNED:
            given, cached, made = map(Decimal, _FINE_TUNED[base])
            return Rates.from_policy(
                input_usd_per_mtok=given, cached_input_usd_per_mtok=cached, output_usd_per_mtok=made
            ), None
        if self._find(provider.id, base) is None:
            return None, None
        for entry in provider.models:
            if any(literal.startswith("ft:") for literal in _loosely(entry.match, name)):
                return None, entry
        return None, None


_Seen = TypeVar("_Seen")


def _remember(
    cache: dict[tuple[str, str, PriceContext], _Seen], key: tuple[str, str, PriceContext], value: _Seen
) -> None:
    """Names come from callers: neither many nor long ones may fill the memory."""
    if len(key[1]) > _LONGEST_NAME:
        return
    if len(cache) >= _CACHED_RATES:
        cache.clear()
    cache[key] = value


def _spellings(ref: str, model: str) -> Iterator[str]:
    """A model's name as callers write it, then without its provider's prefix, then with the date dashed."""
    name = model.strip().lower()
    plain = name.removeprefix(f"{ref}/").removeprefix("models/")
    for spelling in dict.fromkeys((name, plain)):
        yield spelling
        dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", spelling)
        if dashed != spelling:
            yield dashed


def _from_table(prices: tables.ModelPrice, *, claude: bool, audio: tuple[str, str] | None) -> Rates | None:
    """A table entry as rates, or `None` when it prices only what is not counted here (hours), or all at 0."""
    stated = {key: value for key, value in prices.__dict__.items() if value is not None}
    starts = sorted({t.start for v in stated.values() if isinstance(v, tables.TieredPrices) for t in v.tiers})

    def at(input_tokens: int) -> Callable[[str], int | None]:
        def price(key: str) -> int | None:
            value = stated.get(key)
            if isinstance(value, tables.TieredPrices):
                chosen = value.base
                for tier in value.tiers:
                    if input_tokens > tier.start:
                        chosen = tier.price
                return _ceil(chosen)
            return None if value is None else _ceil(value)

        return price

    base = _token_rates(at(0), claude, audio)
    if base is None:
        return None
    tiers: list[Tier] = []
    for start in starts:
        above = _token_rates(at(start + 1), claude, audio)
        if above is not None:
            tiers.append(Tier(start, above))
    request = at(0)("requests_kcount") or 0
    if not any(getattr(base, bucket) for bucket in TOKEN_BUCKETS) and not request:
        return None
    searches = [at(0)(key) for key in stated if key.endswith(("_searches_kcount", "_executions_kcount"))]
    tool = max((price for price in searches if price is not None), default=_USUAL_TOOL_NANO * 1000)
    return Rates(
        base,
        tuple(tiers),
        request_nano=-(-request // 1000),
        tool_nano=-(-tool // 1000),
        prices_output="output_mtok" in stated,
        origin="table",
    )


def _token_rates(
    price: Callable[[str], int | None], claude: bool, audio: tuple[str, str] | None
) -> TokenRates | None:
    """One tier of a table entry; a bucket without its own price takes the nearest that is not cheaper."""
    given = price("input_mtok")
    if given is None:
        return None

    def of(key: str, otherwise: int) -> int:
        found = price(key)
        return otherwise if found is None else found

    made = of("output_mtok", given)
    # Anthropic's multipliers: https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing
    written = of("cache_write_5m_mtok", of("cache_write_mtok", -(-given * 5 // 4) if claude else given))
    heard, said = (_ceil(Decimal(usd)) for usd in audio) if audio else (given, made)
    return TokenRates(
        input_uncached=given,
        cache_read=of("cache_read_mtok", given),
        cache_write_5m=written,
        cache_write_1h=of("cache_write_1h_mtok", max(2 * given, written) if claude else written),
        output_text=made,
        output_reasoning=of("output_reasoning_mtok", made),
        audio_in=of("input_audio_mtok", heard),
        audio_out=of("output_audio_mtok", said),
        image_in=of("input_image_mtok", given),
        image_out=of("output_image_mtok", made),
    )


def _in_context(
    rates: Rates,
    seller: tables.Provider,
    entry: tables.ModelInfo | None,
    context: PriceContext,
    provider: str,
    model: str,
    day: datetime | None = None,
) -> Rates:
    """Rates for a way of serving that the table may have a variant for.

    A dearer way without a variant is unknown; a cheaper one without keeps the standard price.
    """
    for name, value in context:
        if name == "inference_geo":
            # Inference in the US only: https://platform.claude.com/docs/en/about-claude/pricing#data-residency-pricing
            rates = rates.scaled(11, 10)
        elif value in ("priority", "fast") and not (seller.id == "anthropic" and name == "service_tier"):
            variants = entry.price_variants if entry is not None else None
            if not any(
                variant.when.get(name) == value
                and (variant.constraint is None or day is None or variant.constraint.active(day))
                for variant in variants or ()
            ):
                raise UnknownPrice(provider, model, f"the price table has no price for {name} '{value}'")
    return rates
