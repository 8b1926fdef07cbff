"""What must hold between the values of a policy: names that lead somewhere, keys that belong together.

The checks read the plain data rather than the models, so that they also run, and report, when some other
value is wrong. They skip what has not the expected shape; that is reported where it is validated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from graphlib import CycleError, TopologicalSorter
from typing import Any, get_args

from gateway.policy.document import Document, KeyPath, value_at
from gateway.policy.fields import best_pattern
from gateway.policy.language import keys_of
from gateway.policy.messages import MOST_GUESSES, Mistake, guess, kind_text, mistake_at, quoted
from gateway.policy.sections.loops import LOOP_RULES, Ladder
from gateway.policy.sections.screening import Action
from gateway.policy.sections.tools import Approvals, ArgumentRule

Check = Callable[["_Data"], Iterator[Mistake]]


class _Data:
    """The expanded data of a policy, with the document that says where it is written."""

    def __init__(self, document: Document, data: Any) -> None:
        self.document = document
        self.data = data
        self.models = self.names("models")
        self._guesses_left = MOST_GUESSES
        self._by_name = dict.fromkeys(self.models)

    def guess(self, name: str, names: tuple[str, ...]) -> str:
        """What was probably meant, as the end of a sentence; nothing after many guesses."""
        self._guesses_left -= 1
        return guess(name, names) if self._guesses_left >= 0 else ""

    def covered(self, name: str) -> bool:
        """Whether a model, or a wildcard as it stands, is configured by its name or by a wildcard."""
        return best_pattern(self._by_name, name) is not None

    def entries(self, *path: str | int) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """The mappings below a path, whether it holds a list or a mapping of them."""
        value = value_at(self.data, path)
        pairs = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, entry in pairs:
            if isinstance(entry, dict):
                yield (*path, key), entry

    def names(self, section: str) -> tuple[str, ...]:
        """The keys of a top-level mapping."""
        value = value_at(self.data, (section,))
        return tuple(value) if isinstance(value, dict) else ()

    def mistake(self, path: KeyPath, problem: str) -> Mistake:
        """A mistake where `path` is written."""
        return mistake_at(self.document, path, problem)

    def written(self, path: KeyPath) -> str:
        """A text at a path, as it is written and in quotes."""
        value = self.document.at(path)
        # What a sent policy leaves out and takes from its base is not in the document.
        return quoted(str(value_at(self.data, path) if value is None else value))

    def ensure_provider(self, path: KeyPath) -> Iterator[Mistake]:
        """A mistake when a provider that is named at `path` is not configured."""
        name, names = value_at(self.data, path), self.names("providers")
        if isinstance(name, str) and name not in names:
            problem = f"got {self.written(path)}, expected a provider that is configured"
            yield self.mistake(path, problem + self.guess(name, names))

    def ensure_model(self, path: KeyPath) -> Iterator[Mistake]:
        """A mistake when a model that is named at `path`, to be called, is not configured."""
        name = value_at(self.data, path)
        if isinstance(name, str) and (name.endswith("*") or not self.covered(name)):
            problem = f"got {self.written(path)}, expected a model that is configured"
            yield self.mistake(path, problem + self.guess(name, self.models))

    def ensure_models(self, path: KeyPath) -> Iterator[Mistake]:
        """A mistake for each model or wildcard in the list (or single text) at `path` that can match none."""
        value = value_at(self.data, path)
        paths = [path] if isinstance(value, str) else [(*path, i) for i in range(len(value or ()))]
        for each in paths if isinstance(value, str | list) else ():
            name = value_at(self.data, each)
            if not isinstance(name, str) or self.covered(name):
                continue
            if name.endswith("*") and any(model.startswith(name[:-1]) for model in self.models):
                continue
            problem = f"got {self.written(each)}, expected a model that is configured"
            yield self.mistake(each, problem + self.guess(name, self.models))


def _models(data: _Data) -> Iterator[Mistake]:
    for path, model in data.entries("models"):
        yield from data.ensure_provider((*path, "provider"))
        upstream = model.get("upstream_model")
        if isinstance(upstream, str) and "*" in upstream and not str(path[-1]).endswith("*"):
            problem = f"got {data.written((*path, 'upstream_model'))}, expected a name without a wildcard"
            yield data.mistake((*path, "upstream_model"), f'{problem}: the model\'s own name has no "*"')
        fallbacks = model.get("fallbacks")
        for index, name in enumerate(fallbacks if isinstance(fallbacks, list) else ()):
            if isinstance(name, str) and name == path[-1]:
                here = (*path, "fallbacks", index)
                yield data.mistake(
                    here, f"got {data.written(here)}, expected another model than the one it serves"
                )
            else:
                yield from data.ensure_model((*path, "fallbacks", index))


def _deployments(data: _Data) -> Iterator[Mistake]:
    for path, model in data.entries("models"):
        deployments = model.get("deployments")
        if not isinstance(deployments, dict):
            continue
        weights = [_number(weight) for weight in (model.get("weight", 1), *deployments.values())]
        for name in deployments:
            here = (*path, "deployments", name)
            if name == path[-1]:
                yield data.mistake(here, f"got {quoted(str(name))}, expected another entry than itself")
            elif isinstance(name, str) and (name.endswith("*") or not data.covered(name)):
                problem = f"got {quoted(name)}, expected a model that is configured"
                yield data.mistake(here, problem + data.guess(name, data.models))
        if not any(weights):
            yield data.mistake((*path, "deployments"), "got weights of 0, expected at least one above")


def _prices(data: _Data) -> Iterator[Mistake]:
    for section in ("models", "passthrough"):
        for path, entry in data.entries(section):
            price = entry.get("price")
            if isinstance(price, dict):
                yield from _price(data, (*path, "price"), price)


def _price(data: _Data, path: KeyPath, price: dict[str, Any]) -> Iterator[Mistake]:
    rates = [
        _number(value)
        for key, value in price.items()
        if key.endswith("_usd_per_mtok") or key == "request_usd"
    ]
    if not any(rates) and None not in rates:
        got = "only prices of zero" if rates else "no price"
        yield data.mistake(path, f"got {got}, expected at least one above zero; did you mean free?")
    before = Decimal(0)
    tiers = price.get("tiers")
    for index, tier in enumerate(tiers if isinstance(tiers, list) else ()):
        bound = _number(tier.get("above_input_tokens")) if isinstance(tier, dict) else None
        if bound is None:
            continue
        if bound <= before:
            here = (*path, "tiers", index, "above_input_tokens")
            yield data.mistake(here, f"got {bound}, expected more than the tier before it ({before})")
        before = bound


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() else None


def _providers(data: _Data) -> Iterator[Mistake]:
    for path, provider in data.entries("providers"):
        if provider.get("api_version") is not None and provider.get("dialect") in ("openai", "anthropic"):
            problem = f"got {data.written((*path, 'api_version'))}, expected nothing"
            yield data.mistake((*path, "api_version"), f"{problem}: only dialect azure_openai has versions")


def _auth(data: _Data) -> Iterator[Mistake]:
    auth = value_at(data.data, ("auth",))
    if not isinstance(auth, dict):
        return
    mode, provider = auth.get("mode", "keys"), auth.get("provider")
    if mode == "passthrough" and provider is None:
        names = ", ".join(quoted(name) for name in data.names("providers")) or "none is configured"
        yield data.mistake(
            ("auth", "provider"),
            f"got nothing, expected the provider that callers' credentials go to ({names})",
        )
    elif mode in ("keys", "open") and provider is not None:
        problem = f"got {data.written(('auth', 'provider'))}, expected nothing: auth.mode is {mode}"
        yield data.mistake(("auth", "provider"), f"{problem}, and only passthrough has a provider")
    else:
        yield from data.ensure_provider(("auth", "provider"))


def _keys(data: _Data) -> Iterator[Mistake]:
    first: dict[str, KeyPath] = {}
    for path, key in data.entries("keys"):
        yield from data.ensure_models((*path, "models"))
        secret = key.get("key")
        if isinstance(secret, str) and secret.strip():
            earlier = first.setdefault(secret.strip(), path)
            if earlier != path:
                problem = f"got the same secret as keys[{earlier[1]}], expected each key to have its own"
                yield data.mistake((*path, "key"), problem)


def _landings(data: _Data) -> Iterator[Mistake]:
    for path, rule, action in _rules_with_landing(data):
        chosen = [action] if rule.get(action) == "downgrade" else []
        if path == ("loops",):
            chosen += [f"{name}.downgrade" for name, ladder in _ladders(rule) if ladder.get("downgrade")]
        if chosen and rule.get("to") is None:
            because = f"{action} is downgrade" if chosen[0] == action else f"{chosen[0]} is given"
            problem = f"got nothing, expected the model to go on with: {because}"
            yield data.mistake((*path, "to"), problem)
        elif not chosen and rule.get("to") is not None:
            problem = f"got {data.written((*path, 'to'))}, expected nothing"
            yield data.mistake((*path, "to"), f"{problem}: only downgrade has a model to go on with")
        else:
            yield from data.ensure_model((*path, "to"))


def _ladders(loops: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in LOOP_RULES:
        if isinstance(rule := loops.get(name), dict):
            yield name, rule


def _loops(data: _Data) -> Iterator[Mistake]:
    loops = value_at(data.data, ("loops",))
    for name, ladder in _ladders(loops) if isinstance(loops, dict) else ():
        before: tuple[str, Decimal] | None = None
        for action in keys_of(Ladder):
            count = _number(ladder.get(action))
            if count is None:
                continue
            if before and count <= before[1]:
                problem = f"got {count}, expected more than {before[1]}, the count of {before[0]}"
                yield data.mistake(("loops", name, action), problem)
            before = (action, count)
        if not any(ladder.get(action) is not None for action in ladder):
            expected = f"expected at least one of {', '.join(keys_of(Ladder))}; null switches a rule off"
            yield data.mistake(("loops", name), f"got no action, {expected}")


def _rules_with_landing(data: _Data) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    for path, budget in data.entries("budgets"):
        yield path, budget, "on_exceed"
    for section, action in (("runs", "on_exceed"), ("loops", "on_detect")):
        rule = value_at(data.data, (section,))
        if isinstance(rule, dict):
            yield (section,), rule, action


def _rates(data: _Data) -> Iterator[Mistake]:
    limits = (
        "requests_per_minute",
        "tokens_per_minute",
        "max_concurrency",
        "new_runs_per_minute",
        "usd_per_minute",
    )
    for path, rate in data.entries("rates"):
        if all(rate.get(limit) is None for limit in limits):
            yield data.mistake(path, f"got no limit, expected at least one of {', '.join(limits)}")


def _tools(data: _Data) -> Iterator[Mistake]:
    for path, tool in data.entries("tools"):
        arguments = tool.get("arguments")
        for name, rule in arguments.items() if isinstance(arguments, dict) else ():
            if isinstance(rule, dict):
                yield from _argument(data, (*path, "arguments", name), rule)
    yield from _order(data)


def _argument(data: _Data, path: KeyPath, rule: dict[str, Any]) -> Iterator[Mistake]:
    least, most = _number(rule.get("min")), _number(rule.get("max"))
    if least is not None and most is not None and least > most:
        yield data.mistake((*path, "max"), f"got {most}, expected at least min ({least})")
    if all(condition is None or condition is False for condition in rule.values()):
        conditions = ", ".join(keys_of(ArgumentRule))
        yield data.mistake(path, f"got no condition, expected at least one of {conditions}")


def _order(data: _Data) -> Iterator[Mistake]:
    """Tools that, by `after`, would have to wait for themselves, and so could never be called."""
    after = {path[-1]: tool.get("after") for path, tool in data.entries("tools") if "after" in tool}
    default = after.pop("defaults", None)
    names = [name for name in data.names("tools") if name != "defaults"]
    named = [name for each in (default, *after.values()) if isinstance(each, list) for name in each]
    waits: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for name in (*names, *named) if isinstance(name, str)):
        own = after.get(name, default)
        waits[name] = [other for other in own if isinstance(other, str)] if isinstance(own, list) else []
    for ring in _rings(waits):
        name, other = ring[0], ring[1]
        path: KeyPath = ("tools", name if name in after else "defaults", "after")
        path = (*path, value_at(data.data, path).index(other))
        problem = f"got {data.written(path)}, expected a tool that does not wait for this one"
        if name not in after:
            problem += ": by the defaults it does, unless its entry says after: []"
        elif name == other:
            problem = f"got {data.written(path)}, expected another tool than the one it is about"
        elif len(ring) <= _LONGEST_RING and all(each in names for each in ring):
            problem += f" ({' after '.join(map(quoted, ring))})"
        yield data.mistake(path, problem)


_MOST_RINGS = 10
"""Looking for one costs a pass over all tools."""
_LONGEST_RING = 8
"""Names of a ring that a message shows."""


def _rings(waits: dict[str, list[str]]) -> Iterator[list[str]]:
    """Rings of names in which each waits for the next; the first stands at the end once more."""
    for _ in range(_MOST_RINGS):
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            ring: list[str] = error.args[1][::-1]
            yield ring
            waits = {**waits, ring[0]: [name for name in waits[ring[0]] if name != ring[1]]}
        else:
            return


def _approvals(data: _Data) -> Iterator[Mistake]:
    approvals = value_at(data.data, ("approvals",))
    if not isinstance(approvals, dict):
        return
    hold = _number(approvals.get("hold_s", int(Approvals().hold_s)))
    expires = _number(approvals.get("expires_s", int(Approvals().expires_s)))
    if hold is not None and expires is not None and hold > expires:
        if "expires_s" in approvals:
            problem = f"got {expires}, expected at least hold_s ({hold})"
            yield data.mistake(("approvals", "expires_s"), problem)
        else:
            problem = f"got {hold}, expected at most expires_s ({expires})"
            yield data.mistake(("approvals", "hold_s"), problem)


def _routing(data: _Data) -> Iterator[Mistake]:
    for path, rule in data.entries("routing", "rules"):
        yield from data.ensure_model((*path, "use"))
        yield from data.ensure_models((*path, "when", "model"))
        yield from _shares(data, path, rule)
        when = rule.get("when")
        for name in ("tokens", "tools"):
            bounds = when.get(name) if isinstance(when, dict) else None
            if isinstance(bounds, dict):
                least, most = _number(bounds.get("min")), _number(bounds.get("max"))
                if least is not None and most is not None and least > most:
                    problem = f"got {least}, expected at most max ({most})"
                    yield data.mistake((*path, "when", name, "min"), problem)


def _shares(data: _Data, path: KeyPath, rule: dict[str, Any]) -> Iterator[Mistake]:
    """Mistakes in the shares of a routing rule's runs."""
    split = rule.get("split")
    total = _number(rule.get("hold_out")) or Decimal(0)
    for name, share in split.items() if isinstance(split, dict) else ():
        here = (*path, "split", name)
        if isinstance(name, str) and (name.endswith("*") or not data.covered(name)):
            problem = f"got {quoted(name)}, expected a model that is configured"
            yield data.mistake(here, problem + data.guess(name, data.models))
        total += _number(share) or 0
    if total > 1:
        place = (*path, "split" if split else "hold_out")
        problem = f"got shares of {total} together with hold_out, expected at most 1"
        yield data.mistake(place, problem)


def _matches(data: _Data) -> Iterator[Mistake]:
    paths = [
        path
        for section in (
            ("budgets",),
            ("rates",),
            ("tools",),
            ("routing", "rules"),
            ("screening",),
            ("cache",),
            ("alerts",),
        )
        for path, _ in data.entries(*section)
    ]
    for path in [*paths, ("loops",), ("context",)]:
        yield from data.ensure_models((*path, "match", "model"))


def _screening(data: _Data) -> Iterator[Mistake]:
    for path, exception in data.entries("screening", "exceptions"):
        if not any(exception.get(key) for key in ("channel", "tool", "type")):
            yield data.mistake(path, "got a detector alone, expected a channel, a tool or a type beside it")
    yield from _moderation(data)
    yield from _deeper(data)
    for path, screen in data.entries("screening"):
        if path[-1] not in _SENSIBLE:
            continue
        meant = _SENSIBLE[str(path[-1])]
        for where in ((), ("user",), ("tool",), ("output",)):
            here = (*path, *where, "action")
            action = value_at(data.data, here)
            if isinstance(action, str) and action in _ACTIONS and action not in meant:
                problem = f"got {data.written(here)}, expected {_listed(meant)}: {_SENSELESS[action]}"
                yield data.mistake(here, problem)
        if path[-1] in ("links", "leak"):
            for channel in ("user", "tool"):
                if screen.get(channel) is not None:
                    here = (*path, channel)
                    problem = f"got {data.written(here)}, expected nothing: only answers are looked at"
                    yield data.mistake(here, problem)
        entities = screen.get("entities")
        if isinstance(entities, list):
            yield from _entities(data, path, entities, screen.get("custom"))


def _deeper(data: _Data) -> Iterator[Mistake]:
    """The tiers behind the embedded detector of instructions."""
    path: KeyPath = ("screening", "injection", "classifier")
    directory = value_at(data.data, (*path, "directory"))
    labels = value_at(data.data, (*path, "labels"))
    labels = [labels] if isinstance(labels, str) else labels
    if isinstance(directory, str) and directory.startswith("/"):
        # It is read only where a policy names one.
        from gateway.screening.classifier import mistakes as of_classifier

        for key, problem in of_classifier(directory, labels if isinstance(labels, list) else None):
            here = (*path, key)
            got = kind_text(data.document.at(here)) if key == "labels" else data.written(here)
            yield data.mistake(here, f"got {got}, {problem}")
    yield from _judge(data, ("screening", "injection", "judge", "model"))


def _moderation(data: _Data) -> Iterator[Mistake]:
    path: KeyPath = ("screening", "moderation")
    rule = value_at(data.data, path)
    if not isinstance(rule, dict):
        return
    if rule.get("by", "endpoint") != "judge":
        yield from data.ensure_model((*path, "model"))
        for key in ("definitions", "constrained"):
            if key in rule:
                yield data.mistake((*path, key), "is for a judge, expected by: judge beside it")
        return
    yield from _judge(data, (*path, "model"))
    categories, definitions = rule.get("categories"), rule.get("definitions")
    if not categories:
        yield data.mistake((*path, "by"), "got a judge alone, expected categories that it looks for")
    elif isinstance(categories, dict) and isinstance(definitions, dict):
        for name in definitions:
            if name not in categories:
                problem = f"got {quoted(str(name))}, expected one of the categories"
                yield data.mistake((*path, "definitions", name), problem)


def _judge(data: _Data, here: KeyPath) -> Iterator[Mistake]:
    """Mistakes about a model that is asked something."""
    name = value_at(data.data, here)
    yield from data.ensure_model(here)
    if isinstance(name, str) and data.covered(name):
        provider = value_at(data.data, ("models", best_pattern(data._by_name, name) or "", "provider"))
        surfaces = value_at(data.data, ("providers", provider, "surfaces")) if provider else None
        surfaces = [surfaces] if isinstance(surfaces, str) else surfaces
        if isinstance(surfaces, list) and not _JUDGES_BY.intersection(map(str, surfaces)):
            problem = (
                f"got {data.written(here)}, expected a model on a provider that serves chat, messages or"
            )
            yield data.mistake(here, f"{problem} responses")


_JUDGES_BY = frozenset(("chat", "messages", "responses"))


def _entities(data: _Data, path: KeyPath, entities: list[Any], own: Any) -> Iterator[Mistake]:
    # Its patterns take a moment to compile, which policies without such a list need not wait for.
    from gateway.screening.pii import ALIASES, ENTITIES
    from gateway.screening.presidio import ENTITIES as NAMES

    known = (*sorted(ENTITIES), *ALIASES, *(own if isinstance(own, dict) else ()))
    if value_at(data.data, (*path, "language_model")) is not None:
        known = (*known, *sorted(NAMES))
    for i, entity in enumerate(entities):
        if isinstance(entity, str) and entity not in known and entity.isupper():
            here = (*path, "entities", i)
            problem = f"got {data.written(here)}, expected a kind of personal data"
            yield data.mistake(here, problem + data.guess(entity, known))


_ACTIONS = frozenset(get_args(Action))
_SENSIBLE = {
    "injection": ("allow", "flag", "redact", "neutralise", "block"),
    "pii": ("allow", "flag", "redact", "mask", "pseudonymise", "block"),
    "secrets": ("allow", "flag", "redact", "mask", "block"),
    "links": ("allow", "flag", "redact", "block"),
    "leak": ("allow", "flag", "redact", "block"),
}
_SENSELESS = {
    "mask": "nothing of it may stay readable",
    "pseudonymise": "only personal data gets stand-ins",
    "neutralise": "only instructions can be taken out of a text by the sentence",
}


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _cache(data: _Data) -> Iterator[Mistake]:
    auth = value_at(data.data, ("auth", "mode"))
    for path, cache in data.entries("cache"):
        if auth == "passthrough" and cache.get("mode") != "off":
            problem = "got a cache, expected none: auth.mode is passthrough, and each caller pays for itself"
            yield data.mistake(path, problem)
    here = ("cache", "semantic", "model")
    yield from data.ensure_model(here)
    name = value_at(data.data, here)
    if isinstance(name, str) and data.covered(name):
        provider = value_at(data.data, ("models", best_pattern(data._by_name, name) or "", "provider"))
        settings = value_at(data.data, ("providers", provider)) if isinstance(provider, str) else None
        if isinstance(settings, dict) and not _embeds(settings):
            problem = f"got {data.written(here)}, expected a model on a provider that serves embeddings"
            yield data.mistake(here, problem)


def _embeds(provider: dict[str, Any]) -> bool:
    surfaces = provider.get("surfaces")
    if surfaces is None:
        return provider.get("dialect") != "anthropic"
    return "embeddings" in (surfaces if isinstance(surfaces, list) else [surfaces])


def _passthrough(data: _Data) -> Iterator[Mistake]:
    for path, entry in data.entries("passthrough"):
        yield from data.ensure_provider((*path, "provider"))
        price = entry.get("price")
        for name in price if isinstance(price, dict) else ():
            if name != "request_usd":
                here = (*path, "price", name)
                problem = f"got {data.written(here)}, expected nothing: nobody can bound the tokens of an"
                yield data.mistake(here, f"{problem} unknown API, so a path has a price per request")


def _alerts(data: _Data) -> Iterator[Mistake]:
    for path, entry in data.entries("alerts"):
        if entry.get("format") == "pagerduty" and "secret" not in entry:
            problem = "got pagerduty without secret, expected the service's routing key as secret"
            yield data.mistake((*path, "format"), problem)


_NAMED = (("budgets",), ("rates",), ("keys",), ("alerts",))


def _names(data: _Data) -> Iterator[Mistake]:
    for section in (*_NAMED, ("routing", "rules"), ("screening", "exceptions")):
        first: dict[str, KeyPath] = {}
        for path, entry in data.entries(*section):
            name = entry.get("name")
            if isinstance(name, str) and first.setdefault(name, path) != path:
                place = data.document.place((*first[name], "name"))
                problem = f"got {data.written((*path, 'name'))} a second time, expected a name of its own"
                yield data.mistake((*path, "name"), f"{problem} (first in {place.file}:{place.line})")


def _profiles(data: _Data) -> Iterator[Mistake]:
    whose: dict[str, KeyPath] = {}
    for path, profile in data.entries("profiles"):
        keys = profile.get("keys")
        for index, key in enumerate(keys if isinstance(keys, list) else (keys,)):
            if isinstance(key, str) and whose.setdefault(key, path) != path:
                here = (*path, "keys", index) if isinstance(keys, list) else (*path, "keys")
                problem = f"got {quoted(key)}, expected a key without a profile: it has {whose[key][1]}"
                yield data.mistake(here, problem)


CHECKS: tuple[Check, ...] = (
    _providers,
    _models,
    _deployments,
    _prices,
    _auth,
    _keys,
    _names,
    _profiles,
    _landings,
    _loops,
    _rates,
    _tools,
    _approvals,
    _routing,
    _matches,
    _screening,
    _cache,
    _alerts,
    _passthrough,
)


def mistakes(document: Document, data: Any) -> list[Mistake]:
    """What does not fit together in `data`, the expanded form of `document`."""
    found = _checked(document, data)
    seen = set(found)
    profiles = value_at(data, ("profiles",))
    for name, profile in profiles.items() if isinstance(profiles, dict) else ():
        if not isinstance(profile, dict):
            continue
        own = {section: value for section, value in profile.items() if section != "keys"}
        places = {
            path[2:]: place for path, place in document.places.items() if path[:2] == ("profiles", name)
        }
        written = {**document.data, **(document.at(("profiles", name)) or {})}
        view = Document(written, {**document.places, **places}, document.file)
        for mistake in _checked(view, {**data, **own, "profiles": None}):
            if mistake.path.partition(".")[0].partition("[")[0] in own:
                found.append(replace(mistake, path=f"profiles.{name}.{mistake.path}"))
            elif mistake not in seen:
                # It stands elsewhere, and is one only with what the profile says.
                found.append(mistake)
    return found


def _checked(document: Document, data: Any) -> list[Mistake]:
    view = _Data(document, data)
    return [mistake for check in CHECKS for mistake in check(view)]


THRESHOLD = 0.5
"""The score from which on the embedded detector of instructions flags a text."""
SHORT_KEY = 16
"""Characters below which a gateway key can be guessed by trying."""


def warnings(document: Document, data: Any) -> Iterator[str]:
    """What is valid and probably not meant."""
    view = _Data(document, data)
    mode = value_at(data, ("auth", "mode"))
    if mode is not None and mode != "keys" and value_at(data, ("keys",)):
        yield str(view.mistake(("keys",), f"not used: auth.mode is {mode}"))
    for path, key in view.entries("keys"):
        secret = key.get("key")
        if isinstance(secret, str) and len(secret.strip()) < SHORT_KEY:
            yield str(view.mistake((*path, "key"), f"shorter than {SHORT_KEY} characters, easy to guess"))
        if key.get("max_tool_level") in ("safe", "moderate") and "tools" not in data:
            problem = "not used: there is no tools section that gives tools their level"
            yield str(view.mistake((*path, "max_tool_level"), problem))
    for tier in ("classifier", "judge"):
        here: KeyPath = ("screening", "injection", tier, "uncertain")
        band = value_at(data, here)
        if isinstance(band, list) and not band[0] < THRESHOLD < band[1]:
            problem = f"does not hold {THRESHOLD}, the threshold, around which scores are uncertain"
            yield str(view.mistake(here, problem))
