"""What every Python driver shares: jobs come in as JSON lines, results go out as JSON lines.

A driver runs in a virtual environment of its own and knows nothing of the gateway but its base URL. A job
describes one agent and how many of them to run at once; its answer is a list of results, one per agent.
Standard library alone, any Python from 3.11 on.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

Job = dict[str, Any]
MEETING_S = 10.0
SIGN_S = 30.0


class AnswerFailed(Exception):
    """What an agent written by hand raises for a failure that its SDK only tells of."""

    def __init__(self, code: str | None, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Agent:
    """One agent of a job, and what it did. `search` is the tool it is given."""

    job: Job
    number: int
    meeting: threading.Barrier | None = None
    executed: list[str] = field(default_factory=list)
    """What the tool was called with, in order."""

    def meet(self) -> None:
        """In lockstep, wait here for the other agents of the job."""
        if self.meeting is not None:
            try:
                self.meeting.wait(MEETING_S)
            except threading.BrokenBarrierError:
                pass

    def search(self, query: str) -> str:
        """The tool: its result depends on nothing but its argument."""
        self.executed.append(query)
        self.meet()
        if sign := self.job.get("tool_until"):
            _wait_for(sign)
        return f"Nothing was found about {query!r}; the archive was searched to the end."

    @property
    def prompt(self) -> str:
        """What the user asks: the same of every agent of the job, or each its own."""
        prompts = self.job.get("prompts")
        return str(prompts[self.number] if prompts else self.job["prompt"])

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return str(self.job["base_url"])

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for an OpenAI or Anthropic client, where the job says other than the defaults."""
        found = {"base_url": self.base_url, "api_key": self.job["api_key"]}
        for name, argument in (("max_retries", "max_retries"), ("headers", "default_headers")):
            if self.job.get(name) is not None:
                found[argument] = self.job[name]
        return found


def serve(run: Callable[[Agent], str | None]) -> None:
    """Answer jobs from standard input until it ends, then leave. `run` plays one agent and returns its final
    answer."""
    # Frameworks print to standard output; what is said there must not get between the results.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        count = len(job["prompts"]) if job.get("prompts") else job.get("parallel", 1)
        meeting = threading.Barrier(count) if job.get("lockstep") and count > 1 else None
        agents = [Agent(job, number, meeting) for number in range(count)]
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(lambda agent: _play(run, agent), agents))
        results.write(json.dumps(found) + "\n")
        results.flush()
    # Nothing is left to be done, and some frameworks take many seconds to take themselves down.
    os._exit(0)


def _wait_for(path: str) -> None:
    deadline = time.monotonic() + SIGN_S
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)


def _play(run: Callable[[Agent], str | None], agent: Agent) -> dict[str, Any]:
    began = time.monotonic()
    answer: str | None = None
    error: dict[str, Any] | None = None
    agent.meet()
    try:
        answer = run(agent)
    except Exception as failure:
        error = describe(failure)
    return {
        "answer": answer,
        "executed": agent.executed,
        "error": error,
        "seconds": time.monotonic() - began,
    }


def describe(failure: BaseException) -> dict[str, Any]:
    """An exception as its catcher sees it: class, and code and status of the first in its chain with any."""
    chain: list[BaseException] = []
    current: BaseException | None = failure
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    told = next((e for e in chain if code_of(e)), failure)
    kinds = [cls.__name__ for e in chain for cls in type(e).__mro__ if cls.__module__ != "builtins"]
    return {
        "class": type(failure).__name__,
        "kinds": kinds,
        "code": code_of(told),
        "status": getattr(told, "status_code", None),
        "message": str(failure)[:1000],
    }


def code_of(failure: BaseException) -> str | None:
    """The error's code where an agent finds it: OpenAI's `code`, Anthropic's `error_code`, which its older
    SDKs leave in the body."""
    code = getattr(failure, "code", None) or getattr(failure, "error_code", None)
    if code is None and isinstance(body := getattr(failure, "body", None), dict):
        error = body.get("error")
        details = error.get("details") if isinstance(error, dict) else None
        code = details.get("error_code") if isinstance(details, dict) else None
    return code if isinstance(code, str) else None
