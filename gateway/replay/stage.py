"""A gateway in which recorded steps are played again: the real pipeline, and nobody outside hears of it.

    clock       stands where the step that is played stood
    store       the embedded one, in memory; it knows which run each step belongs to, and what each has cost
    provider    says what was recorded, when it was said
    the rest    a worker's own, in a folder that is gone afterwards

Steps run beside each other as they did: one waits for its answer until the clock has come to its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import orjson

from gateway.admission import Lookup, RunView, Settled, Settlement
from gateway.app import Worker, simulated
from gateway.domain import Answer, Headers, Json, Millis, Nano, Principal, RunSource, Step, Surface, Usage
from gateway.errors import CallerError, GatewayError, Refusal, UpstreamError
from gateway.journal import Journal
from gateway.metering.estimate import Quote, input_bound, quote
from gateway.metering.prices import SIM_PROVIDER
from gateway.policy.models import Policy, Profile, Target
from gateway.policy.sections.providers import Provider
from gateway.policy.sections.reuse import Cache
from gateway.policy.sections.routing import Routing
from gateway.policy.sections.screening import Screening
from gateway.protocols import Store
from gateway.replay.recorded import ALLOWED, Given, Outcome, Recorded, finish_of, outcome_of, request_of
from gateway.replay.rehearsal import Given as GivenPolicy
from gateway.replay.rehearsal import settings_in
from gateway.rollout import Rollout
from gateway.rules.budgets import Scopes
from gateway.rules.identity import is_name
from gateway.rules.route import Route
from gateway.rules.trace import Trace
from gateway.shaping import SHAPERS, Said
from gateway.steps.attempt import Attempt
from gateway.steps.dispatch import Ask, Call, Dispatcher, Generation, Held, Job
from gateway.steps.governor import Governor
from gateway.steps.provider_state import Held as Kept
from gateway.steps.provider_state import ProviderState
from gateway.steps.turn import Facts, Turn, new_id
from gateway.stores.embedded import EmbeddedStore, choose_window
from gateway.stores.ledger_recordings import Spent
from gateway.translation.counts import chat_usage, messages_usage, responses_usage
from gateway.upstreams.transport import Transport, UpstreamReply, UpstreamRequest

LEASE_S = 1e9
"""Of reservations: what was recorded ends them, and nothing else."""
_NOWHERE = "http://127.0.0.1:9/v1"
"""Of the built-in simulated provider, for which the stage answers as for every other."""
_LAST_WORDS = "This is what is known."
"""What a model is taken to say where no recorded answer fits: at a landing, or asked once more."""
_JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [(b"content-type", b"text/event-stream")]
_USAGE: Mapping[Surface, Callable[[Usage], Json]] = {
    Surface.CHAT: chat_usage,
    Surface.COMPLETIONS: chat_usage,
    Surface.MESSAGES: messages_usage,
    Surface.RESPONSES: responses_usage,
}
_RUNS_BY_NAME = (RunSource.HEADER.value, RunSource.URL.value)


# -- the policy, as it can be played -----------------------------------------------------------------


def playable(policy: Policy, base: Policy) -> Policy:
    """The policy without what would reach beyond this process, or needs a person, or a model that is not
    asked. What these would have decided is not known. Of this machine nothing is loaded that `base`, the
    policy in force, does not load."""
    loaded = loaded_by(base)

    def alone(provider: Provider) -> Provider:
        return provider.model_copy(update={"api_key": None, "max_concurrency": None, "breaker": None})

    return _changed(
        policy,
        {
            **_alone(policy, loaded),
            "providers": {name: alone(provider) for name, provider in policy.providers.items()},
            "profiles": {
                name: profile.model_copy(update=_alone(profile, loaded))
                for name, profile in policy.profiles.items()
            },
            **{name: _UNSAID[name].get_default() for name in _OUTSIDE},
            "keys": (),
        },
    )


_UNSAID = Policy.model_fields
_OUTSIDE = ("alerts", "audit", "recording", "tracing", "retention")
"""Sections about what is told and kept of steps."""


def loaded_by(policy: Policy) -> frozenset[str | None]:
    """The language models that a policy has loaded for what it screens."""
    every: list[Policy | Profile] = [policy, *policy.profiles.values()]
    pii = [each.screening.pii for each in every if each.screening is not None]
    return frozenset(each.language_model for each in pii if each is not None)


def _alone(rules: Policy | Profile, loaded: Collection[str | None]) -> Json:
    """The sections of a policy, or of a profile, that ask somebody, without that."""
    update: Json = {}
    if (screening := rules.screening) is not None:
        injection = screening.injection
        if injection is not None:
            injection = injection.model_copy(update={"judge": None, "classifier": None})
        pii = screening.pii
        if pii is not None and pii.language_model not in (None, *loaded):
            pii = pii.model_copy(update={"language_model": None})
        update["screening"] = screening.model_copy(
            update={"injection": injection, "pii": pii, "moderation": None}
        )
    if rules.tools is not None:
        update["tools"] = {
            name: tool.model_copy(update={"requires_approval": False}) for name, tool in rules.tools.items()
        }
    if rules.routing is not None:
        update["routing"] = rules.routing.model_copy(update={"retries": None})
    if rules.cache is not None:
        update["cache"] = rules.cache.model_copy(update={"semantic": None})
    return update


def without_content(policy: Policy) -> Policy:
    """The same for steps whose content is not known."""
    profiles = {name: profile.model_copy(update=_blind(profile)) for name, profile in policy.profiles.items()}
    return _changed(policy, {**_blind(policy), "profiles": profiles})


def _blind(rules: Policy | Profile) -> Json:
    """The sections that read what steps hold, without that."""
    update: Json = {"claims": None, "context": None}
    if rules.screening is not None:
        update["screening"] = Screening()
    if rules.cache is not None:
        update["cache"] = Cache()
    if rules.routing is not None:
        plain = tuple(rule for rule in rules.routing.rules if rule.when.step is None)
        update["routing"] = Routing(rules=plain, retries=None)
    return update


def _changed(policy: Policy, update: Json) -> Policy:
    changed = policy.model_copy(update=update)
    changed.model_post_init(None)
    return changed


# -- a step while it is played ------------------------------------------------------------------------


@dataclass(slots=True)
class Playing:
    """One step on the stage."""

    step: Recorded
    standing: asyncio.Future[None]
    """Done when it waits for its first answer, or has ended."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """The answer may come."""
    asks: dict[str, tuple[Ask, int]] = field(default_factory=dict)
    """By attempt: what was asked, and as which answer of the step."""
    latest: Ask | None = None
    sent: int = 0
    size: int | None = None
    """Input tokens by size of the request as it was quoted first."""
    cost: Nano = 0
    is_priced: bool = True
    """`cost` is what it would have cost; else nothing is known of that."""
    outcome: Outcome = ALLOWED
    checks: tuple[str, ...] = ()

    def stands(self) -> None:
        """It waits for its first answer, or has ended."""
        if not self.standing.done():
            self.standing.set_result(None)

    def held(self, attempt_id: str, ask: Ask) -> None:
        """An attempt was let in."""
        self.asks[attempt_id] = (ask, len(self.asks))
        self.latest = ask

    def given(self, number: int) -> Given | None:
        """The recorded answer with this number."""
        return self.step.answers[number] if number < len(self.step.answers) else None


PLAYING: ContextVar[Playing | None] = ContextVar("playing", default=None)


# -- the parts of the stage ---------------------------------------------------------------------------


@dataclass(slots=True)
class StageClock:
    """Wall-clock time as it is told."""

    now: Millis = 0

    def __call__(self) -> Millis:
        return self.now


class StageStore(EmbeddedStore):
    """Finds runs as they were found, charges what was charged, and keeps what is told of each step."""

    def __init__(self, clock: StageClock, bill: Callable[[Playing, str], tuple[Nano, int] | None]) -> None:
        super().__init__(clock=clock)
        self._bill = bill
        self.told: dict[str, list[Json]] = {}
        """Events by decision."""
        self._ordinals: dict[tuple[str, int], int] = {}
        """By run and recorded ordinal: the ordinal here."""

    async def resolve(self, lookup: Lookup) -> RunView:
        playing = PLAYING.get()
        assert playing is not None
        step, row = playing.step, playing.step.run
        known = row["id"] in self._runs.known
        view = await super().resolve(
            replace(
                lookup,
                new_run_id=row["id"],
                session=str(step.who["session"] or row["id"]),
                session_given=True,
                name=row["name"],
                name_key=f"run:{row['id']}",
                own_run_id=row["id"],
                principal=str(step.who["principal"]),
                retry_key=f"{step.decision}:{row['id']}",
                retry_declared=False,
                evidence=(),
                parents=(),
                parent_run_id=None,
                known_as=(),
                tasks=(),
            )
        )
        run = self._runs.known[view.run_id]
        run.explicit = row["source"] in _RUNS_BY_NAME
        if not known:
            root = row.get("root")
            run.ancestors = tuple(dict.fromkeys(i for i in (row["parent"], root) if isinstance(i, str) and i))
        again = self._ordinals.get((view.run_id, step.ordinal), 0)
        return replace(
            view,
            session=run.session,
            source=_source(row["source"]),
            explicit=run.explicit,
            ancestors=run.ancestors,
            name=row["name"],
            # Only a step that was let in can be tried again.
            retry_ordinal=again if step.answers else 0,
        )

    async def admit(self, admission: Any) -> Any:
        outcome = await super().admit(admission)
        playing = PLAYING.get()
        if playing is not None and playing.step.answers and (ordinal := getattr(outcome, "ordinal", 0)):
            self._ordinals.setdefault((playing.step.run["id"], playing.step.ordinal), ordinal)
        return outcome

    async def settle(self, settlement: Settlement) -> Settled:
        playing = PLAYING.get()
        if playing is not None and (billed := self._bill(playing, settlement.attempt_id)) is not None:
            cost, tokens = billed
            settlement = replace(settlement, cost=cost, tokens=tokens)
        return await super().settle(settlement)

    async def reap(self) -> int:
        return 0

    def spend(self, charges: Collection[Any], cost: Nano, at: Millis) -> None:
        """Count what a step has cost that is not played."""
        for charge in charges:
            hold = choose_window(charge, at)
            counter = self._counter(hold.counter, at)
            counter.used += cost
            counter.expires_at = max(counter.expires_at, hold.expires_at)

    def _emit(self, event: bytes) -> None:
        told = orjson.loads(event)
        decision = told.get("decision") if told.get("t") == "attempt" else told.get("id")
        if isinstance(decision, str):
            self.told.setdefault(decision, []).append(told)


def _source(name: Any) -> RunSource:
    try:
        return RunSource(name)
    except ValueError:
        return RunSource.NEW


class StageDispatcher(Dispatcher):
    """Quotes steps whose content is not known by the sizes that are on record."""

    __slots__ = ()

    @staticmethod
    def _quote(turn: Turn, put: Step, route: Route, wanted: int, *, exact: bool = False) -> Quote:
        playing = PLAYING.get()
        if playing is None or playing.step.body is not None:
            return Dispatcher._quote(turn, put, route, wanted, exact=exact)
        model, window = route.upstream_model, route.context_window
        size = input_bound(put, model=model, context_window=window)
        if playing.size is None:
            playing.size = size
        # What a landing adds to the request is added here too.
        tokens = _input_tokens(playing.step, exact=exact) + max(0, size - playing.size)
        bare = replace(put, items=(), tools=(), text_bytes=0)
        shown = max(1, input_bound(bare, model=model, context_window=window))
        found = quote(
            bare,
            route.rates,
            wanted,
            model=model,
            context_window=window,
            stored_tokens=max(0, tokens - shown),
        )
        if tokens < shown:
            found = replace(found, input_tokens=tokens, input_nano=-(-found.input_nano * tokens // shown))
        return found

    def held_attempt(self, job: Job, ask: Ask, request: UpstreamRequest, held: Held, **more: bool) -> Attempt:
        playing = PLAYING.get()
        if playing is not None:
            playing.held(held.attempt_id, ask)
            if playing.step.body is None and ask.guard is not None:
                # Whether an answer is good enough is read from it.
                ask = replace(ask, guard=None)
        return super().held_attempt(job, ask, request, held, **more)


def _input_tokens(step: Recorded, *, exact: bool) -> int:
    """Input tokens of a step without its content: as they were counted here, else by its provider."""
    told = step.answers[0].usage.input_total if step.answers else 0
    bound = _count(step.asked.get("bound")) or told
    return (_count(step.asked.get("counted")) or told or bound) if exact else bound


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


class StageGovernor(Governor):
    """Knows what a run has done by its digests, where the content of its steps is not known."""

    __slots__ = ()

    def _trace(self, job: Job) -> Trace:
        playing = PLAYING.get()
        if playing is None or playing.step.body is not None:
            return super()._trace(job)
        return playing.step.trace


class StageState(ProviderState):
    """Knows every id that a step goes on from: it was known when it was recorded."""

    __slots__ = ()

    async def find(self, caller: Principal, ids: Collection[str]) -> dict[str, Kept]:
        playing = PLAYING.get()
        if playing is None or not ids:
            return {}
        step = playing.step
        tokens = _count(step.asked.get("stored"))
        kept = Kept(step.provider, step.model, step.run["id"], str(step.who["session"] or ""), tokens)
        return {each: kept if n == 0 else replace(kept, tokens=0) for n, each in enumerate(ids)}


@dataclass(slots=True)
class OneVersion:
    """In the place of a rollout: one policy, for steps with their content and for those without."""

    current: Generation
    bare: Generation

    def for_new(self, run_id: str) -> Generation:
        """See `Rollout`."""
        return self.current

    def of(self, version: str) -> Generation:
        """See `Rollout`."""
        playing = PLAYING.get()
        return self.bare if playing is not None and playing.step.body is None else self.current


class Understudy:
    """In the place of every provider."""

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """What was recorded, once the clock has come to it."""
        playing = PLAYING.get()
        assert playing is not None
        assert playing.latest is not None
        if not playing.answered.is_set():
            playing.stands()
            await playing.answered.wait()
        number, playing.sent = playing.sent, playing.sent + 1
        return _reply(playing, playing.latest, number)

    async def aclose(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class _Reply:
    status: int
    headers: Headers
    body: bytes

    async def read(self, limit: int) -> bytes:
        return self.body

    async def chunks(self) -> AsyncIterator[bytes]:
        if self.body:
            yield self.body

    async def aclose(self) -> None:
        return None

    def abort(self) -> None:
        return None

    def left_behind(self) -> tuple[bytes, bool]:
        return b"", False


def _reply(playing: Playing, ask: Ask, number: int) -> _Reply:
    surface, put = ask.wire.surface, ask.put
    given = playing.given(number)
    if given is not None and given.status is not None and 400 <= given.status < 500:
        return _Reply(given.status, _JSON, b'{"error":{"message":"as recorded","type":"recorded"}}')
    said = given.said if given is not None and ask.lands is None else Answer(texts=(_LAST_WORDS,))
    if ask.lands is not None and given is not None and not given.said.calls:
        said = given.said
    usage = given.usage if given is not None else _assumed(playing.step)
    if surface not in SHAPERS:
        return _Reply(200, _JSON, orjson.dumps(_no_conversation(surface, ask.route.upstream_model, usage)))
    body = put.body
    if put.stream and surface in (Surface.CHAT, Surface.COMPLETIONS):
        body = {**body, "stream_options": {"include_usage": True}}
    told = Said(
        text=said.texts[0] if said.texts else "",
        calls=said.calls,
        finish=finish_of(said),
        usage=_USAGE[surface](usage),
        model=ask.route.upstream_model,
        id=said.response_id,
    )
    created = int(time.time())
    if put.stream:
        return _Reply(200, _EVENTS, SHAPERS[surface].compose_stream(told, body, created))
    return _Reply(200, _JSON, orjson.dumps(SHAPERS[surface].compose(told, body, created)))


def _assumed(step: Recorded) -> Usage:
    """What an answer may take that was never given."""
    return Usage(input_uncached=_input_tokens(step, exact=True), output_text=16, source="provider")


def _no_conversation(surface: Surface, model: str, usage: Usage) -> Json:
    told = {"prompt_tokens": usage.input_total, "total_tokens": usage.input_total}
    if surface is Surface.EMBEDDINGS:
        vector = {"object": "embedding", "index": 0, "embedding": [0.0]}
        return {"object": "list", "model": model, "data": [vector], "usage": told}
    if surface is Surface.MODERATIONS:
        return {"id": "modr-recorded", "model": model, "results": [{"flagged": False, "categories": {}}]}
    return {"object": "recorded"}


class NoJournal:
    """In the place of a journal: nothing here has to outlive this process."""

    def opened(self, *_: object) -> None:
        """Nothing."""

    def settled(self, _: Settlement) -> None:
        """Nothing."""

    def confirmed(self, _: str) -> None:
        """Nothing."""


class _Unheard:
    """A client that takes everything and reads nothing."""

    left = False

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """It never leaves."""

    async def start(self, status: int, headers: Headers) -> None:
        """Nothing."""

    async def send(self, data: bytes) -> None:
        """Nothing."""

    async def end(self) -> None:
        """Nothing."""

    def cut(self) -> None:
        """Nothing."""


# -- the stage ----------------------------------------------------------------------------------------


class Stage(Worker):
    """A worker that plays. `base` is the policy in force, by whose prices the recorded costs were made."""

    dispatchers = StageDispatcher
    governors = StageGovernor

    def __init__(self, policy: Policy, base: Policy, directory: Path) -> None:
        super().__init__(settings_in(directory, lease_s=LEASE_S))
        self.candidate = playable(policy, base)
        self._built_in: set[str] = set()
        self._base_policy = base
        self._base = self._router(base)
        self._base_paths = base.passthrough
        self._base_routes: dict[str, Route | None] = {}
        self.clock = self.stage_clock = StageClock()
        self.source = GivenPolicy(self.candidate)
        self.stage_store: StageStore

    async def start(self) -> None:
        """Everything that a worker has, and the policy as it can be played."""
        await super().start()
        pipeline = self.pipeline
        self.settler.journal = cast(Journal, NoJournal())
        version = OneVersion(
            self._generation(self.candidate), self._generation(without_content(self.candidate))
        )
        pipeline.rollout = cast(Rollout, version)
        pipeline.provider_state = StageState(self.store, self.lineage)
        pipeline.recorder = None

    def notify(self, kind: str, facts: dict[str, Any]) -> None:
        """Nobody hears of it."""

    def _simulated(self, name: str) -> Target | None:
        """The built-in simulated provider's models, where they were offered: what the policy in force does
        not have, and a step on record was served by all the same."""
        playing = PLAYING.get()
        if playing is not None and playing.step.model == name and playing.step.provider == SIM_PROVIDER:
            self._built_in.add(name)
        if name not in self._built_in or self._base_policy.find_model(name) is not None:
            return None
        return simulated(name, _NOWHERE)

    def _make_transport(self) -> Transport:
        return Understudy()

    def _make_store(self) -> Store:
        self.stage_store = StageStore(self.stage_clock, self._bill)
        return self.stage_store

    # -- playing ------------------------------------------------------------------------------------

    async def play(self, playing: Playing, caller: Principal) -> None:
        """One step, from its request to its end; `playing.outcome` and `playing.cost` are what came of it."""
        PLAYING.set(playing)
        step = playing.step
        version = self.pipeline.generation.version
        facts = Facts(step.surface, version, new_id("req"), step.decision)
        error: GatewayError | None = None
        try:
            if step.surface is Surface.PASSTHROUGH:
                await self._hand_on(playing, caller, facts)
            else:
                await self.pipeline.handle(self._call(step, caller), facts, _Unheard())
        except GatewayError as failed:
            error = failed
        events = self.stage_store.told.pop(step.decision, [])
        attempts = [event for event in events if event["t"] == "attempt"]
        refusal = next((event for event in events if event["t"] == "refusal"), None)
        playing.outcome = outcome_of(attempts, refusal)
        playing.checks = tuple(facts.checks)
        if error is not None and playing.outcome.verdict != "refuse":
            playing.outcome = _of_error(error) or playing.outcome
        await self.breakers.flush()

    async def _hand_on(self, playing: Playing, caller: Principal, facts: Facts) -> None:
        step = playing.step
        declared = next((r for r in self.candidate.passthrough if r.path == step.model), None)
        if declared is None:
            raise CallerError("unknown_route", f"The gateway does not serve {step.model[:128]!r}.")
        call = self._call(step, caller)
        path = "/".join("x" if part.startswith("{") else part for part in declared.path.split("/"))
        await self.pipeline.hand_on(call, path, declared, declared.methods[0], None, facts, _Unheard())

    @staticmethod
    def _call(step: Recorded, caller: Principal) -> Call:
        headers: dict[bytes, bytes] = {b"content-type": b"application/json"}
        if tags := step.who.get("tags"):
            told = ",".join(f"{name}={value}" for name, value in tags.items())
            headers[b"x-guardrail-tags"] = told.encode("latin-1", "replace")
        if (end_user := step.who.get("end_user")) and is_name(str(end_user)):
            headers[b"x-guardrail-user-id"] = str(end_user).encode()
        body = step.body
        if body is None:
            body = b"" if step.surface is Surface.PASSTHROUGH else orjson.dumps(request_of(step))
        return Call(
            surface=step.surface,
            caller=caller,
            raw_headers=list(headers.items()),
            headers=headers,
            query=b"",
            url_run=None,
            body=body,
            clock=time.perf_counter(),
        )

    def spend(self, spent: Spent) -> None:
        """Let what another run has spent count."""
        surface = Surface(spent.surface) if spent.surface in set(Surface) else Surface.CHAT
        scopes = Scopes(
            principal=spent.principal,
            run=spent.run,
            session=spent.session,
            session_named=True,
            user=spent.user,
            key=spent.key,
            team=spent.team,
            model=spent.model,
            agent=spent.agent,
            surface=surface,
            tags=spent.tags,
            tree=spent.run,
        )
        current = self.pipeline.generation
        rulebook = current.profiles.get(spent.key, current).rulebook
        charges = rulebook.charges(scopes, spent.at, {})
        self.stage_store.spend(charges, spent.cost, spent.at)

    # -- what it costs --------------------------------------------------------------------------------

    def _bill(self, playing: Playing, attempt_id: str) -> tuple[Nano, int] | None:
        """What an attempt costs, and the tokens that count: as recorded, where the same is served at the same
        price, else its tokens at the price of what serves it now."""
        found = playing.asks.get(attempt_id)
        if found is None:
            return None
        ask, number = found
        if ask.kept:
            return 0, 0
        given = playing.given(number)
        if given is None:
            step = playing.step
            if number or step.was.verdict == "refuse":
                # It was never asked: nothing is known of what it would have cost.
                playing.is_priced = playing.is_priced and bool(step.answers)
                return None
            playing.cost += step.cost
            return step.cost, 0
        if self._is_same(playing.step, ask, given):
            cost = given.cost + (playing.step.besides if number == 0 else 0)
        else:
            cost = ask.route.rates.cost(given.usage)
        playing.cost += cost
        return cost, given.usage.charged_tokens

    def _is_same(self, step: Recorded, ask: Ask, given: Given) -> bool:
        route = ask.route
        if route.requested != given.name and not (step.fell_back and ask.instead_of is None):
            return False
        before = self._before(route, step.at)
        if before is None:
            return route.rates.cost(given.usage) == given.cost
        return before.rates == route.rates and before.upstream_model == route.upstream_model

    def _before(self, route: Route, at: Millis) -> Route | None:
        """The route of the same name under the policy in force."""
        if route.requested not in self._base_routes:
            anyone = Principal("", "")
            try:
                found: Route | None = self._base.choose(anyone, route.requested, at)
            except CallerError:
                found = next(
                    (
                        self._base.passthrough(anyone, declared)
                        for declared in self._base_paths
                        if declared.path == route.requested
                    ),
                    None,
                )
            self._base_routes[route.requested] = found
        return self._base_routes[route.requested]


def _of_error(error: GatewayError) -> Outcome | None:
    """What an error says that no record tells of; None for what is no decision."""
    if isinstance(error, UpstreamError):
        return None
    if isinstance(error, Refusal):
        return Outcome("refuse", error.ruling.rule, error.code)
    rule = {"unknown_model": "models", "unknown_price": "models", "model_not_allowed": "models"}
    return Outcome("refuse", rule.get(error.code, error.code), error.code)
