"""Test settings for the unit tests and for the kernels that nbval starts."""

import contextlib
import importlib.util
import os
from pathlib import Path

import pytest

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


def pytest_collection_modifyitems(items):
    """Note of each cell whether its outputs are compared; processes hand that to each other."""
    for item in items:
        if hasattr(item, "cell"):  # nbval's
            compared = item.options["check"] and bool(item.cell.outputs)
            item.user_properties.append(("compared", compared))


def pytest_terminal_summary(terminalreporter):
    """Say how many cells of the notebooks are compared; the others only run."""
    passed = [dict(report.user_properties) for report in terminalreporter.stats.get("passed", ())]
    cells = [properties["compared"] for properties in passed if "compared" in properties]
    if cells:
        terminalreporter.write_line(
            f"notebooks: {len(cells)} cells ran; the outputs of {sum(cells)} are the recorded ones"
        )


def tried_again(start, times=3):
    """`start`, up to three times: it dies where another process has taken a port it found free."""

    def start_kernel(*args, **options):
        for _ in range(times - 1):
            with contextlib.suppress(RuntimeError):
                return start(*args, **options)
        return start(*args, **options)

    return start_kernel


def give_up(reason):
    """Skip a test with the reason; fail it under CI=true, where everything has to be there."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="module")
def browser():
    """The Chromium or Chrome that is installed, driven by Playwright."""
    if not all(map(importlib.util.find_spec, ("playwright", "axe_playwright_python"))):
        give_up("no playwright or axe: pip install -r requirements-dev.txt")
    from playwright.sync_api import sync_playwright

    from tools import pdf

    chromium = pdf.browser()
    if not chromium:
        give_up("no Chromium or Chrome: apt-get install chromium fonts-noto-cjk")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield instance
        instance.close()
