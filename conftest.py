"""Test settings for the unit tests and for the kernels that nbval starts."""

import os
from pathlib import Path

# Two test processes share the cores; more threads than cores would only make them wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tiny sample: every cell of the book runs offline and in seconds.
os.environ["D2LMINI_DATA"] = str(Path(__file__).parent / "tests" / "data")


def pytest_configure(config):
    """The cells run in the environment that runs pytest, whatever kernel a notebook names."""
    if hasattr(config.option, "nbval_current_env"):
        config.option.nbval_current_env = True
