"""Wiring: settings -> policy -> stores -> pipeline -> ASGI application. The only file that builds things."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from gateway import memory
from gateway.admission import Kill, Settlement
from gateway.alerting.alerts import Alerts
from gateway.alerting.events import expiring
from gateway.audit import AuditTrail
from gateway.auth import Authenticator
from gateway.auth import KeyRecord as CallerKey
from gateway.control import Control
from gateway.domain import Millis, Nano, Principal, Surface
from gateway.drain import Drain
from gateway.errors import CallerError, GatewayError, StoreUnavailable
from gateway.journal import Journal, JournalUnavailable, Opened, orphaned_files, read_journal
from gateway.metering import tokens
from gateway.metering.learned import OutputEstimates
from gateway.metering.prices import SIM_PREFIX, SIM_PROVIDER, SIMULATED
from gateway.pipeline import Pipeline
from gateway.policy.messages import Mistake, PolicyError
from gateway.policy.models import Policy, Target
from gateway.policy.reload import PolicySource
from gateway.policy.sections.providers import Model, Provider
from gateway.protocols import Store
from gateway.replay.process import Backtests
from gateway.replay.recorder import Recorder
from gateway.retention import Privacy
from gateway.rollout import Rollout
from gateway.rules.budgets import Rulebook
from gateway.rules.contracts import Contracts
from gateway.rules.kills import is_drill
from gateway.rules.lineage import Lineage
from gateway.rules.route import Router
from gateway.screening.classifier import ClassifierFailed
from gateway.screening.pool import ScanPool
from gateway.screening.self_test import broken
from gateway.settings import Settings, SettingsError, admin_token, from_environment, own_secrets
from gateway.steps.ancillary import Ancillary
from gateway.steps.answer_cache import AnswerCache, WordingCache
from gateway.steps.approvals import Approvals
from gateway.steps.asides import Asides
from gateway.steps.asking import wire_of
from gateway.steps.attempt import Attempt, Machinery
from gateway.steps.background import Background
from gateway.steps.baselines import Baselines
from gateway.steps.booking import Outcome
from gateway.steps.breakers import Breakers
from gateway.steps.dispatch import Dispatcher, Generation
from gateway.steps.governor import Governor, loop_rules
from gateway.steps.judge import Judges
from gateway.steps.last_steps import LastSteps
from gateway.steps.live import LiveCalls
from gateway.steps.moderation import Moderator
from gateway.steps.provider_state import ProviderState
from gateway.steps.replays import Replays
from gateway.steps.screens import Screens, looks_of
from gateway.steps.sending import Sender
from gateway.steps.settling import Settler
from gateway.steps.steering import Steering
from gateway.steps.tool_kills import ToolKills
from gateway.steps.turn import Facts
from gateway.stores.archive import SqliteRunArchive
from gateway.stores.embedded import EmbeddedStore, complete_orphan, orphan_settlement, wall_clock
from gateway.stores.ledger import SqlLedger
from gateway.stores.ledger_credentials import KeyRecord
from gateway.stores.ledger_database import LedgerError, LedgerUnavailable
from gateway.telemetry import logs
from gateway.telemetry.counts import Counts
from gateway.telemetry.exposition import Exposition, group_folder
from gateway.telemetry.gauges import Gauges
from gateway.telemetry.logs import StepLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.otlp import OtlpExporter, configured
from gateway.telemetry.traces import Traces
from gateway.testing.models import CATALOGUE
from gateway.testing.server import ProviderServer
from gateway.upstreams.capacity import Capacity
from gateway.upstreams.dialects import wire_for
from gateway.upstreams.http1_transport import Http1Transport
from gateway.upstreams.transport import Transport
from gateway.uses import Uses
from gateway.web.asgi import Message, Receive, Scope, Send
from gateway.web.data_plane import DataPlane
from gateway.web.exchange import config as server_config

log = logging.getLogger("gateway")

HOUSEKEEPING_S = 0.5
COLLECT_EVERY_S = 3600.0
FORGET_EVERY_S = 3600.0
COUNTERS_KEPT_MS = 7 * 86_400_000
"""How long the ledger keeps a budget's counter after its window has ended, for what is settled late."""
ADMIN_PATHS = (b"/admin/", b"/metrics", b"/dashboard")
"""As they come, undecoded: whoever keeps callers away from them in front of us looks for these letters."""


def simulated(name: str, base_url: str) -> Target | None:
    """A model of the built-in simulated provider, which is at that address."""
    if not name.startswith(SIM_PREFIX):
        return None
    provider = Provider(dialect="openai", base_url=base_url, api_key=None)
    return Target(name, "sim/*", Model(provider=SIM_PROVIDER), SIM_PROVIDER, provider, name, None)


class Worker:
    """One process of the gateway: everything that it holds, in the order in which it starts and ends."""

    dispatchers: type[Dispatcher] = Dispatcher
    governors: type[Governor] = Governor

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # The ledger and the journal are nobody else's to read.
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.secrets = own_secrets(settings)
        self.admin_token = admin_token(settings)
        self.clock = wall_clock
        self.metrics = Metrics()
        self.counts = Counts(self.metrics, lambda: self.rollout.current.policy, self.notify)
        self.source = PolicySource(settings.policy, settings.environment)
        self.ledger = SqlLedger(settings.ledger_url, data_dir=settings.data_dir)
        self.started_at = time.time()
        self.ready = False
        self.stopping = False
        self._keys_served: list[KeyRecord] = []
        self.simulation: ProviderServer | None = None
        self.archive: SqliteRunArchive | None = None
        self.notices: list[Callable[[str, dict[str, Any]], None]] = []
        self.step_log = StepLog()
        self.traces: Traces | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # -- start --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring everything up; the worker is ready when this returns. Raises what makes it impossible."""
        settings = self.settings
        policy = self.source.start()
        exporter = self._exporter()
        ensure_open_is_local(policy, settings)
        for warning in policy.warnings:
            log.warning("%s", warning)
        if settings.offers_simulation:
            self.simulation = ProviderServer()
            await self.simulation.start()
        await asyncio.to_thread(tokens.warm)
        self.pool = ScanPool(settings.screening_processes)
        for each in with_profiles(policy):
            if failing := await self._failing_guards(each):
                await self.pool.close()
                raise SettingsError(f"screening does not work: {failing}")
        self.ledger.erasure_secret = self.secrets.digest("erasures").encode()
        await self.ledger.start()
        self.lineage = Lineage(self.secrets.current)
        self.journal = Journal(settings.data_dir / "journal", self.id)
        self.journal.start()
        self.store = self._make_store()
        self.drain = Drain(self.store, self.ledger)
        self.ledger.on_ended = self.counts.runs_ended
        self.gauges = Gauges(
            self.metrics,
            self.store,
            self.ledger,
            self.clock,
            drain_lag=lambda: self.drain.lag_s,
            in_flight=lambda: self.data_plane.active,
            healthy=lambda: self.source.status().healthy,
            notify=self.notify,
        )
        folder = group_folder(settings.data_dir) if settings.workers > 1 else None
        self.exposition = Exposition(self.metrics, self.id, folder, self.gauges.refresh)
        self.settler = Settler(
            self.store, self.journal, self.ledger.has_attempt, store_may_forget=not settings.embedded
        )
        if settings.embedded:
            # The store is empty yet: what a dead process left goes to the ledger, which seeds the store.
            await self._replay_into_ledger()
        await self.store.start()
        if not settings.embedded:
            await self._replay_into_store()
        self.live = LiveCalls(self.store, self.id, settings.lease_s, on_stopped=self._kill_obeyed)
        self.tool_kills = ToolKills(self.store)
        self.provider_state = ProviderState(self.store, self.lineage)
        self.uses = Uses(self.ledger, self.clock)
        self.transport = self._make_transport()
        self.backtests = Backtests(settings.ledger_url, settings.data_dir, self.secrets)
        self.recorder = Recorder(self.ledger, self.secrets, self.clock, self.metrics.recordings_lost.inc)
        self.background = Background(self.transport)
        self.approvals = Approvals(self.ledger, self.clock, self.notify, settings.link)
        self.alerts = Alerts(
            policy.alerts,
            self.transport,
            self.ledger,
            self.drain,
            self.metrics,
            self.notify,
            self.clock,
            self.secrets.digest("alerts").encode(),
            settings.link,
            self.id,
        )
        self.notices.append(self.alerts)
        self.audit = AuditTrail(
            self.store,
            self.ledger,
            self.drain,
            self.metrics,
            self.notify,
            self.clock,
            self.id,
            policy.audit,
        )
        self.notices.append(self.audit)
        self.rollout = Rollout(
            self.ledger,
            self.clock,
            self.notify,
            self._ensure_usable,
            self._generation,
            self._in_force,
            policy,
            self._generation(policy),
        )
        self.control = Control(
            self.ledger, self.store, self.clock, self._control_changed, self.rollout.follow
        )
        self.screens = Screens(
            self.pool,
            self.store,
            self.lineage,
            self.secrets.digest("screening").encode(),
            self.counts.bypassed,
            self.counts.found,
        )
        self.capacity = Capacity()
        self.breakers = Breakers(self.store, self.clock, self.notify, self.counts.breaker_is)
        self.baselines = Baselines(self.store, self.clock, self.notify)
        machinery = Machinery(
            self.settler,
            self.live,
            self.lineage,
            self.provider_state,
            self.background,
            self.capacity,
            self.id,
            self._record,
            self.notify,
        )
        estimates = OutputEstimates()
        self.dispatcher = self.dispatchers(
            store=self.store,
            transport=self.transport,
            machinery=machinery,
            notify=self.notify,
            estimates=estimates,
            tool_kills=self.tool_kills,
            topups={},
            held=self.gauges.held,
        )
        asides = Asides(self.dispatcher)
        self.answers = answers = AnswerCache(self.store, self.lineage, self.clock)
        self.pipeline = Pipeline(
            rollout=self.rollout,
            store=self.store,
            dispatcher=self.dispatcher,
            governor=self.governors(
                self.store,
                self.lineage,
                self.breakers,
                self.baselines,
                self.approvals,
                self.notify,
                self.counts.results_read,
            ),
            last_steps=LastSteps(
                self.store,
                self.dispatcher,
                Sender(self.dispatcher, self.breakers, self.capacity, self.clock, self.counts.routed),
                self.clock,
                self.notify,
                Moderator(asides, self.counts.found, self.counts.bypassed),
                Steering(self.clock, estimates, self.notify),
                Replays(
                    answers,
                    WordingCache(answers, self.clock),
                    asides,
                    self.live,
                    self.clock,
                    self.counts.looked_up,
                ),
            ),
            lineage=self.lineage,
            clock=self.clock,
            tool_kills=self.tool_kills,
            provider_state=self.provider_state,
            screens=self.screens,
            judges=Judges(asides),
            shortened=self.counts.shortened,
            builtin_models=self._builtin_models(),
            recorder=self.recorder,
            ensure_recorded=self.audit.ensure_recorded,
        )
        self.data_plane = DataPlane(
            self.pipeline,
            Authenticator(policy, self.secrets, self.uses.seen),
            self.metrics,
            Ancillary(self.pipeline, self.live),
        )
        self.data_plane.ended = self._request_ended
        self.privacy = Privacy(
            ledger=self.ledger,
            store=self.store,
            drain=self.drain,
            clock=self.clock,
            worker=self.id,
            retention=lambda: self.rollout.current.policy.retention,
            forget=self._forget_people,
            session_keys=self._session_keys,
            save_store=self._save_store,
            removed=self.counts.forgotten,
        )
        await self.rollout.start()
        await self.control.start()
        if exporter is not None:
            self.traces = Traces(
                exporter,
                self.ledger,
                self.pool,
                lambda version: self.rollout.of(version).policy,
                self.clock,
                settings.trace_conventions,
                settings.trace_parent,
                exporter.config.share,
                partial(self._spans_told, "dropped"),
            )
            self.drain.written = self.traces.written
            self.traces.start()
        self.settler.start()
        self.recorder.start()
        await self.live.start()
        await self.tool_kills.start()
        self.breakers.start()
        self.alerts.start()
        self.audit.start()
        self.drain.start()
        self.privacy.start()
        self.gauges.start()
        self.exposition.start()
        self.uses.start()
        if self.rollout.current.screens:
            self._tasks.append(asyncio.create_task(self.pool.warm(), name="screening"))
        self._tasks.append(asyncio.create_task(self.source.run(self.rollout.files_changed), name="policy"))
        self._tasks.append(asyncio.create_task(self.rollout.watch(), name="rollout"))
        self._tasks.append(asyncio.create_task(self._keep_house(), name="housekeeping"))
        self.metrics.policy_generation.set(self.rollout.changes)
        self.audit.note("policy.in_force", {"version": self.rollout.current.version})
        self.ready = True
        log.info("worker %s serves policy %s", self.id, self.rollout.current.version)

    def _exporter(self) -> OtlpExporter | None:
        """What traces go out by; None where no endpoint is configured."""
        config = configured(self.settings.environment)
        if config is None:
            return None
        exporter = OtlpExporter(config, self.id, self._spans_told)
        exporter.start()
        log.info("traces go to %s", config.shown_endpoint)
        return exporter

    def _spans_told(self, outcome: str, count: int) -> None:
        self.metrics.child(self.metrics.trace_spans, outcome).inc(count)

    def _make_transport(self) -> Transport:
        return Http1Transport()

    def _make_store(self) -> Store:
        settings = self.settings
        if settings.embedded:
            self.archive = SqliteRunArchive(settings.data_dir / "runs.db")
            return EmbeddedStore(
                clock=self.clock, archive=self.archive, used_counters=self.ledger.used_counters
            )
        from gateway.stores.redis import RedisStore

        return RedisStore(
            settings.store_url,
            used_counters=self._fold_of_the_ledger,
            in_ledger=self.ledger.has_attempt,
            drained=self.journal.confirmed,
            worker_id=self.id,
            took=self.metrics.store_seconds.observe,
            failed=self.metrics.store_errors.inc,
        )

    async def _fold_of_the_ledger(self, now: Millis) -> dict[str, tuple[Nano, Millis]]:
        """What a store that lost its state is seeded with. Kills come first: nothing is admitted before they
        hold again; then events that it still has: they are spent and not in the ledger yet."""
        if self.ready:
            await self.control.restore_kills()
        with contextlib.suppress(StoreUnavailable):
            await self.drain.flush()
        return await self.ledger.used_counters(now)

    def _router(self, policy: Policy) -> Router:
        return Router(policy, builtin=self._simulated, refs={SIM_PROVIDER: SIMULATED})

    def _generation(self, policy: Policy) -> Generation:
        router = self._router(policy)
        for unknown in router.warm(self.clock()):
            log.warning("%s", unknown)
        profiles = {
            key: made
            for profile in policy.profiles.values()
            for made in (self._generation(policy.under(profile)),)
            for key in profile.keys
        }
        return Generation(
            policy, Rulebook(policy), router, Contracts(policy), loop_rules(policy), profiles=profiles
        )

    def _simulated(self, name: str) -> Target | None:
        """The built-in simulated provider's models, where it is offered."""
        return simulated(name, self.simulation.base_url) if self.simulation is not None else None

    def _builtin_models(self) -> list[str]:
        return [SIM_PREFIX + name for name in CATALOGUE] if self.simulation is not None else []

    async def _replay_into_ledger(self) -> None:
        for settlements, finish in self._dead_journals():
            await self.ledger.append([(s.attempt_id, s.event) for s in settlements])
            finish()

    async def _replay_into_store(self) -> None:
        for settlements, finish in self._dead_journals():
            for settlement in settlements:
                await self.settler.apply(settlement)
            finish()

    def _dead_journals(self) -> list[tuple[list[Settlement], Callable[[], None]]]:
        found: list[tuple[list[Settlement], Callable[[], None]]] = []
        for path, fd in orphaned_files(self.settings.data_dir / "journal"):
            settlements = read_journal(path, self._conservative)
            if settlements:
                log.warning("replaying %d attempts from the journal of a process that died", len(settlements))

            def finish(path: Path = path, fd: int = fd) -> None:
                path.unlink(missing_ok=True)
                os.close(fd)

            found.append((settlements, finish))
        return found

    def _conservative(self, opened: Opened) -> Settlement:
        """The end of an attempt that was dispatched by a process that died: its full reservation."""
        event = complete_orphan(
            orjson.dumps(opened.orphan), opened.ordinal, opened.reserved, opened.holds, self.clock()
        )
        base = orphan_settlement(opened.attempt_id, str(opened.orphan["run"]), opened.reserved)
        return replace(base, event=event, holds=opened.holds)

    # -- changes ------------------------------------------------------------------------------------

    async def _ensure_usable(self, policy: Policy) -> None:
        """Raises `PolicyError` for a valid policy that this gateway cannot serve by."""
        try:
            ensure_open_is_local(policy, self.settings)
        except SettingsError as error:
            raise PolicyError([Mistake(str(self.settings.policy), 0, "auth.mode", str(error))]) from None
        for each in with_profiles(policy):
            if failing := await self._failing_guards(each):
                problem = f"what it switches on does not work: {failing}"
                raise PolicyError([Mistake(str(self.settings.policy), 0, "screening", problem)]) from None

    def _in_force(self, generation: Generation) -> None:
        policy = generation.policy
        authenticator = Authenticator(policy, self.secrets, self.uses.seen)
        authenticator.replace_stored(self._caller_keys())
        self.data_plane.authenticator = authenticator
        self.alerts.replace(policy.alerts)
        self.audit.replace(policy.audit)
        self.notify("policy_in_force", {"version": policy.version})
        self.capacity.renew(policy.providers)
        self.metrics.policy_generation.set(self.rollout.changes)

    async def _failing_guards(self, policy: Policy) -> str:
        """Detectors that the policy relies on and that find nothing, and models that cannot be asked. The
        classifier, where there is one, is loaded by this."""
        unasked = self._unasked(policy)
        if not policy.screening.is_on:
            return ", ".join(unasked)
        try:
            looks = await asyncio.to_thread(looks_of, policy.screening)
        except ClassifierFailed as error:
            return f"injection (classifier: {error})"
        failing = await asyncio.to_thread(broken, looks) + unasked
        if not failing and (problem := await self.pool.prepare(looks)):
            failing.append(f"injection (classifier: {problem})")
        return ", ".join(failing)

    def _unasked(self, policy: Policy) -> list[str]:
        """Which models of a policy that judge texts could not be asked, and why."""
        injection, moderation = policy.screening.injection, policy.screening.moderation
        asker, router = Principal("gateway", "gateway", None, None), self._router(policy)
        found = []
        if injection is not None and injection.mode != "off" and injection.judge is not None:
            try:
                wire_of(router.choose(asker, injection.judge.model, self.clock()))
            except CallerError as error:
                found.append(f"injection (judge: {error.message})")
        if moderation is not None and moderation.mode != "off":
            by_judge = moderation.by == "judge"
            try:
                route = router.choose(asker, moderation.model, self.clock(), free=not by_judge)
                wire_of(route) if by_judge else wire_for(route, Surface.MODERATIONS)
            except CallerError as error:
                found.append(f"moderation ({error.message})")
        return found

    def _control_changed(self, control: Control) -> None:
        self.dispatcher.topups = control.topups
        # Every kill and top-up comes here, and thousands of keys take tens of milliseconds.
        if control.keys != self._keys_served:
            self._keys_served = control.keys
            self.data_plane.authenticator.replace_stored(self._caller_keys())

    def _caller_keys(self) -> list[CallerKey]:
        now = self.clock()
        return [
            CallerKey(k.id, k.name, k.secrets(now), k.user, k.team, k.models, k.priority, k.max_tool_level)
            for k in self.control.keys
        ]

    # -- what is told ---------------------------------------------------------------------------------

    def notify(self, kind: str, facts: dict[str, Any]) -> None:
        """Tell everyone who listens on this worker: the event stream of the admin plane, alerts, the log."""
        if kind != "step":
            self.metrics.child(self.metrics.events, kind).inc()
        for listener in self.notices:
            listener(kind, facts)

    def _kill_obeyed(self, kill: Kill, stopped: int) -> None:
        if not is_drill(kill.name, kill.reason):
            self.notify("kill", {"name": kill.name, "reason": kill.reason, "streams": stopped})

    def _request_ended(
        self, facts: Facts, error: GatewayError | None, headers: Mapping[bytes, bytes]
    ) -> None:
        self.step_log.request_ended(facts, error)
        if self.traces is not None:
            self.traces.request_ended(facts, error, headers.get(b"traceparent"))

    def _record(self, attempt: Attempt, outcome: Outcome) -> None:
        """What one ended attempt is told to, and teaches about the next."""
        trail = attempt.facts.trail
        if trail is not None and not trail.ended:
            trail.attempts.append(attempt)
        elif self.traces is not None:
            self.traces.late_attempt(attempt)
        if attempt.facts.recorded_until:
            self.recorder.answered(attempt)
        self.counts.attempt_ended(attempt, outcome)
        claims = [finding for finding in attempt.findings if finding["detector"] == "claims"]
        if claims:
            self.counts.found({**attempt.turn.meta(), "run": attempt.turn.run.run_id}, claims)
        if attempt.run_completed and attempt.inspect is None and not attempt.kept:
            self.baselines.completed(
                attempt.turn,
                steps=attempt.admitted.ordinal,
                cost=attempt.facts.run_cost or 0,
            )
        asked = attempt.inspect is None and not attempt.kept
        if outcome == "ok" and attempt.usage.source == "provider" and asked:
            self.dispatcher.estimates.learn(
                attempt.turn.caller.id,
                attempt.turn.scopes.agent,
                attempt.turn.step.model,
                attempt.usage.output_total // attempt.quote.choices,
            )
        self.notify(
            "step",
            {
                "run": attempt.turn.run.run_id,
                "ordinal": attempt.admitted.ordinal,
                "model": attempt.route.upstream_model,
                "cost": attempt.cost,
                "outcome": outcome,
            },
        )

    # -- what is forgotten --------------------------------------------------------------------------

    async def _forget_people(self) -> None:
        """Drop what this worker has at hand of anybody, and what its journal tells of settled attempts."""
        self.screens.forget()
        self.pipeline.governor.forget()
        try:
            self.journal.forget()
        except JournalUnavailable as error:
            log.error("the journal tells of erased people until it is full: %s", error)
        with contextlib.suppress(StoreUnavailable):
            await self.answers.forget()

    def _session_keys(self, principal: str, session: str) -> list[str]:
        return [
            *self.screens.vault_keys(principal, session),
            self.pipeline.governor.session_key(principal, session),
        ]

    async def _save_store(self) -> None:
        """Let an embedded store's file hold what the store holds, and nothing from before."""
        if isinstance(self.store, EmbeddedStore):
            await self.store.save()
        if self.archive is not None:
            await self.archive.empty_log()

    # -- the end ------------------------------------------------------------------------------------

    def stop_streams(self) -> int:
        """End what is still in flight with an error event; how many calls that were."""
        return self.live.shut_down()

    async def close(self) -> None:
        """Settle, drain and disconnect, in this order."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.privacy.close()
        await self.control.close()
        await self.uses.close()
        await self.background.close()
        await self.live.close()
        await self.tool_kills.close()
        await self.breakers.close()
        await self.baselines.close()
        await self.pool.close()
        await self.approvals.close()
        await self.alerts.close()
        await self.audit.close()
        await self.settler.close()
        await self.gauges.close()
        await self.drain.close()
        if self.traces is not None:
            await self.traces.close()
        await self.recorder.close()
        await self.exposition.close()
        await self.store.close()
        if self.archive is not None:
            await self.archive.close()
        await self.transport.aclose()
        if self.simulation is not None:
            await self.simulation.stop()
        self.journal.close()
        await self.ledger.close()

    async def _keep_house(self) -> None:
        """Every moment: save an embedded store's runs, count refused policy files; every hour: tidy up."""
        refused = 0
        collect_at = time.monotonic() + COLLECT_EVERY_S
        forget_at = time.monotonic() + FORGET_EVERY_S
        expiring_at, broken = time.monotonic(), ""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if time.monotonic() >= collect_at and not self.data_plane.active:
                # Under load only the young are looked through; what hides among the old is found here.
                memory.tidy()
                collect_at = time.monotonic() + COLLECT_EVERY_S
            if time.monotonic() >= forget_at:
                forget_at = time.monotonic() + FORGET_EVERY_S
                try:
                    await self.ledger.forget_counters(self.clock() - COUNTERS_KEPT_MS)
                    while await self.ledger.forget_recordings(before=self.clock()):
                        pass
                except (LedgerError, LedgerUnavailable) as error:
                    log.warning("old counters stay in the ledger for now: %s", error)
            if time.monotonic() >= expiring_at:
                expiring_at = time.monotonic() + FORGET_EVERY_S
                for facts in expiring(self.control.keys, self.control.tokens, self.clock()):
                    self.notify("key_expiring", facts)
            if isinstance(self.store, EmbeddedStore):
                began = time.perf_counter()
                try:
                    await self.store.save()
                except sqlite3.Error as error:
                    self.metrics.store_errors.inc()
                    log.error("runs could not be saved, they will be with the next attempt: %s", error)
                self.metrics.store_seconds.observe("save", time.perf_counter() - began)
            status = self.source.status()
            if status.failures > refused:
                self.metrics.policy_failures.inc(status.failures - refused)
                log.error(
                    "the policy on disk is refused, %s stays in force: %s", status.version, status.last_error
                )
                refused, broken = status.failures, status.last_error or ""
                self.notify("policy_reload_failed", {"version": status.version, "error": status.last_error})
            elif broken and status.healthy:
                self.notify("policy_reloaded", {"version": status.version, "error": broken})
                broken = ""


def with_profiles(policy: Policy) -> Iterator[Policy]:
    """The policy, and what it is for the keys of each profile."""
    yield policy
    yield from map(policy.under, policy.profiles.values())


def ensure_open_is_local(policy: Policy, settings: Settings) -> None:
    """`SettingsError` when anyone on the network could spend without a key."""
    if policy.auth.mode == "open" and not settings.on_loopback:
        raise SettingsError(
            f"auth.mode 'open' is served on loopback alone, and --host is {settings.host}: give the policy "
            "keys (auth: {mode: keys}) or listen on 127.0.0.1"
        )


class App:
    """The ASGI application of one worker: the data plane, health, and the admin plane where it belongs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.worker = Worker(settings)
        self._admin: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None
        self._admin_server: uvicorn.Server | None = None
        self._admin_task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, or the lifespan of the process."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(("/v1/", "/r/")):
                await self.worker.data_plane(scope, receive, send)
            elif path == "/healthz" or (path == "/" and scope["method"] == "HEAD"):
                await _json(send, 200, {"status": "alive"})
            elif path == "/readyz":
                await self._ready(send)
            elif (
                self.settings.shares_admin
                and scope["raw_path"].startswith(ADMIN_PATHS)
                and self._admin is not None
            ):
                await self._admin(scope, receive, send)
            else:
                await self.worker.data_plane(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:
            # uvicorn prints the message and exits; a traceback would hide the sentence that helps.
            log.error("the gateway cannot start: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        from gateway.web.admin import admin_app

        await self.worker.start()
        self._admin = admin_app(self.worker)
        address = self.settings.admin_address
        if address is not None:
            await self._serve_admin(address)

    async def _serve_admin(self, address: tuple[str, int]) -> None:
        """The admin plane on its own listener; workers of one host share the port."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        config = server_config(self._admin_or_health, interface="asgi3", lifespan="off")
        self._admin_server = _SecondServer(config)
        self._admin_task = asyncio.create_task(self._admin_server.serve(sockets=[listener]))

    async def _admin_or_health(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._admin is not None
        if scope["path"] == "/healthz":
            await _json(send, 200, {"status": "alive"})
        elif scope["path"] == "/readyz":
            await self._ready(send)
        else:
            await self._admin(scope, receive, send)

    async def _stop(self) -> None:
        if self._admin_server is not None and self._admin_task is not None:
            self._admin_server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await self._admin_task
        await self.worker.close()

    async def _ready(self, send: Send) -> None:
        worker = self.worker
        status = worker.source.status()
        store_ok = True
        try:
            await worker.store.ping()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the store, it is not ready
            log.debug("store is not ready: %s", error)
            store_ok = False
        ready = worker.ready and store_ok and not worker.stopping
        rollout = worker.rollout if worker.ready else None
        problem = rollout.problem if rollout is not None else None
        await _json(
            send,
            200 if ready else 503,
            {
                "status": "ready" if ready else "stopping" if worker.stopping else "not_ready",
                "store": "ok" if store_ok else "unavailable",
                "policy": {
                    "generation": rollout.changes if rollout is not None else 0,
                    "version": rollout.current.version if rollout is not None else "",
                    "healthy": status.healthy and problem is None,
                    "error": status.last_error or problem,
                },
            },
        )


class _SecondServer(uvicorn.Server):
    """A server beside the process's own, which alone is told of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none over."""
        yield


async def _json(send: Send, status: int, body: dict[str, Any]) -> None:
    raw = orjson.dumps(body)
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": raw})


def create_app() -> App:
    """The application of a worker process, configured by its environment."""
    settings = from_environment()
    traced = False
    with contextlib.suppress(SettingsError):
        # What is wrong with it is told when the worker starts.
        traced = configured(settings.environment) is not None
    lines = logs.configure(settings.log_level, settings.log_format, settings.environment, traced=traced)
    app = App(settings)
    lines.worker = app.worker.id
    lines.hide(app.worker.admin_token, app.worker.secrets.current.decode("utf-8", "replace"))
    return app
