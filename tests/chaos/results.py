"""Where the figures of the last runs are kept: one record for each scenario."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "figures.json"


def kept() -> dict[str, Any]:
    """Every record by the name of its scenario (`file.py::test`)."""
    found: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {}
    return found


def keep(name: str, seed: int, seconds: float, figures: dict[str, Any]) -> None:
    """Put a scenario's record in the place of its last one."""
    records = kept()
    load = round(os.getloadavg()[0], 1)
    records[name] = {"seed": seed, "seconds": round(seconds), "load": load, "figures": figures}
    PATH.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n")
