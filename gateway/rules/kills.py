"""The names under which an operator can stop a step, and who is meant by one."""

from __future__ import annotations

from gateway.domain import Principal
from gateway.rules.budgets import Scopes
from gateway.rules.identity import SCOPE_WORDS


def kill_names(
    scopes: Scopes, run_name: str | None, upstream_model: str, key_id: str, parent_name: str | None = None
) -> tuple[str, ...]:
    """Every flag that stops this step, the narrowest first, as they stand after `kill:` in Redis. A run is
    stopped with any run that it was declared a child of, however far up."""
    names = [scopes.run, f"run:{scopes.run}"]
    if run_name is not None:
        names += [run_name, f"run:{run_name}"]
    names += [f"run:{ancestor}" for ancestor in scopes.ancestors]
    names += scopes.ancestors
    if parent_name is not None and scopes.ancestors:
        names += [parent_name, f"run:{parent_name}"]
    names += [f"session:{scopes.session}", f"user:{scopes.user}", f"key:{scopes.key}"]
    if key_id != scopes.key:
        names.append(f"key:{key_id}")
    if scopes.team is not None:
        names.append(f"team:{scopes.team}")
    names.append(f"model:{scopes.model}")
    if upstream_model != scopes.model:
        names.append(f"model:{upstream_model}")
    names.append("global")
    return tuple(names)


def caller_kill_names(caller: Principal, model: str) -> tuple[str, ...]:
    """Every flag that stops a call of this caller outside of any run."""
    names = [f"user:{caller.user or caller.key}", f"key:{caller.key}"]
    if caller.id != caller.key:
        names.append(f"key:{caller.id}")
    if caller.team is not None:
        names.append(f"team:{caller.team}")
    return (*names, f"model:{model}", "global")


DRILL_REASON = "a drill of gateway doctor"
_DRILL = "run:doctor_"


def drill_name(unique: str) -> str:
    """The flag of a drill: of a run that is nobody's."""
    return f"{_DRILL}{unique}"


def is_drill(name: str, reason: str) -> bool:
    """Whether a kill only tries whether workers obey, so that nobody needs to be told of it."""
    return reason == DRILL_REASON and name.startswith(_DRILL)


def kill_name(scope: str, target: str) -> str:
    """The flag for a scope and id: `global` stands alone."""
    return "global" if scope == "global" else f"{scope}:{target}"


def parse_kill_name(name: str) -> tuple[str, str]:
    """(scope, id) of a flag; a bare name is a run's."""
    if name == "global":
        return "global", "all"
    scope, colon, target = name.partition(":")
    if colon and scope in SCOPE_WORDS:
        return scope, target
    return "run", name
