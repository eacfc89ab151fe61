"""The device: its choice, the number formats it multiplies fastest, its memory, its software."""

import contextlib
import ctypes
import datetime
import html
import itertools
import operator
import platform
import shutil
import timeit
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["Precision", "cuda_missing", "device_name", "environment", "lay_out", "memory_kept",
           "trim_heap", "try_gpu", "whole_number"]  # fmt: skip

AUTOCAST_DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
IMAGES_AT_ONCE = (
    64  # through a network on a CPU: a larger batch in parts is as fast, in less memory
)

NVIDIA_CARDS = Path("/proc/driver/nvidia/gpus")  # Linux: a folder for each card
GET_CUDA = "https://pytorch.org/get-started/locally/ names the build that has it"
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # as <malloc.h> numbers what mallopt sets


def whole_number(name, value, low=1, wanted="a positive int"):
    """`value` as an int, whatever whole number it is; ValueError says what argument `name` is."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    if number is None or is_bool or number < low:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def try_gpu(i=0):
    """Return the `torch.device` cuda:i if there is one; else, for i = 0, Apple's mps; else the CPU.

    Raises:
        ValueError: `i` is not an int or is negative.
    """
    i = whole_number("i", i, low=0, wanted="the number of a GPU, an int from 0 on")
    if i < torch.cuda.device_count():
        return torch.device("cuda", i)
    if i == 0 and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class Precision:
    """The arithmetic of a training run: `train_ch6`'s argument `precision` on `device`.

    Attributes:
        device: `torch.device`.
        dtype: that of autocast, None without it.
        layout: memory format of the weights, which that of the activations follows.
        images_at_once: a larger batch goes through the network in parts.

    Raises:
        ValueError: `name` is none of the known ones.
    """

    def __init__(self, name, device):
        if name not in (*AUTOCAST_DTYPES, "auto"):
            raise ValueError(
                f"precision must be one of {', '.join(AUTOCAST_DTYPES)} or auto, got {name!r}"
            )
        if name == "auto":
            name = _fastest(device)
        self.device, self.dtype, self.images_at_once = device, AUTOCAST_DTYPES[name], 2**31
        # TF32 wants tensor cores of capability 8.0; without them, as on Colab's T4, the products
        # are fp32's, and the channels innermost would be slower than the reference's layout.
        has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        self.tf32 = name != "fp32" and has_tf32
        self.layout = torch.contiguous_format
        on_tensor_cores = device.type == "cuda" and (self.tf32 or self.dtype is not None)
        if name != "fp32" and (device.type == "cpu" or on_tensor_cores):
            self.layout = torch.channels_last

    @property
    def name(self):
        """What it comes to: "fp32", "fp32, channels last", "tf32", "bf16" or "fp16"."""
        if self.dtype is not None:
            return {torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        if self.tf32:
            return "tf32"
        return "fp32, channels last" if self.layout == torch.channels_last else "fp32"

    def autocast(self):
        """The context of a forward pass.

        Nothing is cached: under a reader's own autocast the casts of the weights would stay as they
        were before the first step.
        """
        enabled = self.dtype is not None
        return torch.autocast(self.device.type, self.dtype, enabled=enabled, cache_enabled=False)

    @contextlib.contextmanager
    def applied_to(self, net):
        """Training's memory layout, matrix products and memory, put back afterwards."""
        on_cuda = self.device.type == "cuda"
        try:
            with (
                _cuda_products(self.tf32) if on_cuda else contextlib.nullcontext(),
                memory_kept(self.device),
                torch.autocast(self.device.type, enabled=False),  # a reader's, around train_ch6
            ):
                lay_out(net, self.layout)
                yield
        finally:
            with contextlib.suppress(torch.OutOfMemoryError):  # the first one tells what to do
                lay_out(net, torch.contiguous_format)


def _fastest(device):
    """The name of the number format of 16 bits which the device multiplies fastest, else "tf32"."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu":
        return "tf32"
    seconds = []
    for dtype in (torch.bfloat16, torch.float32):  # many CPUs have no instructions for bf16
        A = torch.ones(512, 512, dtype=dtype)
        seconds.append(min(timeit.repeat(lambda A=A: A @ A, number=1, repeat=5)))
    return "bf16" if seconds[0] < seconds[1] else "tf32"


@contextlib.contextmanager
def _cuda_products(tf32):
    """Products and convolutions of fp32 numbers on CUDA in TF32 or in full, put back afterwards."""
    cudnn, matmul, saved = torch.backends.cudnn, torch.backends.cuda.matmul, []
    older = [(matmul, "allow_tf32"), (cudnn, "allow_tf32"), (cudnn, "benchmark")]
    owners = matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)
    for owner, name in (*older, *((owner, "fp32_precision") for owner in owners)):
        # Torch 2.9 has newer names, and does not tell what was set by them under the older ones.
        with contextlib.suppress(AttributeError, RuntimeError):
            saved.append((owner, name, getattr(owner, name)))
    try:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, True
        yield
    finally:
        for setting in saved:
            setattr(*setting)


def lay_out(net, layout):
    """Have the weights of two-dimensional layers in this memory format (others have none)."""
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=layout)


@contextlib.contextmanager
def memory_kept(device):
    """Have glibc keep freed memory meanwhile, for the tensors to come; nothing but on a CPU.

    A training step fills gigabytes of new tensors. Left to itself glibc returns each of them to the
    system as soon as it is freed, and the system clears all pages before it hands them out again,
    which takes up to a third of the step. Afterwards everything that is free goes back.
    """
    if not _uses_glibc(device):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)  # no tensor in pages of its own, which go back at once
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:  # as glibc, which adapts itself, is after a large tensor or two
        libc.mallopt(MMAP_MAX, 1 << 16)
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)


def trim_heap(device):
    """Give back what `memory_kept` keeps, where tensors of other sizes would not fit into it."""
    if _uses_glibc(device):
        ctypes.CDLL(None).malloc_trim(0)


def cuda_missing():
    """A sentence where a torch without CUDA runs on a machine with an NVIDIA card, else ''.

    PyPI's torch for Windows is such a torch. Linux is asked for cards, for there a container may
    have `nvidia-smi` and none (Colab without a GPU does); on Windows it comes with the driver.
    """
    if torch.version.cuda or torch.version.hip:
        return ""
    if not NVIDIA_CARDS.is_dir() and not (
        platform.system() == "Windows" and shutil.which("nvidia-smi")
    ):
        return ""
    return f"this machine has an NVIDIA GPU, but this torch has no CUDA to use it: {GET_CUDA}"


def _uses_glibc(device):
    return device.type == "cpu" and platform.libc_ver()[0] == "glibc"


def environment():
    """What this notebook runs on: a mapping of name to text that shows itself as a table."""
    device = try_gpu()
    return _Table(
        {
            "device": f"{device} ({device_name(device)})",
            "torch": torch.__version__,
            "CUDA": _cuda_version() if device.type == "cuda" else cuda_missing() or "not used",
            "OS": f"{platform.system()} {platform.release()} ({platform.machine()})",
            "Python": platform.python_version(),
            "date": datetime.date.today().isoformat(),
            "d2lmini": _own_version(),
        }
    )


class _Table(dict):
    def __repr__(self):
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.items())

    def _repr_html_(self):
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
            for name, text in self.items()
        )
        return f"<table>{rows}</table>"


def device_name(device):
    """The name of the GPU, or of the processor and the number of threads torch uses on it."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"{_processor_name()}, {threads} thread{'s' * (threads != 1)}"


def _cuda_version():
    return torch.version.cuda or f"ROCm {torch.version.hip}"  # AMD's cards call themselves cuda


def _processor_name():
    try:  # Linux does not fill platform.processor() in
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _own_version():
    try:
        return metadata.version("d2lmini")
    except metadata.PackageNotFoundError:
        return "not installed"
