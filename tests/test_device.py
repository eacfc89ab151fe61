"""The choice of a device, its arithmetic and memory, and the table of what a chapter ran on."""

import contextlib
import datetime
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from d2lmini import device, environment, try_gpu
from d2lmini.device import Precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


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


@pytest.mark.parametrize(
    ("cuda", "mps", "i", "expected"),
    [
        (2, False, 1, "cuda:1"),
        (2, False, 2, "cpu"),
        (0, True, 1, "cpu"),  # there is only one
        (1, True, 0, "cuda:0"),
    ],
)
def test_a_gpu_is_taken_by_its_number(machine, cuda, mps, i, expected):
    machine(cuda, mps)
    assert try_gpu(i) == torch.device(expected)


# --- arithmetic ---------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch):
    """Make CUDA a card of this capability, with bf16 or without."""

    def pretend(capability=(9, 0), has_bf16=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)

    pretend()
    return pretend


def test_auto_takes_bf16_on_cpus_that_multiply_it_faster(monkeypatch):
    seconds = {torch.bfloat16: [3.0, 2.0], torch.float32: [1.0, 1.5]}  # as a timer would find

    def repeat(product, **arguments):
        return seconds[product().dtype]

    monkeypatch.setattr(device.timeit, "repeat", repeat)
    assert Precision("auto", CPU).name == "fp32, channels last"
    seconds[torch.bfloat16].append(0.5)
    assert Precision("auto", CPU).name == "bf16"


@pytest.mark.parametrize(
    ("name", "device", "capability", "has_bf16", "expected", "is_channels_last"),
    [
        ("tf32", CUDA, (9, 0), True, "tf32", True),
        ("tf32", CUDA, (8, 0), True, "tf32", True),
        ("tf32", CUDA, (7, 5), False, "fp32", False),  # Colab's T4: no tensor cores for it
        ("fp32", CUDA, (9, 0), True, "fp32", False),
        ("fp16", CUDA, (7, 5), False, "fp16", True),
        ("auto", CUDA, (9, 0), True, "bf16", True),
        ("auto", CUDA, (7, 5), False, "fp16", True),
        ("tf32", CPU, None, None, "fp32, channels last", True),
        ("fp32", CPU, None, None, "fp32", False),
        ("tf32", MPS, None, None, "fp32", False),
    ],
)
def test_names_and_layouts(name, device, capability, has_bf16, expected, is_channels_last, card):
    card(capability, has_bf16)
    precision = Precision(name, device)
    assert precision.name == expected
    assert (precision.layout == torch.channels_last) == is_channels_last


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_tf32", True),
        ("allow_tf32", False),
        ("fp32_precision", "tf32"),  # of torch 2.9 and later
        ("fp32_precision", "ieee"),
    ],
)
def test_settings_of_the_gpu_are_put_back(name, value, card):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    owners = matmul, cudnn if name == "allow_tf32" else getattr(cudnn, "conv", None)
    if not hasattr(matmul, name):
        pytest.skip("torch is older than 2.9")
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value)
        for precision in ("tf32", "fp32"):
            with (
                contextlib.suppress(KeyError),
                Precision(precision, CUDA).applied_to(nn.Identity()),
            ):
                assert cudnn.benchmark
                assert matmul.allow_tf32 == cudnn.allow_tf32 == (precision == "tf32")
                raise KeyError
            assert not cudnn.benchmark and [getattr(owner, name) for owner in owners] == [value] * 2
    finally:
        for owner, was in zip(owners, before, strict=True):
            setattr(owner, name, was)


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "cuda", "hip", "device_row", "cuda_row"),
    [
        ({}, None, None, "cpu (", "not used"),
        ({"cuda": 1}, "12.8", None, "cuda:0 (<cuda:0 & more>)", "12.8"),
        ({"cuda": 1}, None, "6.3.1", "cuda:0 (", "ROCm 6.3.1"),
        ({"mps": True}, None, None, "mps (Apple GPU)", "not used"),
    ],
)
def test_environment_is_a_table(machine, monkeypatch, gpus, cuda, hip, device_row, cuda_row):
    machine(**gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"<{device} & more>")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    table = environment()
    assert list(table) == ["device", "torch", "CUDA", "OS", "Python", "date", "d2lmini"]
    assert table["device"].startswith(device_row) and table["CUDA"] == cuda_row
    assert table["torch"] == torch.__version__
    assert table["date"] == datetime.date.today().isoformat()
    page = table._repr_html_()
    assert page.startswith("<table>") and page.count("<tr>") == len(table)
    assert "<cuda" not in page and f"<td>{torch.__version__}</td>" in page


@pytest.mark.parametrize(
    ("system", "found", "cuda", "is_told"),
    [
        ("Linux", "card", None, True),
        ("Windows", "nvidia-smi", None, True),
        ("Linux", "nvidia-smi", None, False),  # a container may have the program without a card
        ("Linux", "card", "13.0", False),
    ],
)
def test_a_card_that_torch_does_not_know_is_told_of(
    monkeypatch, tmp_path, system, found, cuda, is_told
):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device, "NVIDIA_CARDS", tmp_path / ("" if found == "card" else "none"))
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == found else None)
    monkeypatch.setattr(device, "try_gpu", lambda: CPU)
    assert ("pytorch.org/get-started" in device.cuda_missing()) == is_told
    assert environment()["CUDA"] == (device.cuda_missing() or "not used")


# --- memory while training ----------------------------------------------------------------------

PROGRAM = """
import resource, torch
from d2lmini.device import memory_kept, trim_heap

def held():  # MiB
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

torch.ones(2**24)  # of 64 MiB, made and freed
start, device = held(), torch.device("cpu")
with memory_kept(device):
    torch.ones(2**24)
    kept = held()
    trim_heap(device)
    trimmed = held()
    torch.ones(2**24)
print(kept - start, trimmed - start, held() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system has no glibc to tell")
def test_a_cpu_keeps_its_memory_meanwhile_and_gives_it_back():
    program = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(program, capture_output=True, text=True, check=True)
    kept, trimmed, afterwards = map(int, result.stdout.split())
    assert kept > 32 > max(trimmed, afterwards)
