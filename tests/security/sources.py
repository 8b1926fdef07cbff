"""The sources of the gateway, read once."""

from __future__ import annotations

import ast
import gc
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def nodes(holding: str) -> tuple[tuple[str, ast.Call | ast.Compare], ...]:
    """(file, node) of each call and each comparison in the files that hold such a text somewhere. To understand
    all of them would take seconds."""
    wanted = re.compile(holding.encode())
    sources = [(path, path.read_bytes()) for path in sorted((ROOT / "gateway").rglob("*.py"))]
    collects = gc.isenabled()
    # Half a million objects are made, and none of them is garbage.
    gc.disable()
    try:
        return tuple(
            (str(path.relative_to(ROOT)), node)
            for path, source in sources
            if wanted.search(source)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call | ast.Compare)
        )
    finally:
        if collects:
            gc.enable()
