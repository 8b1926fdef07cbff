"""Commands of the documentation that are not run here, each with the reason. Nothing else is left out.

Commands that run for minutes or until they are ended (`make …`, `python -m benchmarks…`, `gateway serve`) are not
listed: `test_commands` sees that the target and the module are there, and that the options are understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.docs.blocks import Command


@dataclass(frozen=True, slots=True)
class Left:
    """Commands that match `pattern` on `page` (any page where it is empty) and are not run."""

    page: str
    pattern: str
    reason: str

    def covers(self, command: Command) -> bool:
        """Whether the command is one of these."""
        return (not self.page or command.page == self.page) and re.match(
            self.pattern, command.text
        ) is not None


PROGRAMS = (
    Left("", r"docker ", "needs a daemon and images from a registry; tests/deployment has what can be tried"),
    Left("", r"(helm|kubectl) ", "needs a cluster; tests/deployment renders and validates the chart"),
    Left("", r"(export|GATEWAY_SECRET_KEY=).*openssl rand", "makes a secret for a deployment"),
    Left(
        "",
        r"(python|\.venv/bin/python|\.venv/bin/uv) (-m pip|pip) ",
        "installs or resolves packages from an index",
    ),
    Left("", r"\(cd tests/clients/\w+ && npm ", "resolves packages from an index"),
    Left(
        "",
        r"(export )?(ANTHROPIC|CLAUDE|GATEWAY_KEY)\w*=.*|claude |codex ",
        "a program of its own: tests/clients/test_cli.py runs both so configured",
    ),
    Left("", r"(python|\.venv/bin/python) -m pytest", "this test suite"),
    Left(
        "",
        r"redis-cli ",
        "needs a Redis: tests/integration/processes and tests/integration/stores set these flags by hand",
    ),
)
"""By program, on any page."""

SINGLE = (
    Left(
        "docs/runbook.md",
        r"gateway sessions end",
        "nobody is logged in with a browser: tests/integration/admin/test_sessions.py",
    ),
    Left(
        "docs/runbook.md",
        r"gateway top  ",
        "a full screen: tests/unit/test_top_screen.py and tests/integration/admin/test_top.py",
    ),
    Left("docs/runbook.md", r"gateway top +# 2", "a full screen, as above"),
    Left(
        "docs/launch-checklist.md",
        r"gateway doctor --providers",
        "asks every provider: tests/integration/admin/test_doctor.py",
    ),
    Left(
        "docs/simulated-provider.md",
        r"python -m gateway\.testing",
        "serves until it is ended; it is what stands at port 9000 here",
    ),
    Left("docs/howto/index.md", r"python -m gateway\.testing", "as above"),
    Left("docs/howto/index.md", r"\. \.venv/bin/activate", "this environment may lie elsewhere"),
    Left("docs/howto/add-a-provider.md", r"gateway doctor --providers", "asks the providers of the world"),
)
"""One by one."""

LEFT = (*PROGRAMS, *SINGLE)


def reason_for(command: Command) -> str | None:
    """Why a command is not run; `None` when it is."""
    return next((left.reason for left in LEFT if left.covers(command)), None)
