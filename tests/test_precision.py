"""The arithmetic chosen for a device, and settings that are put back afterwards."""

import contextlib

import pytest
import torch
from torch import nn

from d2lmini import device
from d2lmini.device import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CHANNELS_LAST = torch.channels_last


@pytest.fixture
def card(monkeypatch):
    """Make CUDA a card of this capability, with bf16 or without."""

    def pretend(capability, has_bf16=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)

    pretend((9, 0))
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
    ("name", "capability", "expected", "is_channels_last"),
    [
        ("tf32", (9, 0), "tf32", True),
        ("tf32", (8, 0), "tf32", True),
        ("tf32", (7, 5), "fp32", False),  # Colab's T4: no tensor cores for it
        ("fp32", (9, 0), "fp32", False),
        ("fp16", (7, 5), "fp16", True),
        ("auto", (9, 0), "bf16", True),
    ],
)
def test_names_and_layouts_on_cuda(name, capability, expected, is_channels_last, card):
    card(capability)
    precision = Precision(name, CUDA)
    assert precision.name == expected
    assert (precision.layout == CHANNELS_LAST) == is_channels_last
    card(capability, has_bf16=False)
    if name == "auto":
        assert Precision("auto", CUDA).name == "fp16"


def test_names_and_layouts_elsewhere():
    assert Precision("tf32", CPU).name == "fp32, channels last"
    assert Precision("tf32", CPU).layout == CHANNELS_LAST
    assert Precision("fp32", CPU).name == Precision("tf32", torch.device("mps")).name == "fp32"


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
