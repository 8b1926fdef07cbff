"""The dashboard's libraries are taken only as they were pinned."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from gateway.web.dashboard import LIBRARIES

CI = Path(__file__).parents[2] / ".ci"


@pytest.fixture(scope="module")
def assets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("assets", CI / "assets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packed(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def test_the_pins_name_every_library_and_no_registry() -> None:
    text = (CI / "assets.toml").read_text()
    pins = tomllib.loads(text)
    assert set(LIBRARIES) <= {name for package in pins.values() for name in package["files"].values()}
    assert all(package["integrity"].startswith("sha512-") for package in pins.values())
    assert "://" not in text


def test_a_changed_package_is_refused(assets: ModuleType, tmp_path: Path) -> None:
    archive = packed(tmp_path, {"package/a.js": b"1"})
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assets.ensure_intact(archive, f"sha512-{digest}")
    weak = base64.b64encode(hashlib.sha1(archive.read_bytes()).digest()).decode()
    for wrong in (f"sha512-{digest[:-4]}AA==", f"sha1-{weak}"):
        with pytest.raises(assets.UnavailableError):
            assets.ensure_intact(archive, wrong)


def test_only_the_files_that_are_named_are_taken(assets: ModuleType, tmp_path: Path) -> None:
    archive = packed(
        tmp_path, {"package/dist/a.js": b"1", "package/../../evil.js": b"2", "package/b.js": b"3"}
    )
    target = tmp_path / "target"
    target.mkdir()
    assets.unpack(archive, {"dist/a.js": "../renamed.js"}, target)
    assert [path.name for path in tmp_path.rglob("*.js")] == ["renamed.js"]
    assert (target / "renamed.js").read_bytes() == b"1"


def test_without_a_registry_it_says_so_and_leaves_what_is_there(
    assets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(npm: list[str], package: str, folder: Path) -> Path:
        raise assets.UnavailableError(f"npm could not fetch {package}")

    target = tmp_path / "vendor"
    target.mkdir()
    (target / "old.js").write_text("old")
    monkeypatch.setattr(assets, "TARGET", target)
    monkeypatch.setattr(assets, "find_npm", lambda: ["npm"])
    monkeypatch.setattr(assets, "fetch", unreachable)
    assert assets.main() == 1
    assert "make assets" in capsys.readouterr().err
    assert (target / "old.js").exists()
    assert not (target / assets.STAMP).exists()
