"""The precision chosen, and settings that are put back afterwards."""

import contextlib

import pytest
import torch
from torch import nn

from d2lmini import precision
from d2lmini.precision import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_bf16_on_cpus_that_multiply_it_faster(monkeypatch):
    seconds = {torch.bfloat16: [3.0, 2.0], torch.float32: [1.0, 1.5]}  # as a timer would find

    def repeat(product, **arguments):
        return seconds[product().dtype]

    monkeypatch.setattr(precision.timeit, "repeat", repeat)
    assert Precision("auto", CPU).name == "fp32"
    seconds[torch.bfloat16].append(0.5)
    assert Precision("auto", CPU).name == "bf16"
    assert Precision("tf32", CPU).name == "fp32"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_sixteen_bits_on_cuda(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert Precision("auto", CUDA).name == expected
    assert Precision("tf32", CUDA).name == "tf32"


def test_settings_of_the_gpu_are_put_back(monkeypatch):
    cudnn = torch.backends.cudnn
    before = (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32)
    with (
        contextlib.suppress(KeyError),
        Precision("tf32", CUDA).applied_to(nn.Identity()),
    ):
        assert torch.get_float32_matmul_precision() == "high"
        assert cudnn.enabled and cudnn.benchmark and cudnn.allow_tf32
        raise KeyError
    assert (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32) == before
    monkeypatch.setattr(cudnn, "deterministic", True)  # a reader's wish
    with Precision("fp32", CUDA).applied_to(nn.Identity()):
        assert cudnn.deterministic
        assert torch.get_float32_matmul_precision() == "highest"
        assert not cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32) == before
