"""How long the property tests look for a counterexample (briefly, and for the same ones each time, unless asked), and
the directory of configs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Building a strategy's first value is slow on a slow machine, which is no fault of the test.
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "short", max_examples=30, derandomize=True, database=None, deadline=None, suppress_health_check=SLOW
)
# HYPOTHESIS_PROFILE=long HYPOTHESIS_EXAMPLES=20000: other examples each time.
settings.register_profile(
    "long",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "5000")),
    deadline=None,
    suppress_health_check=SLOW,
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """The directory the operator mounts."""
    directory = tmp_path / "mounted"
    directory.mkdir()
    return directory
