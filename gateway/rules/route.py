"""Where a step goes: the model that a name means under one policy, its provider and its price."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping

from gateway.domain import Millis, Nano, Principal
from gateway.errors import CallerError
from gateway.metering.prices import FREE, PriceBook, Rates, UnknownPrice, provider_ref
from gateway.metering.usage import PriceContext, ReadUsage
from gateway.policy.models import Policy, Target
from gateway.policy.sections.callers import model_allowed
from gateway.policy.sections.operations import PassthroughRoute
from gateway.policy.sections.providers import Price, Provider
from gateway.values import frozen


@frozen
class Route:
    """One way to serve a step."""

    requested: str
    provider_name: str
    provider: Provider
    upstream_model: str
    rates: Rates
    """What the step is reserved at."""
    declared: bool
    """The policy itself states the price, so nothing in a reply changes it."""
    output_cap: int | None
    """Most output tokens of the model, when the policy knows it."""
    label: str
    """The model in metrics: callers can make up endless names under a wildcard that states its price."""
    context_window: int | None = None
    """Most tokens that the model reads, when the policy or the price table knows it."""


class Router:
    """The models of one policy with their prices.

    `builtin` offers models that no policy names; `refs` are their providers' names in the price table.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        builtin: Callable[[str], Target | None] = lambda _name: None,
        refs: Mapping[str, str | None] = types.MappingProxyType({}),
    ) -> None:
        self._policy = policy
        self._builtin = builtin
        named = {
            name: p.price_table or provider_ref(p.dialect, p.base_url) for name, p in policy.providers.items()
        }
        self.prices = PriceBook(refs={**refs, **named})
        self._reports_cost = {name: ref in _TELL_THEIR_COST for name, ref in named.items()}
        self._declared: dict[str, Rates] = {}
        for entry, model in policy.models.items():
            if model.price == "free":
                self._declared[entry] = FREE
            elif isinstance(model.price, Price):
                price = model.price
                self._declared[entry] = Rates.from_policy(
                    input_usd_per_mtok=price.input_usd_per_mtok,
                    output_usd_per_mtok=price.output_usd_per_mtok,
                    cached_input_usd_per_mtok=price.cached_input_usd_per_mtok,
                    cache_write_usd_per_mtok=price.cache_write_usd_per_mtok,
                    request_usd=price.request_usd,
                    tiers=price.tiers,
                )

    def warm(self, now: Millis) -> tuple[UnknownPrice, ...]:
        """Look up the prices of every model that the policy names outright; those without one come back."""
        named = (self._policy.find_model(name) for name in self._policy.models if not name.endswith("*"))
        return self.prices.warm(
            (
                (target.provider_name, target.upstream_model)
                for target in named
                if target is not None and target.provider is not None and target.entry not in self._declared
            ),
            now,
        )

    def target(self, model: str) -> Target | None:
        """What a model name stands for; None for a name that nothing is known of."""
        return self._policy.find_model(model) or self._builtin(model)

    def choose(
        self, caller: Principal, model: str, now: Millis, context: PriceContext = (), *, free: bool = False
    ) -> Route:
        """The route for a model name, or `CallerError` with a close name: `unknown_model`,
        `model_not_allowed`, `unknown_price`. `free` is for what providers do not bill."""
        target = self.target(model)
        declared = self._declared.get(target.entry) if target is not None else None
        if free:
            declared = FREE
        if target is None:
            raise CallerError(
                "unknown_model",
                f"Model {model[:128]!r} is not configured.{self._close(model)}",
                param="model",
            )
        if caller.models is not None and not model_allowed(caller.models, model):
            raise CallerError(
                "model_not_allowed",
                f"Model {model[:128]!r} is not among the models of key {caller.key!r}.",
                param="model",
            )
        if target.provider is None:
            raise CallerError(
                "unknown_model",
                f"Model {model[:128]!r} is served by provider {target.provider_name!r}, which is switched "
                f"off: {target.off_because}.",
                param="model",
            )
        auth = self._policy.auth
        if auth.mode == "passthrough" and target.provider_name != auth.provider:
            raise CallerError(
                "model_not_allowed",
                f"Model {model[:128]!r} is served by provider {target.provider_name!r}; callers' own "
                f"credentials go to {auth.provider!r} alone.",
                param="model",
            )
        rates = declared or self._table_rates(target, now, context)
        return Route(
            requested=model,
            provider_name=target.provider_name,
            provider=target.provider,
            upstream_model=target.upstream_model,
            rates=rates,
            declared=declared is not None,
            output_cap=target.model.max_output_tokens,
            label=target.entry
            if target.entry.endswith("*") and (declared or target.entry not in self._policy.models)
            else target.upstream_model,
            context_window=target.model.context_window or self._known_window(target, rates),
        )

    def passthrough(self, caller: Principal, declared: PassthroughRoute) -> Route:
        """The route of a path that is handed on, at the price that the policy declares for it.
        Raises `CallerError` `model_not_allowed`."""
        auth = self._policy.auth
        provider = self._policy.providers.get(declared.provider)
        if provider is None or (auth.mode == "passthrough" and declared.provider != auth.provider):
            raise CallerError(
                "model_not_allowed",
                f"{declared.path!r} leads to provider {declared.provider!r}, which is not to be had here.",
            )
        return Route(
            requested=declared.path,
            provider_name=declared.provider,
            provider=provider,
            upstream_model=declared.path,
            rates=FREE
            if declared.price == "free"
            else Rates.from_policy(request_usd=declared.price.request_usd),
            declared=True,
            output_cap=0,
            label=declared.path,
        )

    def _known_window(self, target: Target, rates: Rates) -> int | None:
        """The price table's, unless the model has a price for longer input: then it can be asked for more."""
        window = self.prices.context_window(target.provider_name, target.upstream_model)
        if window is None or (rates.tiers and rates.tiers[-1].above >= window):
            return None
        return window

    def _table_rates(self, target: Target, now: Millis, context: PriceContext) -> Rates:
        try:
            return self.prices.rates(target.provider_name, target.upstream_model, now, context)
        except UnknownPrice as unknown:
            raise CallerError(
                "unknown_price",
                f"The price of model {target.upstream_model[:128]!r} at {target.provider_name!r} is unknown "
                f"({unknown.reason}), so no budget could hold it.{_did_you_mean(unknown.suggestions)}",
                param="model",
            ) from None

    def cost(self, route: Route, read: ReadUsage, admitted_at: Millis) -> Nano:
        """What a call came to, at the price it was served for."""
        if route.declared:
            return route.rates.cost(read.usage) + sum(route.rates.cost(usage) for _, usage in read.extras)
        if read.reported_cost is not None and self._reports_cost.get(route.provider_name):
            return read.reported_cost
        return self.prices.cost(
            route.provider_name, route.upstream_model, read, admitted_at, reserved=route.rates
        )

    def _close(self, name: str) -> str:
        known = [entry for entry in self._policy.models if not entry.endswith("*")]
        return _did_you_mean(difflib.get_close_matches(name[:128], known, n=1))


_TELL_THEIR_COST = ("openrouter",)
"""Providers whose reply states what it cost; theirs is the bill, whatever model they fell back to."""


def _did_you_mean(names: list[str] | tuple[str, ...]) -> str:
    return f" Did you mean {names[0]!r}?" if names else ""
