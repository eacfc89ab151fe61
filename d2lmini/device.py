"""The device to run on, its memory, and the environment a chapter ran in."""

import contextlib
import ctypes
import datetime
import html
import platform
import shutil
from importlib import metadata
from pathlib import Path

import torch

from d2lmini.explain import whole_number

__all__ = [
    "cuda_missing",
    "device_name",
    "environment",
    "memory_kept",
    "release_memory",
    "try_gpu",
]

NVIDIA_CARDS = Path("/proc/driver/nvidia/gpus")  # Linux: a folder for each card
GET_CUDA = "https://pytorch.org/get-started/locally/ names the build that has it"
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # as <malloc.h> numbers what mallopt sets


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


def release_memory(device):
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
