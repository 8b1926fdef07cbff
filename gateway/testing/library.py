"""The scripts a simulated provider has, and which of them a request gets."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.testing import models
from gateway.testing.resources import ROUTES
from gateway.testing.script import Ask, Reply, Scenario, Script, ScriptError
from gateway.testing.surfaces import SURFACES
from gateway.testing.wire import Request

SCENARIO_HEADER = b"x-sim-scenario"

ROUTE_NAMES = (*(f"POST /v1/{endpoint}" for endpoint in SURFACES), *ROUTES)
"""What a script can be mapped to besides models."""


class Library:
    """Scripts by name, and the models and routes that play them. `default` is for models it does not know;
    `None` if they do not exist."""

    def __init__(self, default: str | None) -> None:
        self.default = default
        self.scripts: dict[str, Script] = {}
        self.models: dict[str, str] = {}
        self.routes: dict[str, str] = {}
        self._asked: dict[str, int] = {}

    def put(
        self,
        name: str,
        script: Script | Sequence[Reply] | Reply,
        models: Sequence[str] = (),
        routes: Sequence[str] = (),
    ) -> None:
        """Set a script, and what plays it. Raises: `ScriptError`."""
        for route in routes:
            if route not in ROUTE_NAMES:
                raise ScriptError(f"there is no route {route!r}; expected one of {', '.join(ROUTE_NAMES)}")
        if isinstance(script, Reply):
            script = [script]
        self.scripts[name] = script if isinstance(script, Scenario) or callable(script) else Scenario(script)
        self._asked.pop(name, None)
        self.models |= dict.fromkeys(models, name)
        self.routes |= dict.fromkeys(routes, name)

    def map_model(self, model: str, name: str) -> None:
        """Let a model play that script. Raises: `ScriptError`."""
        if self._named(name) is None:
            raise ScriptError(f"there is no scenario {name!r}")
        self.models[model] = name

    def clear(self) -> None:
        """Back to the catalogue alone."""
        self.scripts.clear()
        self.models.clear()
        self.routes.clear()
        self._asked.clear()

    def _named(self, name: str) -> Script | None:
        return self.scripts.get(name) or models.find(name)

    def find(self, request: Request, route: str, model: str) -> tuple[str, Script] | None:
        """The name and script for a request; `None` if it names what does not exist."""
        if wanted := request.headers.get(SCENARIO_HEADER):
            name: str | None = wanted.decode("latin-1")
        elif route in self.routes:
            name = self.routes[route]
        elif model in self.models:
            name = self.models[model]
        elif model.startswith(models.PREFIX):
            name = model.removeprefix(models.PREFIX)
        else:
            name = self.default
        if name is None or (script := self._named(name)) is None:
            return None
        return name, script

    def is_meant(self, request: Request, route: str) -> bool:
        """A script is set for the request itself, whatever its model."""
        return SCENARIO_HEADER in request.headers or route in self.routes

    def choose(self, name: str, script: Script, ask: Ask) -> Reply:
        """The reply that is due."""
        asked = self._asked.get(name, 0)
        self._asked[name] = asked + 1
        return script.choose(ask, asked) if isinstance(script, Scenario) else script(ask)

    def listed(self) -> list[tuple[str, str]]:
        """Names and descriptions of all models."""
        return [
            *((models.PREFIX + name, text) for name, text in models.CATALOGUE.items()),
            *((models.PREFIX + name, "scripted") for name in self.scripts),
            *((model, f"plays {name}") for model, name in self.models.items()),
        ]

    def description(self, model: str) -> str | None:
        """What is said of a model; `None` if there is none of that name."""
        name = model.removeprefix(models.PREFIX)
        if model not in self.models and (name == model or self._named(name) is None):
            return None
        return models.CATALOGUE.get(name, "simulated")
