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
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "d2lmini").rglob("*.py")
    if file.stem != "__init__"
)
HELPER = [name for name in MODULES if name.count(".") == 1]

# Public names that the design promises, with the arguments that callers rely on.
SIGNATURES = {
    "load_data_fashion_mnist": ["batch_size", "resize", "generator", "root"],
    "get_fashion_mnist_labels": ["labels"],
    "try_gpu": ["i"],
    "evaluate_accuracy_gpu": ["net", "data_iter", "device"],
    "accuracy": ["y_hat", "y"],
    "environment": [],
    "show": ["fig", "alt", "caption", "save"],
    "Animator": [
        *("xlabel", "ylabel", "legend", "xlim", "ylim", "xscale", "yscale", "fmts"),
        *("nrows", "ncols", "figsize", "caption"),
    ],
}


def test_all_is_sorted_complete_and_importable():
    names = d2lmini.__all__
    assert names == sorted(set(names))
    namespace = {}
    exec("from d2lmini import *", namespace)
    assert set(names) <= set(namespace)


@pytest.mark.parametrize("name", d2lmini.__all__)
def test_public_names_are_documented(name):
    public = getattr(d2lmini, name)
    assert inspect.getdoc(public) and public.__module__.startswith("d2lmini.")
    assert len(inspect.getdoc(public)) > 30
    if inspect.isclass(public):
        for method_name, method in vars(public).items():
            if not method_name.startswith("_") and inspect.isfunction(method):
                assert inspect.getdoc(method), f"{name}.{method_name}"


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_names_take_the_arguments_of_the_contract(name):
    assert list(inspect.signature(getattr(d2lmini, name)).parameters) == SIGNATURES[name]


@pytest.mark.parametrize("module_name", MODULES)
def test_each_module_has_one_job_and_says_which(module_name):
    module = importlib.import_module(module_name)
    assert module.__doc__
    package, _, name = module_name.rpartition(".")
    assert re.search(rf"^ *{name} +\S", sys.modules[package].__doc__, re.MULTILINE)
    for name, public in vars(module).items():
        own = getattr(public, "__module__", None) == module_name and not name.startswith("_")
        assert not own or inspect.getdoc(public), name
    assert len(inspect.getsource(module).splitlines()) <= 350


def test_the_core_is_small():
    files = [*(ROOT / "d2lmini").glob("*.py")]
    assert len(files) <= 10
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 1500


@pytest.mark.parametrize("module_name", MODULES)
def test_no_module_is_hidden_by_a_function_of_its_name(module_name):
    package, _, name = module_name.rpartition(".")
    module = importlib.import_module(module_name)
    assert getattr(sys.modules[package], name) is module


def imported_by(module_name):
    """Modules of the package that a module imports."""
    found = set()
    source = (ROOT / module_name.replace(".", "/")).with_suffix(".py").read_text("utf-8")
    for package, names in re.findall(r"^from (d2lmini\S*) import (.+)$", source, re.MULTILINE):
        modules = {f"{package}.{name}" for name in re.findall(r"\w+", names)} & set(MODULES)
        found |= modules or {package}
    return found


def test_the_helper_is_read_in_order_and_the_figures_apart():
    """Each file builds on those that the package's docstring names before it."""
    order = re.findall(r"^(\w+) +\S", d2lmini.__doc__.split("\n\n")[2], re.MULTILINE)
    assert sorted(f"d2lmini.{name}" for name in order) == HELPER
    for position, name in enumerate(order):
        before = {f"d2lmini.{other}" for other in order[:position]}
        shown = {"d2lmini.figures.inline_svg"} if name == "animator" else set()
        assert imported_by(f"d2lmini.{name}") <= before | shown
    for name in set(MODULES) - set(HELPER):
        for module in imported_by(name) & set(HELPER):
            assert module.removeprefix("d2lmini.") in ("network", "metrics"), name


def test_the_wheel_holds_every_module():
    from setuptools import find_packages

    text = (ROOT / "pyproject.toml").read_text("utf-8")
    include = re.search(r'packages\.find\]\ninclude = \["(.*?)"\]', text)[1]
    packages = find_packages(ROOT, include=[include])
    assert {name.rpartition(".")[0] for name in MODULES} == set(packages)


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
    displays = {"DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "曲线 1.png")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in displays},
        timeout=120,
    )
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert run.stdout.splitlines() == [
        "changed: []",
        "imported: set()",
        "True True",
        "epoch 1: loss 0.200",
        "epoch 2: loss 0.100",
        "open figures: []",
    ]
    assert (tmp_path / "曲线 1.png").read_bytes().startswith(b"\x89PNG")


def test_dependencies_are_few_and_have_lower_bounds_only():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    dependencies = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)\]", text, re.M)[1])
    names = {re.match(r"[a-z0-9-]+", d)[0] for d in dependencies}
    assert names == {"torch", "torchvision", "matplotlib", "ipython"}
    for dependency in dependencies:
        assert re.fullmatch(r"[a-z]+>=[0-9.]+", dependency), dependency


def test_sources_import_nothing_else():
    allowed = {"torch", "torchvision", "matplotlib", "IPython", "d2lmini", *sys.stdlib_module_names}
    for module_name in MODULES:
        source = (ROOT / module_name.replace(".", "/")).with_suffix(".py").read_text("utf-8")
        imported = re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)
        assert set(imported) <= allowed, module_name
