"""The package as a whole: its names, what an import does and does not do, its dependencies."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import d2lmini

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "d2lmini").rglob("*.py")
    if file.stem != "__init__"
)


def test_all_is_sorted_complete_and_importable():
    assert d2lmini.__all__ == sorted(set(d2lmini.__all__))
    namespace = {}
    exec("from d2lmini import *", namespace)
    assert set(d2lmini.__all__) <= set(namespace)


@pytest.mark.parametrize("module_name", MODULES)
def test_modules_say_what_they_are_for(module_name):
    """Also in the list of their package; what is public in them, and its methods, too."""
    module, (package, _, name) = importlib.import_module(module_name), module_name.rpartition(".")
    assert getattr(sys.modules[package], name) is module, "a function of its name hides it"
    assert re.search(rf"^ *{name} +\S", sys.modules[package].__doc__, re.MULTILINE)
    publics = [module]
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module_name and not name.startswith("_"):
            publics.append(value)
            methods = vars(value) if inspect.isclass(value) and name in d2lmini.__all__ else {}
            publics += [m for n, m in methods.items() if inspect.isfunction(m) and n[0] != "_"]
    assert [public for public in publics if not inspect.getdoc(public)] == []


def test_the_core_is_small():
    files = [*(ROOT / "d2lmini").glob("*.py")]
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


def test_the_wheel_holds_every_module():
    from setuptools import find_packages

    include = re.search(r'packages\.find\]\ninclude = \["(.*?)"\]', PYPROJECT)[1]
    packages = find_packages(ROOT, include=[include])
    assert {name.rpartition(".")[0] for name in MODULES} == set(packages)


def test_dependencies_are_few_have_lower_bounds_only_and_are_all_that_is_imported():
    dependencies = re.search(r"^dependencies = \[(.*?)\]", PYPROJECT, re.MULTILINE)[1]
    names = re.findall(r'"([a-z]+)>=[0-9.]+"', dependencies)
    assert len(names) == dependencies.count(",") + 1 == 4
    for module_name in MODULES:
        source = (ROOT / module_name.replace(".", "/")).with_suffix(".py").read_text("utf-8")
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE))
        others = imported - sys.stdlib_module_names - {"d2lmini"}
        assert {name.lower() for name in others} <= set(names), module_name


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

import d2lmini as d2l

after = dict.copy(matplotlib.rcParams)
print("changed:", [k for k in before if after[k] is not before[k] and after[k] != before[k]])
print("imported:", {"pandas", "d2l", "requests", "sklearn", "seaborn"} & set(sys.modules))
print(torch.equal(state, torch.get_rng_state()), threads == torch.get_num_threads())

curves = d2l.Animator(xlabel="epoch", xlim=[1, 1], legend=["loss"])
for step in range(1, 11):
    curves.add(step / 5, (torch.tensor(1 / step),))
curves.redraw()
curves.save(sys.argv[1])
from matplotlib import pyplot
print("open figures:", pyplot.get_fignums())
"""


@pytest.mark.slow
def test_a_plain_script_without_a_display_gets_lines_and_nothing_is_changed(tmp_path):
    displays, picture = {"DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"}, tmp_path / "曲线 1.png"
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(picture)], capture_output=True, encoding="utf-8",
        env={name: value for name, value in os.environ.items() if name not in displays},
        cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "changed: []",
        "imported: set()",
        "True True",
        "epoch 1: loss 0.200",
        "epoch 2: loss 0.100",
        "open figures: []",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
