"""Who runs models, what they cost, and what each can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from gateway.policy.fields import (
    FREE_TAG,
    PRICED_TAG,
    BaseUrl,
    Count,
    Flag,
    Label,
    ModelName,
    Name,
    OneOrMore,
    PriceShape,
    ProviderKey,
    RateUsd,
    Seconds,
    Share,
    Weight,
    Whole,
    price_form,
)
from gateway.policy.sections.base import Section


class Timeouts(Section):
    """How long a provider may take, each in seconds."""

    connect_s: Seconds = 5.0
    """Until the connection stands."""
    first_byte_s: Seconds = 300.0
    """Until the first byte of the answer; binds streams, whose first byte comes early."""
    idle_s: Seconds = 120.0
    """Between two pieces of a stream."""
    total_s: Seconds = 600.0
    """For a plain answer, from first to last byte."""


class ProviderBreaker(Section):
    """When a provider that fails, or one of its models, is left alone for a while. What it refuses (4xx) and
    what callers break off does not count."""

    error_rate: Share = 0.5
    """Share of failing calls at which it opens."""
    min_calls: Count = 10
    """Calls in the window before it can open."""
    window_s: Seconds = 30.0
    """Seconds that are looked at."""
    dead_after_s: Seconds | None = 2.0
    """It opens as well when for so long all calls fail, `min_calls` of them; `null` for the share alone."""
    open_s: Seconds = 15.0
    """Seconds that it stays open."""
    probes: Count = 3
    """Calls that are then let through, of all workers together, and must all succeed to close it."""


class Queue(Section):
    """How calls wait that a provider has no slot for. High priority comes before normal before low; inside a
    priority, principals take turns."""

    size: Whole = 100
    """Most calls that wait, in each worker; beyond that the call is refused at once, or one whose claim to a
    place is weaker."""
    wait_s: Seconds = 10.0
    """Most seconds that a call waits. One that would wait longer, as far as can be told, is refused at once;
    clients give up on their own after some minutes."""


class Provider(Section):
    """A service that runs models."""

    dialect: Literal["openai", "azure_openai", "anthropic"]
    """The wire API it speaks."""
    base_url: BaseUrl
    """Where the dialect's paths begin: for `openai` up to and with `/v1`, for `anthropic` with or without it,
    for `azure_openai` the resource, or with `/openai/v1`."""
    api_key: ProviderKey = None
    """The gateway's own credential there; `none` for a server that asks for no key."""
    timeouts: Timeouts = Timeouts()
    """How long it may take."""
    api_version: Label | None = None
    """Value of `api-version`, for `azure_openai` alone."""
    output_limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Field in which a chat request tells the output limit that the gateway sets; `null` chooses by model."""
    price_table: Label | None = None
    """Whose prices hold here, by the price table's name (`openai`, `anthropic`, `azure`), where `base_url`
    does not tell: another proxy or a mirror in front of that provider."""
    surfaces: (
        Annotated[
            tuple[Literal["chat", "responses", "messages", "embeddings", "completions", "moderations"], ...],
            Field(min_length=1),
            OneOrMore,
        ]
        | None
    ) = None
    """The wire APIs that it has; `null` means all of its dialect. A request of another one is translated
    where that is possible: chat and messages to each other, responses to either."""
    breaker: ProviderBreaker | None = ProviderBreaker()
    """When it, or one of its models, is left alone because it fails; `null` switches this off."""
    stream_usage: Flag = True
    """Ask for the usage of chat streams (`stream_options.include_usage`) when the client does not."""
    max_concurrency: Count | None = None
    """Most calls at the same time, in each worker, a stream until its end; absent means no limit."""
    queue: Queue = Queue()
    """How calls beyond `max_concurrency` wait."""


class PriceTier(Section):
    """Prices that replace the base ones for a request with more input than a bound."""

    above_input_tokens: Count
    """Applies to the whole request when its input has more tokens than this."""
    input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens; absent keeps the base price."""
    output_usd_per_mtok: RateUsd | None = None
    """Dollars per million output tokens; absent keeps the base price."""
    cached_input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens read from the provider's cache; absent keeps the base price."""
    cache_write_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens written to the provider's cache; absent keeps the base price."""


class Price(Section):
    """What a model costs. A kind of token without a price here is unknown, not free."""

    input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens."""
    output_usd_per_mtok: RateUsd | None = None
    """Dollars per million output tokens, reasoning included."""
    cached_input_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens read from the provider's cache; absent means the input price."""
    cache_write_usd_per_mtok: RateUsd | None = None
    """Dollars per million input tokens written to the provider's cache; absent means the input price."""
    request_usd: RateUsd | None = None
    """Dollars per request, besides its tokens."""
    tiers: tuple[PriceTier, ...] = ()
    """Prices for long inputs, by rising `above_input_tokens`."""


PriceOrFree = Annotated[
    Annotated[Price, Tag(PRICED_TAG)] | Annotated[Literal["free"], Tag(FREE_TAG)],
    Discriminator(price_form),
    PriceShape,
]


Ability = Literal["tools", "parallel_tools", "images", "files", "audio", "json_schema", "reasoning"]
"""What a step may need of a model."""


class Model(Section):
    """A model that callers may ask for."""

    provider: Name
    """Which of `providers` serves it."""
    upstream_model: Label | None = None
    """Its name there (on `azure_openai` the deployment); absent means the name asked for. Under a wildcard
    entry, `*` stands for what the wildcard matched."""
    fallbacks: tuple[ModelName, ...] = ()
    """Models to try, in this order, when the provider fails."""
    deployments: Mapping[ModelName, Weight] = {}
    """Further entries that are the same model elsewhere, each with its weight. Calls are shared among them
    and this one, and go to the others when one fails; weight 0 only stands in."""
    weight: Weight = 1
    """This entry's own weight among `deployments`."""
    balance: Literal["weight", "least_busy", "latency"] = "weight"
    """How `deployments` share: by weight, a session staying with its own for the sake of prompt caches; to
    the one with the fewest calls for its weight; or to the fastest, by time to the first byte."""
    price: PriceOrFree | None = None
    """`free`, or prices that replace the price table; absent means the table, and a model unknown there is
    refused."""
    context_window: Count | None = None
    """Tokens of input and output together."""
    max_output_tokens: Count | None = None
    """Most tokens the model can write in one answer."""
    lacks: Annotated[tuple[Ability, ...], OneOrMore] = ()
    """What it cannot do. Steps that need it are not rerouted here, and do not fall back on it."""
