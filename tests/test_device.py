"""The choice of a device, its memory, and the table of what a chapter ran on."""

import datetime
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch

from d2lmini import device, environment, try_gpu

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Make torch see so many CUDA GPUs, and an Apple GPU or none."""

    def pretend(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    pretend()
    monkeypatch.setattr(device, "cuda_missing", lambda: "")
    return pretend


def test_without_a_gpu_it_is_the_cpu(machine):
    assert try_gpu() == try_gpu(0) == try_gpu(99) == CPU


def test_a_cuda_gpu_is_taken_by_its_number(machine):
    machine(cuda=2)
    assert try_gpu() == torch.device("cuda:0")
    assert try_gpu(i=1) == torch.device("cuda:1")
    assert try_gpu(2) == try_gpu(99) == CPU


def test_apples_gpu_goes_before_the_cpu_and_after_cuda(machine):
    machine(mps=True)
    assert try_gpu() == torch.device("mps")
    assert try_gpu(1) == CPU  # there is only one
    machine(cuda=1, mps=True)
    assert try_gpu() == torch.device("cuda:0")


@pytest.mark.parametrize("i", [-1, 0.0, 1.5, True, False, "0", "cuda:0", None, CPU])
def test_what_is_no_number_of_a_gpu_is_an_error(i):
    with pytest.raises(ValueError, match="i must be the number of a GPU, an int from 0 on, got"):
        try_gpu(i)


def test_environment_has_the_rows_of_the_contract(machine):
    table = environment()
    assert list(table) == ["device", "torch", "CUDA", "OS", "Python", "date", "d2lmini"]
    assert all(isinstance(text, str) and text for text in table.values())
    assert table["device"].startswith("cpu (") and f"{torch.get_num_threads()} thread" in repr(
        table
    )
    assert table["torch"] == torch.__version__ and table["CUDA"] == "not used"
    assert table["date"] == datetime.date.today().isoformat()


def test_environment_shows_itself_as_a_table():
    table = environment()
    lines = repr(table).splitlines()
    assert len(lines) == len(table)
    assert len({line.index(text) for line, text in zip(lines, table.values(), strict=True)}) == 1
    html = table._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == len(table)
    assert '<th scope="row">torch</th>' in html and f"<td>{torch.__version__}</td>" in html


def test_environment_is_safe_in_a_page(monkeypatch):
    monkeypatch.setattr(device, "device_name", lambda _: "<script>alert('x & y')</script>")
    html = environment()._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "x &amp; y" in html


@pytest.mark.parametrize(
    ("cuda", "hip", "row"), [("12.8", None, "12.8"), (None, "6.3.1", "ROCm 6.3.1")]
)
def test_environment_names_the_gpu_and_its_software(machine, monkeypatch, cuda, hip, row):
    machine(cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Some {device}")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    table = environment()
    assert table["device"] == "cuda:0 (Some cuda:0)" and table["CUDA"] == row
    assert row in table._repr_html_()


def test_environment_of_an_apple_gpu(machine):
    machine(mps=True)
    assert environment()["device"] == "mps (Apple GPU)"


def test_environment_without_an_installed_package(monkeypatch):
    def missing(name):
        raise device.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(device.metadata, "version", missing)
    assert environment()["d2lmini"] == "not installed"


# --- a card that torch cannot use ---------------------------------------------------------------


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Make it this system with this build of torch, with a card or without."""

    def pretend(system, cuda=None, hip=None, card=True):
        cards = tmp_path / "gpus"
        if card and system == "Linux":
            cards.mkdir(exist_ok=True)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(device, "NVIDIA_CARDS", cards)
        monkeypatch.setattr(platform, "system", lambda: system)
        # a container on Linux may have the program without a card
        found = "nvidia-smi" if card or system == "Linux" else None
        monkeypatch.setattr(shutil, "which", lambda name: found)

    return pretend


@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_a_card_that_torch_does_not_know_is_told_of(build, system):
    build(system)
    told = device.cuda_missing()
    assert "NVIDIA GPU" in told and "pytorch.org/get-started" in told
    if torch.cuda.device_count() == 0 and not torch.backends.mps.is_available():
        assert environment()["CUDA"] == told


@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_nothing_is_said_without_a_card_or_where_torch_knows_gpus(build, system):
    build(system, card=False)
    assert device.cuda_missing() == ""
    build(system, cuda="13.0")
    assert device.cuda_missing() == ""
    build(system, hip="6.3.1")
    assert device.cuda_missing() == ""


# --- memory while training ----------------------------------------------------------------------

PROGRAM = """
import resource, torch
from d2lmini.device import memory_kept, trim_heap

def faults():  # of filling four tensors of 64 MiB one after another
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():  # pages
    return int(open("/proc/self/statm").read().split()[1])

faults()
start = held()
device = torch.device("DEVICE")
with memory_kept(device):
    faults()
    inside = held() - start, faults()
    trim_heap(device)
    released = held() - start
    faults()
after = held() - start
torch.ones(2**27)  # larger than any gap that is left, so that it shows what is done with new memory
print(*inside, released, after, held() - start)
"""
PAGES_OF_A_TENSOR = 2**26 // os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else None


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system has no glibc to tell")
@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_cpu_keeps_its_memory_meanwhile_and_gives_it_back(name):
    command = [sys.executable, "-c", PROGRAM.replace("DEVICE", name)]
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}
    for variable in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        environment.pop(variable, None)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    numbers = map(int, result.stdout.split())
    held_inside, faults_inside, held_released, held_after, held_later = numbers
    kept = name == "cpu"
    assert (held_inside > PAGES_OF_A_TENSOR / 2) == kept
    assert (faults_inside < PAGES_OF_A_TENSOR / 2) == kept
    assert held_released < PAGES_OF_A_TENSOR / 2
    assert held_after < PAGES_OF_A_TENSOR / 2
    assert held_later < PAGES_OF_A_TENSOR / 2, "memory is kept for good"
