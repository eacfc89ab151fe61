"""Fashion-MNIST (Xiao et al., 2017, https://arxiv.org/abs/1708.07747) as one tensor in memory."""

import contextlib
import copy
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
from torch.utils.data import Dataset
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_url

from d2lmini.device import whole_number

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
# Debian packs the same files anew, so what counts is the content: MD5 of the unpacked files.
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}
NETWORK_PATIENCE = 30  # seconds without an answer
# Enlarging 28 pixels to these sides, torch's fast kernel on a CPU gives PIL's pixels: the tests try
# every pair of neighbouring grey values. Elsewhere its weights of 15 bits, to PIL's 22, may not do.
PROVEN_SIDES = (32, 56, 64, 96, 112, 128, 224)
CLASS_NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat",
               "sandal", "shirt", "sneaker", "bag", "ankle boot")  # fmt: skip


def get_fashion_mnist_labels(labels):
    """Return the English class name of each label (int 0..9) as a list of str."""
    labels = [int(label) for label in labels]
    if not set(labels) <= set(range(10)):
        raise ValueError(f"Fashion-MNIST has the labels 0 to 9, got {labels}")
    return [CLASS_NAMES[label] for label in labels]


def load_data_fashion_mnist(batch_size, resize=None, *, generator=None, root=None):
    """Load Fashion-MNIST and return `(train_iter, test_iter)`, two `ImageIterator`s.

    A batch is `X`, float32 (B, 1, H, W) in [0, 1], and `y`, int64 (B,) in 0..9. Training batches
    come in a new random order each epoch, test batches in file order; the last may be shorter.
    `resize` is the side to which images are enlarged, to the very pixels of torchvision's `Resize`
    and `ToTensor` on PIL images (None: 28); `generator`, a `torch.Generator`, fixes the training
    order (None: torch's global one).

    `root` is the folder of the data (None: the environment variable `D2LMINI_DATA`, else a folder
    in the user's cache). The four files, .gz or unpacked, are looked for in root/FashionMNIST/raw,
    in root, and where Debian's package puts them; what is missing is downloaded. ValueError: no
    positive int; FileNotFoundError: not there, not downloaded; RuntimeError: a file is damaged.
    """
    batch_size = whole_number("batch_size", batch_size)
    resize = None if resize is None else whole_number("resize", resize)
    files, iterators = find_files(root), []
    for split in ("train", "t10k"):
        images = _read_idx(files[f"{split}-images-idx3-ubyte.gz"], num_dims=3)
        labels = _read_idx(files[f"{split}-labels-idx1-ubyte.gz"], num_dims=1).long()
        iterators.append(ImageIterator(images, labels, batch_size, resize, split == "train",
                                       generator, CLASS_NAMES))  # fmt: skip
    return tuple(iterators)


class ImageIterator:
    """Batches of grey images that lie in memory as one tensor, made on its device.

    `images` are uint8 (N, H, W), `labels` int64 (N,), `classes` their names or None; `resize` is
    the side of the square images that it yields (None: their own); with `shuffle` each pass has a
    new order, drawn from `generator`, a `torch.Generator` on the CPU (None: torch's global one).
    """

    def __init__(self, images, labels, batch_size, resize=None, shuffle=False, generator=None,
                 classes=None):  # fmt: skip
        self.images, self.labels, self.classes, self.device = images, labels, classes, images.device
        self.batch_size, self.resize = batch_size, resize
        self.shuffle, self.generator, self.transforms = shuffle, generator, ()
        # A tensor: instead of dividing by a plain number CUDA multiplies by its inverse, rounded.
        self._white = torch.tensor(255.0, device=self.device)

    def __len__(self):
        """Number of batches in a pass."""
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        return map(self.batch, self.batch_indices())

    def batch_indices(self):
        """The numbers of the images of a new pass, an int64 tensor (B,) for each batch."""
        # Drawn on the CPU, so that a seed gives the same order everywhere.
        order = torch.arange(len(self.labels))
        if self.shuffle:
            order = torch.randperm(len(self.labels), generator=self.generator)
        return order.to(self.device).split(self.batch_size)

    def batch(self, indices):
        """X and y of the images of these numbers, an int64 tensor (B,) on the iterator's device."""
        images = self.images[indices]
        if self.resize is not None:
            images = resize_like_pil(images, self.resize)
        X = images.unsqueeze(1).to(torch.float32).div_(self._white)
        for transform in self.transforms:
            X = transform(X)
        return X, self.labels[indices]

    def to(self, device):
        """The same iterator with data and batches on `device`; itself if they are there already."""
        if torch.device(device) == self.device:
            return self
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        moved.device, moved._white = moved.images.device, self._white.to(device)
        return moved

    def map(self, transform):
        """The same iterator, its batches of images X (B, 1, H, W) changed by `transform`.

        It runs on their device each time a batch is made, so random changes differ from epoch to
        epoch; torch's own random numbers follow `train_ch6`'s seed and checkpoint.
        """
        mapped = copy.copy(self)
        mapped.transforms = (*self.transforms, transform)
        return mapped

    @property
    def dataset(self):
        """The images one by one, (X float32 (1, H, W), label int), without what `map` adds."""
        return _ImageDataset(self)


class _ImageDataset(Dataset):
    def __init__(self, data_iter):
        self.data_iter, self.classes = copy.copy(data_iter), data_iter.classes
        self.data_iter.transforms = ()

    def __len__(self):
        return len(self.data_iter.labels)

    def __getitem__(self, index):
        label = self.data_iter.labels[index]  # IndexError beyond the last
        return self.data_iter.batch([index])[0][0], int(label)


def resize_like_pil(images, side):
    """Resize uint8 (N, H, H) to uint8 (N, side, side) as PIL's bilinear filter does, bit for bit.

    On a CPU torch's own kernel is ten times as fast, where it is proven to give the same.
    (torchvision's `resize` will not do: on a processor without AVX2 it goes through floats.)
    """
    if images.device.type == "cpu" and images.shape[1:] == (28, 28) and side in PROVEN_SIDES:
        return F.interpolate(images[:, None], (side, side), mode="bilinear", antialias=True)[:, 0]
    return _resize_axis(_resize_axis(images, side, dim=2), side, dim=1)  # PIL goes across first


def _resize_axis(images, side, dim):
    """One pass of PIL's resampling: uint8 in, uint8 out, weights in 22-bit fixed point."""
    indices, weights, total = _pil_taps(images.shape[dim], side, images.device)
    per_pixel = [-1 if d == dim else 1 for d in range(images.dim())]
    for index, weight in zip(indices, weights, strict=True):
        total = torch.addcmul(total, images.index_select(dim, index), weight.view(per_pixel))
    return (total >> 22).to(torch.uint8)  # 255 * 2**22 + 2**21 < 2**31: int32 never overflows


@functools.cache  # no batch waits for a copy to the device; a CUDA graph has their addresses
def _pil_taps(size_in, size_out, device):
    """Source indices (int64) and weights (int32), both (taps, size_out), of PIL's triangle filter.

    The weights of an output pixel add up to about 2**22; a sum starts from the third tensor, 2**21,
    so that cutting it off rounds. Source: Pillow, src/libImaging/Resample.c (not its code).
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
    half = torch.tensor(1 << 21, dtype=torch.int32)
    return positions.clamp(max=size_in - 1).long().to(device), weights.to(device), half.to(device)


def find_files(root=None):
    """The path of each of the four files by name, .gz or, where only that is there, unpacked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "d2lmini"
    root = Path(os.path.expanduser(root or os.environ.get("D2LMINI_DATA") or cache)).absolute()
    return {name: _find_or_download(name, root) for name in CHECKSUMS}


def _find_or_download(name, root):
    folder, patience = root / "FashionMNIST" / "raw", socket.getdefaulttimeout()
    places = folder, root, DEBIAN_FOLDER
    for path in (place / n for place in places for n in (name, name.removesuffix(".gz"))):
        if path.is_file():
            return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(NETWORK_PATIENCE)  # torchvision would wait for ever
        # Into a private folder first, then renamed: another process sees all of it or nothing.
        with tempfile.TemporaryDirectory(dir=folder) as private:
            md5 = dict(FashionMNIST.resources)[name]  # of the published .gz file
            download_url(FashionMNIST.mirrors[0] + name, private, md5=md5)
            os.replace(Path(private) / name, folder / name)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        # Windows does not replace a file that another process, having been faster, is reading.
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"Fashion-MNIST is incomplete: {name} is neither in "
                f"{' nor in '.join(map(str, places))}, and could not be downloaded ({error}). "
                f"Three ways to provide {', '.join(CHECKSUMS)}: a network connection and a folder "
                "that can be written to; the environment variable D2LMINI_DATA naming a folder "
                "that holds them; or Debian's package: apt-get install dataset-fashion-mnist"
            ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return folder / name


def _read_idx(path, num_dims):
    packed, sums = path.name.removesuffix(".gz") + ".gz", path.with_name("MD5SUMS")
    expected, content = [CHECKSUMS[packed]], b""
    # Fashion-MNIST's sum, or that of another data set which a file MD5SUMS beside it declares.
    for line in sums.read_text("utf-8", errors="replace").splitlines() if sums.is_file() else []:
        if line.split()[1:] in ([path.name], [packed]):
            expected.append(line.split()[0])
    with contextlib.suppress(gzip.BadGzipFile, EOFError, zlib.error):
        content = gzip.decompress(path.read_bytes()) if path.name == packed else path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in expected:
        raise RuntimeError(f"{path} does not hold what Fashion-MNIST's file of that name holds: it "
                           "is damaged, or another file; delete it to have it downloaded again"
                           )  # fmt: skip
    shape = [int.from_bytes(content[4 * d : 4 * d + 4], "big") for d in range(1, num_dims + 1)]
    return torch.frombuffer(bytearray(content[4 + 4 * num_dims :]), dtype=torch.uint8).view(shape)
