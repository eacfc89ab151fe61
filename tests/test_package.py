"""The package as a whole: its names, what an import does and does not do, its dependencies."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import d2lmini

ROOT = Path(__file__).parent.parent


def test_the_core_is_small():
    files = (ROOT / "d2lmini").glob("*.py")
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 1500


@pytest.mark.parametrize(
    "name",
    [
        *("Accumulator", "Animator", "Timer", "accuracy", "evaluate_accuracy_gpu"),
        *("get_fashion_mnist_labels", "load_data_fashion_mnist", "train_ch6", "try_gpu"),
    ],
)
def test_names_of_the_reference_take_its_arguments(name):
    theirs, ours = (list(inspect.signature(getattr(owner, name)).parameters.values())
                    for owner in (pytest.importorskip("d2l.torch"), d2lmini))  # fmt: skip
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    for parameter in ours[len(theirs) :]:
        assert parameter.kind == parameter.KEYWORD_ONLY


def test_dependencies_have_lower_bounds_only_and_are_all_that_is_imported():
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    dependencies = re.search(r"^dependencies = \[(.*?)\]", pyproject, re.MULTILINE)[1]
    names = re.findall(r'"([a-z]+)>=[0-9.]+"', dependencies)
    assert len(names) == dependencies.count(",") + 1
    for file in (ROOT / "d2lmini").rglob("*.py"):
        source = file.read_text("utf-8")
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE))
        others = imported - sys.stdlib_module_names - {"d2lmini"}
        assert {name.lower() for name in others} <= set(names), file


SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
# What libraries think of each other's names, and a folder that old releases of torch leave open.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="(?!d2lmini|__main__)")
warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning, module="tempfile")
import matplotlib
before = dict.copy(matplotlib.rcParams)
import torch
state, threads = torch.get_rng_state(), torch.get_num_threads()

import d2lmini

after = dict.copy(matplotlib.rcParams)
assert all(after[k] is before[k] or after[k] == before[k] for k in before)
assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()
assert not {"pandas", "d2l", "requests", "sklearn", "seaborn"} & set(sys.modules)

"""


@pytest.mark.slow
def test_an_import_changes_nothing_and_warns_of_nothing():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
