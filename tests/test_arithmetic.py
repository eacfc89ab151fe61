"""How a training run computes: the precision chosen, and settings that are put back afterwards."""

import contextlib
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from d2lmini import arithmetic
from d2lmini.arithmetic import Arithmetic

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_bf16_on_cpus_that_multiply_it_faster(monkeypatch):
    seconds = {torch.bfloat16: [3.0, 2.0], torch.float32: [1.0, 1.5]}  # as a timer would find

    def repeat(product, **arguments):
        return seconds[product().dtype]

    monkeypatch.setattr(arithmetic.timeit, "repeat", repeat)
    assert Arithmetic("auto", CPU).precision == "fp32"
    seconds[torch.bfloat16].append(0.5)
    assert Arithmetic("auto", CPU).precision == "bf16"
    assert Arithmetic("tf32", CPU).precision == "fp32"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_sixteen_bits_on_cuda(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert Arithmetic("auto", CUDA).precision == expected
    assert Arithmetic("tf32", CUDA).precision == "tf32"


def test_settings_of_the_gpu_are_put_back(monkeypatch):
    cudnn = torch.backends.cudnn
    before = (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32)
    with (
        contextlib.suppress(KeyError),
        Arithmetic("tf32", CUDA).applied_to(nn.Identity()),
    ):
        assert torch.get_float32_matmul_precision() == "high"
        assert cudnn.enabled and cudnn.benchmark and cudnn.allow_tf32
        raise KeyError
    assert (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32) == before
    monkeypatch.setattr(cudnn, "deterministic", True)  # a reader's wish
    with Arithmetic("fp32", CUDA).applied_to(nn.Identity()):
        assert cudnn.deterministic
        assert torch.get_float32_matmul_precision() == "highest"
        assert not cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32) == before


PROGRAM = """
import resource, torch
from d2lmini.arithmetic import Arithmetic

def faults():  # of filling four tensors of 64 MiB one after another
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():  # pages
    return int(open("/proc/self/statm").read().split()[1])

faults()
start = held()
arithmetic = Arithmetic("tf32", torch.device("DEVICE"))
with arithmetic.applied_to(torch.nn.Identity()):
    faults()
    inside = held() - start, faults()
    arithmetic.release_memory()
    released = held() - start
    faults()
after = held() - start
torch.ones(2**27)  # larger than any gap that is left, so that it shows what is done with new memory
print(*inside, released, after, held() - start)
"""
PAGES_OF_A_TENSOR = 2**26 // os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else None


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
