"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says more about the machine than about the code; bounds are tests of their own.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
