"""The choice of a device, its arithmetic and memory, and the table of what a chapter ran on."""

import contextlib
import datetime
import os
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
        *((0, False, i, "cpu") for i in (0, 1, 99)),
        *((2, False, i, f"cuda:{i}") for i in (0, 1)),
        *((2, False, i, "cpu") for i in (2, 99)),
        (0, True, 0, "mps"),
        (0, True, 1, "cpu"),  # there is only one
        (1, True, 0, "cuda:0"),
    ],
)
def test_a_gpu_is_taken_by_its_number(machine, cuda, mps, i, expected):
    machine(cuda, mps)
    assert try_gpu(i) == torch.device(expected)
    assert i or try_gpu() == torch.device(expected)


@pytest.mark.parametrize("i", [-1, 0.0, True, "0", "cuda:0", None, CPU])
def test_what_is_no_number_of_a_gpu_is_an_error(i):
    with pytest.raises(ValueError, match="i must be the number of a GPU"):
        try_gpu(i)


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


def settings():
    """All that says how CUDA multiplies; torch refuses to tell what was set in two ways."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = [cudnn.benchmark]
    for owner, name in ((matmul, "allow_tf32"), (cudnn, "allow_tf32"), (matmul, "fp32_precision"),
                        (getattr(cudnn, "conv", None), "fp32_precision")):  # fmt: skip
        try:
            found.append(getattr(owner, name, None))
        except RuntimeError:
            found.append("refused")
    return found


def test_settings_of_the_gpu_are_put_back(card):
    cudnn, before = torch.backends.cudnn, settings()
    with contextlib.suppress(KeyError), Precision("tf32", CUDA).applied_to(nn.Identity()):
        assert torch.get_float32_matmul_precision() == "high"
        assert cudnn.enabled and cudnn.benchmark and cudnn.allow_tf32
        raise KeyError
    assert settings() == before
    with Precision("fp32", CUDA).applied_to(nn.Identity()):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not cudnn.allow_tf32
    assert settings() == before


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="names of torch 2.9 and later"
)
@pytest.mark.parametrize("value", ["tf32", "ieee"])
def test_settings_made_by_the_newer_names_are_put_back(value, card, monkeypatch):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision = conv.fp32_precision = value
        for name in ("tf32", "fp32"):
            with Precision(name, CUDA).applied_to(nn.Identity()):
                assert matmul.fp32_precision == ("tf32" if name == "tf32" else "ieee")
            assert matmul.fp32_precision == conv.fp32_precision == value
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


# --- the table ----------------------------------------------------------------------------------


def test_environment_is_a_table_of_text(machine):
    table = environment()
    assert list(table) == ["device", "torch", "CUDA", "OS", "Python", "date", "d2lmini"]
    assert all(isinstance(text, str) and text for text in table.values())
    assert table["device"].startswith("cpu (")
    assert f"{torch.get_num_threads()} thread" in table["device"]
    assert table["torch"] == torch.__version__ and table["CUDA"] == "not used"
    assert table["date"] == datetime.date.today().isoformat()
    lines = repr(table).splitlines()
    assert len({line.index(text) for line, text in zip(lines, table.values(), strict=True)}) == 1
    page = table._repr_html_()
    assert page.startswith("<table>") and page.count("<tr>") == len(table)
    assert '<th scope="row">torch</th>' in page and f"<td>{torch.__version__}</td>" in page


@pytest.mark.parametrize(
    ("cuda", "hip", "row"), [("12.8", None, "12.8"), (None, "6.3.1", "ROCm 6.3.1")]
)
def test_environment_names_the_gpu_and_its_software(machine, monkeypatch, cuda, hip, row):
    machine(cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"<{device} & more>")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    table = environment()
    assert table["device"] == "cuda:0 (<cuda:0 & more>)" and table["CUDA"] == row
    assert "&lt;cuda:0 &amp; more&gt;" in table._repr_html_()


def test_environment_of_an_apple_gpu_and_without_an_installed_package(machine, monkeypatch):
    def missing(name):
        raise device.metadata.PackageNotFoundError(name)

    machine(mps=True)
    monkeypatch.setattr(device.metadata, "version", missing)
    table = environment()
    assert table["device"] == "mps (Apple GPU)" and table["d2lmini"] == "not installed"


@pytest.mark.parametrize("system", ["Linux", "Windows"])
@pytest.mark.parametrize(
    ("cuda", "hip", "has_card", "is_told"),
    [
        (None, None, True, True),  # a card that torch cannot use
        (None, None, False, False),
        ("13.0", None, True, False),
        (None, "6.3.1", True, False),
    ],
)
def test_a_card_that_torch_does_not_know_is_told_of(
    monkeypatch, tmp_path, system, cuda, hip, has_card, is_told
):
    cards = tmp_path if has_card and system == "Linux" else tmp_path / "none"
    # A container on Linux may have the program without a card.
    found = "nvidia-smi" if has_card or system == "Linux" else None
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(device, "NVIDIA_CARDS", cards)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(shutil, "which", lambda name: found)
    monkeypatch.setattr(device, "try_gpu", lambda: CPU)
    assert ("pytorch.org/get-started" in device.cuda_missing()) == is_told
    assert environment()["CUDA"] == (device.cuda_missing() or "not used")


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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system has no glibc to tell")
@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_cpu_keeps_its_memory_meanwhile_and_gives_it_back(name):
    settings = {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"}
    variables = {name: value for name, value in os.environ.items() if name not in settings}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("DEVICE", name)],
        env={**variables, "THP_MEM_ALLOC_ENABLE": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    half_a_tensor = 2**25 // os.sysconf("SC_PAGESIZE")
    held, faults, *held_later = (int(n) > half_a_tensor for n in result.stdout.split())
    assert held == (name == "cpu") and faults == (name == "cuda")
    assert held_later == [False] * 3, "once trimmed, afterwards, and for good"
