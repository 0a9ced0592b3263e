"""Shared fixtures: where the real data sets are, and quiet, small thread counts."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started with `&` by a script
    with contextlib.suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test: hypothesis may not look at the clock.
for name, examples in (("ci", 200), ("soak", 2000)):
    settings.register_profile(
        name, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Set UNET2015_DATA (CONTRIBUTING.md); without it a folder `shared/data` near the checkout serves.
DATA = Path(os.environ.get("UNET2015_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a soak, properties with a number of examples of their own get the soak's number too."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "soak":
        return
    for item in items:
        function = getattr(item, "obj", None)
        mine = getattr(function, "_hypothesis_internal_use_settings", None)
        if mine is not None and mine.max_examples < settings.default.max_examples:
            function._hypothesis_internal_use_settings = settings(
                mine, max_examples=settings.default.max_examples
            )


class DataFolder:
    """The real data sets; ``folder / name`` skips, saying so, where that one is absent."""

    def __truediv__(self, name: str) -> Path:
        if not (DATA / name).exists():
            pytest.skip(f"no real data {name}: set UNET2015_DATA to their folder (CONTRIBUTING.md)")
        return DATA / name


@pytest.fixture(scope="session")
def real_data() -> DataFolder:
    """Folder of the real data sets (see CONTRIBUTING.md)."""
    return DataFolder()
