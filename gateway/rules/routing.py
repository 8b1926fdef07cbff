"""Which model serves a step: the policy's routing rules, applied to what is known of a step and its run.

Pure. The first rule that matches decides. A run is held out, or split off to another model, by a hash of its
id and the rule's name, so that it stays where it is. A model that cannot take the step is passed over
(`capability`), and so is one that would not be cheaper once the providers' prompt caches are reckoned with;
only runs split off for a comparison go where they are sent, whatever that costs:

    expected   the step on the model asked for, its cached prefix at the cached price
    instead    the step on the target, its own cached prefix at the cached price
               + what a switch costs once: the target reads for the first time what the other has in its cache
               + what the way back costs: what the model asked for does not learn now, or will have forgotten

Agents make several such steps in a row, so what a switch costs once is shared by `STRETCH` of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from gateway.domain import Json, Millis, Nano, Step, Surface, Usage, usd
from gateway.metering.prices import MTOK
from gateway.policy.sections.callers import model_allowed
from gateway.policy.sections.routing import Between, RoutingRule, When
from gateway.rules.budgets import Scopes, applies
from gateway.rules.capability import Candidate, unable
from gateway.rules.steps import Classified
from gateway.values import frozen

CACHED_MS = 300_000
"""How long providers keep a prompt cache warm that nobody reads: five minutes at Anthropic, five to ten at
OpenAI."""
STRETCH = 4
"""Steps in a row that agents make between planning and answer, cautiously: eight-step agents make six."""
_IN_A_ROW = frozenset({"tool_selection", "extraction", "digest"})
_PACE_MS = 10_000
"""Between two steps of a run, when nothing is known of it."""
_SHARES = 1 << 32


@frozen
class Served:
    """The last step of this run that a model served."""

    at: Millis
    cached_tokens: int
    """Input tokens that its provider has in its prompt cache since: those read from it and written to it."""


@frozen
class Known:
    """What is known of a step when its model is chosen."""

    step: Step
    classified: Classified
    scopes: Scopes
    asked: Candidate
    run_id: str
    ordinal: int
    """Number of the step in its run, from 1."""
    now: Millis
    run_cost: Nano = 0
    run_limit: Nano | None = None
    """The run's own budget; None without one."""
    last_model: str | None = None
    """Name of the model that served the run's last step."""
    served: Mapping[str, Served] = field(default_factory=dict)
    """By model name."""
    output_tokens: int = 512
    """Expected of this step."""


@frozen
class Choice:
    """What a rule decided about a step."""

    target: Candidate | None
    """Where the step goes; None when it stays. Under `shadow` it is where it would have gone."""
    rule: RoutingRule
    acts: bool
    """The step is to be sent to `target`: false when it stays and under `shadow`."""
    decision: Json
    """For the record."""
    guarded: bool
    """The answer is to be checked by `bad_answers.bad_answer`; a bad one goes to the model asked for."""
    saved: Nano
    """Expected saving; 0 when the step stays."""


def choose(
    rules: Sequence[RoutingRule], known: Known, resolve: Callable[[str], Candidate | str]
) -> Choice | None:
    """What the first matching rule decides; None when no rule matches.

    `resolve` gives the model of a name as this caller may use it, or a clause that says why not; it must not
    raise. `decision` holds `rule`, `mode`, `decision` (`reroute` or `keep`), `step`, `why`, `from`, `to`,
    `expected_usd` and `instead_usd` where costs were compared, `held_out` when the run is.
    """
    for rule in rules:
        if rule.mode != "off" and applies(rule.match, known.scopes) and takes(rule.when, known):
            return _decide(rule, known, resolve)
    return None


# -- which rule ---------------------------------------------------------------------------------------


def takes(when: When, known: Known) -> bool:
    """Whether a rule's `when` covers the step. Every key given must match."""
    classified, asked = known.classified, known.asked.name
    return (
        (when.step is None or classified.kind in when.step)
        and (when.model is None or model_allowed(when.model, asked))
        and (when.tokens is None or _within(when.tokens, classified.tokens))
        and (when.tools is None or _within(when.tools, classified.tools))
        and (when.tag is None or any(f"{k}={v}" in when.tag for k, v in known.scopes.tags.items()))
        and (when.budget_used is None or _is_used(when.budget_used, known))
    )


def _within(between: Between, value: int) -> bool:
    return (between.min is None or value >= between.min) and (between.max is None or value <= between.max)


def _is_used(share: float, known: Known) -> bool:
    """Without a budget of its own a run uses no share of one."""
    return known.run_limit is not None and known.run_cost >= share * known.run_limit


def position(run_id: str, rule: str) -> float:
    """Where a run stands in a rule's shares: from 0 up to 1, evenly spread, always the same."""
    digest = hashlib.blake2b(f"{rule}\0{run_id}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big") / _SHARES


def destination(rule: RoutingRule, run_id: str) -> str | None:
    """The model that a rule means for a run; None for one that is held out. The slices of the held-out runs
    and of each split lie behind one another, in the policy's order; what is left goes to `use`."""
    if not rule.split and rule.hold_out is None:
        return rule.use
    at = position(run_id, rule.name)
    end = rule.hold_out or 0.0
    if at < end:
        return None
    for name, share in rule.split.items():
        end += share
        if at < end:
            return name
    return rule.use


# -- what it decides ----------------------------------------------------------------------------------


def _decide(rule: RoutingRule, known: Known, resolve: Callable[[str], Candidate | str]) -> Choice:
    name = destination(rule, known.run_id)
    if name is None:
        return _keep(rule, known, rule.use, "the run is held out to compare with", held_out=True)
    if name == known.asked.name:
        return _keep(rule, known, name, "it is the model asked for")
    target = resolve(name)
    if isinstance(target, str):
        return _keep(rule, known, name, target)
    reason = unable(known.step, known.classified, known.asked, target)
    if reason is not None:
        return _keep(rule, known, name, reason)
    expected, instead = costs(known, target)
    compared = {"expected_usd": usd(expected), "instead_usd": usd(instead)}
    if rule.only_if_cheaper and instead >= expected and name not in rule.split:
        return _keep(rule, known, name, "it would not be cheaper", **compared)
    decision = _decision(rule, known, "reroute", name, known.classified.why, **compared)
    return Choice(
        target=target,
        rule=rule,
        acts=rule.mode == "enforce",
        decision=decision,
        guarded=rule.mode == "enforce" and rule.on_bad_answer == "escalate",
        saved=max(0, expected - instead),
    )


def _keep(rule: RoutingRule, known: Known, name: str, why: str, **more: object) -> Choice:
    decision = _decision(rule, known, "keep", name, why, **more)
    return Choice(target=None, rule=rule, acts=False, decision=decision, guarded=False, saved=0)


def _decision(rule: RoutingRule, known: Known, decision: str, to: str, why: str, **more: object) -> Json:
    return {
        "rule": f"routing.{rule.name}",
        "mode": rule.mode,
        "decision": decision,
        "step": known.classified.kind,
        "why": why,
        "from": known.asked.name,
        "to": to,
        **more,
    }


# -- what it costs ------------------------------------------------------------------------------------


def costs(known: Known, target: Candidate) -> tuple[Nano, Nano]:
    """What the step is expected to cost on the model asked for, and on the target with its share of what the
    switch costs; in nano-dollars.

    Expected are the estimated input and the usual output, so both figures are off in the same way.
    """
    tokens = known.classified.tokens
    here = _Reading(known.asked, known)
    there = _Reading(target, known)
    expected = here.cost(here.cached)
    share = STRETCH if known.classified.kind in _IN_A_ROW else 1
    # On later steps of the stretch the target has in its cache what the other one has now.
    first = there.cost(there.cached)
    later = there.cost(max(there.cached, min(here.cached, tokens) if there.caches else 0))
    instead = later + -(-(first - later) // share)
    if known.classified.kind in _IN_A_ROW and here.caches:
        # The model asked for does not learn what is new in this step, and pays for it in full once more.
        instead += here.more_than_cached(tokens - here.cached)
        instead += -(-here.more_than_cached(_forgotten(known, here)) // share)
    return expected, instead


def _forgotten(known: Known, here: _Reading) -> int:
    """Tokens of its cached prefix that the model asked for will have lost when the run comes back: all of
    them when a stretch takes longer than caches last, else in proportion."""
    served = known.served.get(known.asked.name)
    if served is None or not here.cached:
        return 0
    last = known.served.get(known.last_model) if known.last_model is not None else None
    pace = max(known.now - last.at, 0) if last is not None else _PACE_MS
    away = min(known.now - served.at + STRETCH * pace, CACHED_MS)
    return here.cached * max(away, 0) // CACHED_MS


class _Reading:
    """How a model would read and answer the step."""

    __slots__ = ("_known", "_rates", "_writes", "cached", "caches")

    def __init__(self, candidate: Candidate, known: Known) -> None:
        self._known = known
        self._rates = candidate.route.rates
        r = self._rates.at(known.classified.tokens)
        marked = _marks_its_cache(known.step)
        asks = candidate.speaks is Surface.MESSAGES
        self.caches = r.cache_read < r.input_uncached and not self._rates.free and (marked or not asks)
        """Prefixes that were read are cheaper the next time: Anthropic's only where the request says so."""
        self._writes = self.caches and asks
        served = known.served.get(candidate.name)
        self.cached = 0
        """Tokens that it reads from its cache."""
        if served is not None and self.caches and 0 <= known.now - served.at < CACHED_MS:
            self.cached = max(0, min(served.cached_tokens, _shared(known)))

    def cost(self, cached: int) -> Nano:
        """Of the step, when so much of it is cached."""
        new = self._known.classified.tokens - cached
        return self._rates.cost(
            Usage(
                input_uncached=0 if self._writes else new,
                cache_read=cached,
                cache_write_5m=new if self._writes else 0,
                output_text=self._known.output_tokens,
            )
        )

    def more_than_cached(self, tokens: int) -> Nano:
        """What reading tokens costs more than it would from its cache."""
        r = self._rates.at(self._known.classified.tokens)
        full = r.cache_write_5m if self._writes else r.input_uncached
        return -(-max(0, tokens) * max(0, full - r.cache_read) // MTOK)


def _shared(known: Known) -> int:
    """Input tokens that the run has sent before: none of a title's, all where the provider keeps them."""
    classified = known.classified
    if classified.kind == "title":
        return 0
    return classified.tokens if known.step.state else classified.previous_tokens


def _marks_its_cache(step: Step) -> bool:
    """Whether the request says what to cache."""
    return b'"cache_control"' in step.raw
