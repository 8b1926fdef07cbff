"""What is shipped is known: pinned, hashed, under a licence that the project may be shipped with, and listed."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "LGPL-3.0-only", "MIT", "MIT-0", "MPL-2.0",
     "OFL-1.1", "PSF-2.0", "Zlib"}
)  # fmt: skip
"""Those that let a program be shipped with the library unchanged, whatever its own licence is."""


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["runtime", "image", "dev"])
def test_every_requirement_is_pinned_with_a_hash_and_names_no_registry(sbom: ModuleType, name: str) -> None:
    path = ROOT / "requirements" / f"{name}.txt"
    found = list(sbom.pins(path))
    assert len(found) > 40
    assert [pin.name for pin in found if not pin.hashes] == []
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|git\+", path.read_text())


def test_every_library_has_a_licence_that_allows_shipping(sbom: ModuleType) -> None:
    unknown, refused = [], []
    for each in [*sbom.python_components(), *sbom.npm_components()]:
        if each.licence is None:
            unknown.append(each.purl)
            continue
        # Each part of `A AND B` binds, one of `A OR B` is enough.
        for part in each.licence.replace("(", "").replace(")", "").split(" AND "):
            if not ALLOWED & set(part.split(" OR ")):
                refused.append((each.purl, each.licence))
    assert refused == []
    elsewhere = {
        f"pkg:pypi/{re.sub(r'[-_.]+', '-', pin.name).lower()}@{pin.version}"
        for file in sbom.PINS
        for pin in sbom.pins(ROOT / file)
        if not pin.here
    }
    # Nobody can be asked about what is pinned for another system.
    assert set(unknown) - elsewhere == set()


def test_the_bill_of_materials_is_complete_and_the_same_each_time(
    sbom: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "below" / "sbom.json"
    monkeypatch.setattr(sys, "argv", ["sbom.py", "--output", str(path)])
    sbom.main()
    written: dict[str, Any] = json.loads(path.read_text())
    assert written == sbom.document()
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", written["serialNumber"])
    purls = [each["purl"] for each in written["components"]]
    assert len(purls) == len(set(purls)) > 60
    for name in (
        "pypi/uvicorn",
        "pypi/cryptography",
        "pypi/psycopg",
        "npm/preact",
        "npm/uplot",
        "npm/%40fontsource-variable/inter",
    ):
        assert any(purl.startswith(f"pkg:{name}@") for purl in purls), name
    for each in written["components"]:
        hashes = each.get("hashes") or each["externalReferences"][0]["hashes"]
        assert all(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}", found["content"]) for found in hashes)
    assert written["dependencies"][0]["dependsOn"] == purls


def test_a_requirement_without_a_version_is_told(sbom: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("uvicorn>=1\n")
    with pytest.raises(ValueError, match="expected NAME==VERSION"):
        list(sbom.pins(tmp_path / "r.txt"))
