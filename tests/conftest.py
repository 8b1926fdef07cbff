"""What holds for every test."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings

# How long an example takes says more about the machine than about the code; bounds are tests of their own.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

MEMORY = Path("/dev/shm")
ROOM = 6 * 1024**3

# Most tests make databases of their own and wait for the disk; where there is room they are made in memory.
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(MEMORY).free > ROOM
):
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
