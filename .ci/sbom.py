"""Writes a software bill of materials: CycloneDX 1.6, JSON. `python .ci/sbom.py [--output FILE]`.

What the image and `make run` install is in `requirements/image.txt` and `requirements/runtime.txt`, with
hashes; the dashboard's libraries are in `.ci/assets.toml`. Licences are what each package says of itself, as
an SPDX expression. What is pinned for another system or version of Python is listed by its pin alone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).parents[1]
PINS = ("requirements/runtime.txt", "requirements/image.txt")
ASSETS = ".ci/assets.toml"
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

_CLASSIFIER = "License ::"
_SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""What packages write that do not speak SPDX yet."""
_ID = re.compile(r"[A-Za-z0-9.+-]+")
_NPM_LICENCES = {"MIT": "MIT License", "Apache-2.0": "Apache License", "OFL-1.1": "SIL OPEN FONT LICENSE"}
"""How the text of a licence is known."""


@dataclass(frozen=True)
class Pin:
    """A package of a requirements file."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]

    @property
    def here(self) -> bool:
        """Whether it is installed on this system and version of Python."""
        return self.marker is None or Marker(self.marker).evaluate()


@dataclass(frozen=True)
class Component:
    """A library, whatever it is written in."""

    purl: str
    name: str
    version: str
    licence: str | None
    """An SPDX expression; None where the package is not here to be asked."""
    hashes: tuple[tuple[str, str], ...]
    needed_by: str


def pins(path: Path) -> Iterator[Pin]:
    """The pins of a requirements file. Raises `ValueError` for a line that is none."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", path.read_text().strip()):
        first = entry.splitlines()[0]
        found = _PIN.fullmatch(first.strip())
        if found is None:
            raise ValueError(f"{path}: got {first!r}, expected NAME==VERSION")
        yield Pin(found[1], found[2], found[3], tuple(_HASH.findall(entry)))


def licence_of(name: str) -> str | None:
    """What an installed distribution says of its licence, as an SPDX expression; None for nothing."""
    about = importlib.metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = about.get_all("Classifier") or ()
    told = [each.rpartition("::")[2].strip() for each in classifiers if each.startswith(_CLASSIFIER)]
    said = (about.get("License") or "").strip()
    if said and "\n" not in said and len(said) < 60:
        told = [said]
    names = [_SPDX.get(each.lower(), each) for each in told]
    return " OR ".join(names) if names else None


def python_components() -> Iterator[Component]:
    """Each package of the requirements once, in the order of names."""
    seen: dict[str, Component] = {}
    for file in PINS:
        for pin in pins(ROOT / file):
            try:
                installed = importlib.metadata.version(pin.name) == pin.version and pin.here
            except importlib.metadata.PackageNotFoundError:
                installed = False
            purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', pin.name).lower()}@{pin.version}"
            seen.setdefault(
                purl,
                Component(
                    purl,
                    pin.name,
                    pin.version,
                    licence_of(pin.name) if installed else None,
                    tuple(("SHA-256", each) for each in pin.hashes),
                    file,
                ),
            )
    yield from (seen[purl] for purl in sorted(seen))


def npm_components() -> Iterator[Component]:
    """The dashboard's libraries."""
    vendor = ROOT / "gateway/web/static/vendor"
    for name, about in tomllib.loads((ROOT / ASSETS).read_text()).items():
        texts = [vendor / put for put in about["files"].values() if put.endswith("LICENSE")]
        text = texts[0].read_text() if texts and texts[0].exists() else ""
        licence = next((spdx for spdx, words in _NPM_LICENCES.items() if words.lower() in text.lower()), None)
        digest = base64.b64decode(about["integrity"].removeprefix("sha512-")).hex()
        quoted = name.replace("@", "%40")
        yield Component(
            f"pkg:npm/{quoted}@{about['version']}",
            name,
            about["version"],
            licence,
            (("SHA-512", digest),),
            ASSETS,
        )


def document() -> dict[str, Any]:
    """The bill of materials. The same sources give the same document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    components = [*python_components(), *npm_components()]
    listed = [_listed(each) for each in components]
    digest = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).digest()
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "purl": own,
            }
        },
        "components": listed,
        "dependencies": [{"ref": own, "dependsOn": [each.purl for each in components]}],
    }


def _listed(each: Component) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": each.purl,
        "name": each.name,
        "version": each.version,
        "purl": each.purl,
        "scope": "required",
        "properties": [{"name": "pinned-in", "value": each.needed_by}],
    }
    if each.licence is not None:
        simple = _ID.fullmatch(each.licence) is not None
        entry["licenses"] = [{"license": {"id": each.licence}} if simple else {"expression": each.licence}]
    # A wheel for each system has a hash of its own; CycloneDX has room for one of each kind here.
    if len(each.hashes) == 1:
        algorithm, content = each.hashes[0]
        entry["hashes"] = [{"alg": algorithm, "content": content}]
    else:
        entry["externalReferences"] = [
            {
                "type": "distribution",
                "url": each.purl,
                "hashes": [{"alg": algorithm, "content": content} for algorithm, content in each.hashes],
            }
        ]
    return entry


def main() -> None:
    """Write it to a file, or to standard output."""
    parser = argparse.ArgumentParser(description="Write a CycloneDX bill of materials.")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(document(), indent=2) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
