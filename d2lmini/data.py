"""Fashion-MNIST as one tensor: read, check, shuffle and enlarge whole batches, without workers.

The data set is Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms", 2017, https://arxiv.org/abs/1708.07747 (MIT licence): 60,000 training
and 10,000 test images of 28x28 grey pixels in 10 classes.
"""

import functools
import gzip
import hashlib
import http.client
import os
import socket
import tempfile
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_url

__all__ = ["ImageIterator", "find_files", "get_fashion_mnist_labels", "load_data_fashion_mnist"]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
DOWNLOAD_CHECKSUMS = dict(FashionMNIST.resources)  # of the published .gz files, by file name
# Debian packs the same files anew, so what counts is the content: MD5 of the unpacked files.
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
NETWORK_PATIENCE = 30  # seconds without an answer
# Enlarging 28 pixels to these sides, torch's fast kernel on a CPU gives PIL's pixels: the tests try
# every pair of neighbouring grey values. At others (227, say) some differ by a grey level, for its
# weights have 15 bits to PIL's 22.
PROVEN_SIDES = (32, 56, 64, 96, 112, 128, 224)
CLASS_NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat",
               "sandal", "shirt", "sneaker", "bag", "ankle boot")  # fmt: skip


def get_fashion_mnist_labels(labels):
    """Return the English class name of each label (int 0..9) as a list of str."""
    return [CLASS_NAMES[int(label)] for label in labels]


def load_data_fashion_mnist(batch_size, resize=None, *, generator=None, root=None):
    """Load Fashion-MNIST and return `(train_iter, test_iter)`, two `ImageIterator`s.

    A batch is `X`, float32 (B, 1, H, W) in [0, 1], and `y`, int64 (B,) in 0..9. With `resize` the
    images are enlarged to resize x resize, to the very pixels of torchvision's `Resize` and
    `ToTensor` on PIL images. Training batches come in a new random order each epoch, test batches
    in file order; the last, shorter batch is kept.

    Args:
        batch_size: images in a batch, at least 1.
        resize: side of the images in pixels; None leaves 28.
        generator: `torch.Generator` that fixes the training order; None uses torch's global one.
        root: folder of the data; None takes the environment variable `D2LMINI_DATA`, else a
            folder in the user's cache. The four .gz files are looked for in
            root/FashionMNIST/raw (torchvision's layout), in root itself, and where Debian's
            package dataset-fashion-mnist puts them; what is missing is downloaded.

    Raises:
        ValueError: a batch size or side that is not a positive int.
        FileNotFoundError: files are missing and cannot be downloaded.
        RuntimeError: a file is damaged; the message names it.
    """
    _check_positive("batch_size", batch_size)
    if resize is not None:
        _check_positive("resize", resize)
    files = find_files(root)
    iterators = []
    for split in ("train", "t10k"):
        images_file, labels_file = (
            f"{split}-images-idx3-ubyte.gz",
            f"{split}-labels-idx1-ubyte.gz",
        )
        images = _read_idx(files[images_file], num_dims=3)
        labels = _read_idx(files[labels_file], num_dims=1).long()
        if len(images) != len(labels):
            raise RuntimeError(
                f"{files[images_file]} holds {len(images)} images but {files[labels_file]} holds "
                f"{len(labels)} labels; delete both files to have them downloaded again"
            )
        iterators.append(
            ImageIterator(images, labels, batch_size, resize, split == "train", generator)
        )
    return tuple(iterators)


class ImageIterator:
    """Batches of grey images that lie in memory as one uint8 tensor.

    Args:
        images: uint8 (N, H, W).
        labels: int64 (N,).
        batch_size: images in a batch; the last batch may be shorter.
        resize: side of the square images it yields, None for their own size.
        shuffle: a new random order for each pass.
        generator: `torch.Generator` on the CPU for that order, None for torch's global one.
        device: where the batches are made; `on()` gives the same batches on another device.
    """

    def __init__(self, images, labels, batch_size, resize=None, shuffle=False, generator=None,
                 device="cpu"):  # fmt: skip
        self.device = torch.device(device)
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        # A tensor: instead of dividing by a plain number CUDA multiplies by its inverse, rounded.
        self._white = torch.tensor(255.0, device=self.device)
        self.batch_size, self.resize = batch_size, resize
        self.shuffle, self.generator = shuffle, generator

    def __len__(self):
        """Number of batches in a pass."""
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        # The order is drawn on the CPU whatever the device, so that a seed gives the same
        # order everywhere, and anew for each pass, so that two passes at once are independent.
        num_images = len(self.labels)
        order = torch.arange(num_images)
        if self.shuffle:
            order = torch.randperm(num_images, generator=self.generator)
        for indices in order.to(self.device).split(self.batch_size):
            images = self.images[indices]
            if self.resize is not None:
                images = resize_like_pil(images, self.resize)
            yield images.unsqueeze(1).to(torch.float32).div_(self._white), self.labels[indices]

    def on(self, device):
        """The same iterator with data and batches on `device`; itself if they are there already."""
        device = torch.device(device)
        if device == self.device:
            return self
        return ImageIterator(self.images, self.labels, self.batch_size, self.resize, self.shuffle,
                             self.generator, device)  # fmt: skip


def resize_like_pil(images, side):
    """Resize uint8 (N, H, H) to uint8 (N, side, side) as PIL's bilinear filter does, bit for bit.

    `_resize_axis` repeats PIL's fixed-point arithmetic on any device; on a CPU torch's own kernel
    is ten times as fast, and serves where it is proven to give the same. (torchvision's `resize`
    will not do: on a processor without AVX2, Apple's for one, it goes through floats.)
    """
    if images.device.type == "cpu" and images.shape[1:] == (28, 28) and side in PROVEN_SIDES:
        size = (side, side)
        return F.interpolate(images.unsqueeze(1), size, mode="bilinear", antialias=True).squeeze(1)
    return _resize_axis(_resize_axis(images, side, dim=2), side, dim=1)  # PIL goes across first


def _resize_axis(images, side, dim):
    """One pass of PIL's resampling: uint8 in, uint8 out, weights in 22-bit fixed point."""
    indices, weights = _pil_taps(images.shape[dim], side, images.device)
    per_pixel = [-1 if d == dim else 1 for d in range(images.dim())]
    pixels = images.to(torch.int32)
    total = 1 << 21  # one half, so that the shift below rounds to nearest
    for index, weight in zip(indices, weights, strict=True):
        total = total + pixels.index_select(dim, index) * weight.view(per_pixel)
    return (total >> 22).to(torch.uint8)  # 255 * 2**22 + 2**21 < 2**31: int32 never overflows


@functools.lru_cache(maxsize=16)  # made once, so that no batch waits for a copy to the device
def _pil_taps(size_in, size_out, device):
    """Source indices (int64) and weights (int32), both (taps, size_out), of PIL's triangle filter.

    The weights of an output pixel add up to about 2**22; unused taps have weight 0.
    Source: Pillow, src/libImaging/Resample.c (the algorithm, not its code).
    """
    scale = size_in / size_out
    width = max(scale, 1.0)  # the triangle's half base, in source pixels
    centres = (torch.arange(size_out, dtype=torch.float64) + 0.5) * scale
    first = (centres - width + 0.5).floor().clamp(min=0)
    last = (centres + width + 0.5).floor().clamp(max=size_in)  # exclusive
    num_taps = int((last - first).max())
    positions = first + torch.arange(num_taps, dtype=torch.float64).unsqueeze(1)
    weights = (1 - ((positions + 0.5 - centres) / width).abs()).clamp(min=0)
    weights = torch.where(positions < last, weights, 0.0)
    weights = (weights / weights.sum(0) * (1 << 22) + 0.5).floor().to(torch.int32)
    return positions.clamp(max=size_in - 1).long().to(device), weights.to(device)


def _check_positive(name, value):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive int, got {value!r}")


def find_files(root=None):
    """The path of each of the four .gz files by its name; `root` and errors as in
    `load_data_fashion_mnist`, but the files are not looked into."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "d2lmini"
    root = Path(root or os.environ.get("D2LMINI_DATA") or cache).expanduser()
    return {name: _find_or_download(name, root) for name in CHECKSUMS}


def _find_or_download(name, root):
    """Path of one .gz file: found in one of the three places, else downloaded into the first."""
    folder = root / "FashionMNIST" / "raw"
    for place in (folder, root, DEBIAN_FOLDER):
        if (place / name).is_file():
            return place / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Into a private folder first, then renamed: another process sees all of it or nothing.
        with tempfile.TemporaryDirectory(dir=folder) as private:
            _download(name, private)
            os.replace(Path(private) / name, folder / name)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        # Windows does not replace a file that another process, having been faster, is reading.
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"Fashion-MNIST is incomplete: {name} is neither in {folder} nor in {root} nor in "
                f"{DEBIAN_FOLDER}, and could not be downloaded into the first ({error}). Three "
                f"ways to provide {', '.join(CHECKSUMS)}: a network connection and a folder that "
                "can be written to; the environment variable D2LMINI_DATA naming a folder that "
                "holds them; or Debian's package: apt-get install dataset-fashion-mnist"
            ) from error
    return folder / name


def _download(name, folder):
    """Fetch a published file from the first of torchvision's mirrors that has it."""
    failures = []
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_PATIENCE)  # torchvision would wait for ever
    try:
        for mirror in FashionMNIST.mirrors:
            try:
                return download_url(mirror + name, folder, name, DOWNLOAD_CHECKSUMS[name])
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(f"{mirror}{name}: {error}")
    finally:
        socket.setdefaulttimeout(patience)
    raise RuntimeError("; ".join(failures))


def _read_idx(path, num_dims):
    """Read a gzipped IDX file of bytes into a uint8 tensor, or say what is wrong with it."""
    packed = path.read_bytes()
    try:
        content = gzip.decompress(packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RuntimeError(
            f"{path} is damaged and cannot be unpacked ({error}); delete the file to have it "
            "downloaded again"
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in _expected_md5s(path):
        raise RuntimeError(
            f"{path} does not hold what Fashion-MNIST's file of that name holds (MD5 of the "
            f"content is not {CHECKSUMS[path.name]}); delete the file to have it downloaded again"
        )
    shape = [int.from_bytes(content[4 * d : 4 * d + 4], "big") for d in range(1, num_dims + 1)]
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * num_dims)
    return flat.view(shape)


def _expected_md5s(path):
    """Fashion-MNIST's sum, and that of another data set which a file MD5SUMS beside it declares."""
    sums = path.with_name("MD5SUMS")
    lines = sums.read_text("utf-8").splitlines() if sums.is_file() else []
    declared = [line.split()[0] for line in lines if line.split()[1:] == [path.name]]
    return [CHECKSUMS[path.name], *declared]
