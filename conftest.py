"""Test settings for the unit tests and for the kernels that nbval starts."""

import contextlib
import os
from pathlib import Path

# Two test processes share the cores; more threads than cores would only make them wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tiny sample: every cell of the book runs offline and in seconds.
os.environ["D2LMINI_DATA"] = str(Path(__file__).parent / "tests" / "data")


def pytest_configure(config):
    """The cells run in the environment that runs pytest, whatever kernel a notebook names."""
    if hasattr(config.option, "nbval_current_env"):
        import nbval.kernel

        config.option.nbval_current_env = True
        nbval.kernel.start_new_kernel = tried_again(nbval.kernel.start_new_kernel)


def tried_again(start, times=3):
    """`start`, up to three times: it dies where another process has taken a port it found free."""

    def start_kernel(*args, **options):
        for _ in range(times - 1):
            with contextlib.suppress(RuntimeError):
                return start(*args, **options)
        return start(*args, **options)

    return start_kernel
