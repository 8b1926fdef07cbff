"""What a process does now and then about its memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import lru_cache


def tidy() -> None:
    """Look for garbage everywhere, and give back to the system what the allocator has free.

    It costs in proportion to everything that is alive, so it belongs where nobody waits.
    """
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc, which keeps what is freed below something that is in use; None elsewhere."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
