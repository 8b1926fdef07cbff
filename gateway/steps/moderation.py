"""Answers judged by a moderation endpoint before their client receives them.

The endpoint is a model of the policy on a provider that serves `/v1/moderations`, asked as an aside of the
step. What it judges is the whole answer, so a stream is asked for as a whole and told as a stream when it has
passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gateway.domain import Json, Surface
from gateway.errors import GatewayError, Refusal, Ruling
from gateway.policy.sections.screening import Moderation
from gateway.rules.budgets import applies
from gateway.steps.asides import Asides
from gateway.steps.attempt import Attempt
from gateway.steps.delivery import ClientLeftError
from gateway.steps.dispatch import Job
from gateway.surfaces import CODECS, moderations
from gateway.upstreams.dialects import wire_for

MAX_CHARS = 400_000
"""Characters of an answer that are judged; a longer one fails."""


@dataclass(slots=True)
class Moderator:
    """Judges answers. One per worker."""

    asides: Asides
    told: Callable[[Mapping[str, Any], Sequence[Json]], None]
    bypassed: Callable[[str], None]

    @staticmethod
    def rule(job: Job) -> Moderation | None:
        """The rule that holds for a step; None when its answer may pass unjudged."""
        rule = job.generation.policy.screening.moderation
        if rule is None or rule.mode == "off" or job.turn.step.surface not in _SPEAKS:
            return None
        return rule if applies(rule.match, job.turn.scopes) else None

    async def judge(self, job: Job, rule: Moderation, about: Attempt, reply: Json) -> None:
        """Judge a plain reply of the client's surface. Raises the refusal where the rule says so, and
        `GatewayError` where there is no verdict."""
        answer = CODECS[job.turn.step.surface].read_answer(reply)
        text = "\n\n".join(text for text in answer.texts if text.strip())
        if not text:
            return
        verdict = _Verdict(rule)
        try:
            await self._ask(job, rule, about, text, verdict)
        except (ClientLeftError, Refusal):
            # A kill stops an answer that has not left as well.
            raise
        except GatewayError as error:
            if rule.on_failure == "refuse" and rule.mode == "enforce":
                raise GatewayError(
                    "guardrail_unavailable",
                    "The answer could not be moderated, and rule 'screening.moderation' lets none pass "
                    "unjudged.",
                    retry_after_s=1,
                ) from error
            self.bypassed("screening.moderation")
            return
        self.told({**job.turn.meta(), "run": job.turn.run.run_id}, verdict.findings)
        if verdict.findings and rule.mode == "enforce" and rule.action == "block":
            found = [finding["type"] for finding in verdict.findings]
            raise Refusal(
                Ruling("output_blocked", "screening.moderation", "run", 0, len(found)),
                f"The model's answer was withheld: {', '.join(found[:5])} (rule 'screening.moderation', run "
                f"{job.turn.run.run_id}).",
            )

    async def _ask(self, job: Job, rule: Moderation, about: Attempt, text: str, verdict: _Verdict) -> None:
        """Get a verdict. Raises `GatewayError` when there is none."""
        if len(text) > MAX_CHARS:
            raise GatewayError("guardrail_unavailable", "The answer is too long to be moderated.")
        step = moderations.parse(orjson.dumps({"model": rule.model, "input": text}))
        route = self.asides.route(job, rule.model, free=True)
        await self.asides.ask(
            job,
            replace(job.turn, step=step, results=[]),
            step,
            route,
            wire_for(route, Surface.MODERATIONS),
            read=verdict.read,
            ordinal=about.admitted.ordinal,
            closes=about.run_completed,
        )
        if verdict.problem:
            raise GatewayError("guardrail_unavailable", verdict.problem)


@dataclass(slots=True)
class _Verdict:
    """What the endpoint says of one answer."""

    rule: Moderation
    findings: list[Json] = field(default_factory=list)
    problem: str = "The moderation endpoint gave no verdict."

    def read(self, reply: Json) -> list[Json]:
        """The findings of a reply."""
        results = reply.get("results")
        if not isinstance(results, list) or not results or not isinstance(results[0], dict):
            return []
        found = self._over(results[0])
        self.findings = [
            {
                "detector": "moderation",
                "channel": "output",
                "mode": self.rule.mode,
                "action": self.rule.action,
                "type": category,
                "count": 1,
            }
            for category in found
        ]
        return self.findings

    def _over(self, result: Json) -> list[str]:
        """The categories over their thresholds; without thresholds, those that the endpoint flags."""
        self.problem = ""
        flagged, scores = result.get("categories"), result.get("category_scores")
        if not self.rule.categories:
            if result.get("flagged") is not True:
                return []
            names = [name for name, on in flagged.items() if on is True] if isinstance(flagged, dict) else []
            return names or ["flagged"]
        found = []
        for name, limit in self.rule.categories.items():
            score = scores.get(name) if isinstance(scores, dict) else None
            if not isinstance(score, int | float):
                self.problem = f"The moderation endpoint has no score for {name!r}."
            elif score >= limit:
                found.append(name)
        return found


_SPEAKS = frozenset((Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES, Surface.COMPLETIONS))
