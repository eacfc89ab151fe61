"""The loader: PIL's pixels, the right batches in the right order, and an answer to bad data."""

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import re
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from d2lmini import data, get_fashion_mnist_labels, load_data_fashion_mnist
from d2lmini.data import ImageIterator, resize_like_pil

SAMPLE = Path(__file__).parent / "data" / "FashionMNIST" / "raw"
NAMES = list(data.CHECKSUMS)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing is fetched but from a server of the test; Debian's folder is not looked into."""
    with socket.socket() as listener:  # a port that is free, hence refuses connections
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    monkeypatch.setattr(data, "DEBIAN_FOLDER", Path("/nonexistent"))
    monkeypatch.setattr(FashionMNIST, "mirrors", [closed])


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def copy_sample(folder, names=NAMES):
    """The sample's files in `folder`, with sums: of the packed files, and those that declare it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(SAMPLE / name, folder)
    packed = [f"{md5(SAMPLE / name)}  {name}" for name in NAMES]
    lines = ["# packed, then unpacked", "", *packed, (SAMPLE / "MD5SUMS").read_text()]
    (folder / "MD5SUMS").write_text("\n".join(lines))
    return folder


def pixels(iterator):
    return torch.cat([X for X, _ in iterator])


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [None, 96])
def test_pixels_and_labels_are_those_of_torchvision_over_pil(tmp_path, side):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        unpacked = gzip.decompress((SAMPLE / name).read_bytes())
        (raw / name.removesuffix(".gz")).write_bytes(unpacked)
    steps = [*([] if side is None else [transforms.Resize(side)]), transforms.ToTensor()]
    for iterator in load_data_fashion_mnist(10, side):
        expected = FashionMNIST(tmp_path, iterator.shuffle, transform=transforms.Compose(steps))
        images, labels = zip(*expected, strict=True)
        ((X, y),) = ImageIterator(iterator.images, iterator.labels, 10, side)
        assert torch.equal(X, torch.stack(images)) and torch.equal(y, torch.tensor(labels))
        assert (X.dtype, y.dtype) == (torch.float32, torch.int64)
        assert (iterator.batch_size, iterator.resize) == (10, side)


@pytest.mark.parametrize("side", [1, 20, 27, 28, 29, 64, 96, 100, 224, 227])
@pytest.mark.parametrize("has_shortcut", [True, False])
def test_any_side_is_resized_as_pil_does(side, has_shortcut, monkeypatch):
    if not has_shortcut:  # as on a GPU
        monkeypatch.setattr(data, "PROVEN_SIDES", ())
    torch.manual_seed(side)
    images = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
    images[10:] = (images[10:] > 127) * 255  # the steepest edges
    expected = [Image.fromarray(i.numpy()).resize((side, side), Image.BILINEAR) for i in images]
    expected = torch.cat([transforms.PILToTensor()(image) for image in expected])
    assert torch.equal(resize_like_pil(images, side), expected)


@pytest.mark.parametrize(
    "side", [s if s == 96 else pytest.param(s, marks=pytest.mark.full) for s in data.PROVEN_SIDES]
)
def test_fast_kernel_gives_pils_pixels_for_every_pair_of_grey_values(side, monkeypatch):
    """A pixel that a pass makes blends two neighbours, so all pairs are all cases.

    96 is the interesting one: at the other sides the weights are short binary fractions.
    """
    grey = torch.arange(256, dtype=torch.uint8)
    pairs = torch.stack([grey.repeat_interleave(256), grey.repeat(256)], dim=1)
    images = pairs.repeat(1, 14)[torch.arange(2341 * 28) % 65536].view(-1, 28, 28)
    for oriented in (images, images.transpose(1, 2).contiguous()):  # across, then down
        for part in oriented.split(200):
            fast = resize_like_pil(part, side)
            with monkeypatch.context() as patch:
                patch.setattr(data, "PROVEN_SIDES", ())
                assert torch.equal(resize_like_pil(part, side), fast)


# --- batches --------------------------------------------------------------------------------------


def test_labels_have_the_names_of_the_data_set():
    names = [name.lower().removesuffix("/top") for name in FashionMNIST.classes]
    train_iter, _ = load_data_fashion_mnist(4)
    assert get_fashion_mnist_labels(torch.arange(10)) == list(train_iter.classes) == names


def test_full_data_has_469_and_79_batches_of_128(tmp_path, monkeypatch):
    debian = Path("/usr/share/datasets/fashion-mnist")
    if not debian.is_dir():
        is_ci = os.environ.get("CI") == "true" and sys.platform == "linux"
        (pytest.fail if is_ci else pytest.skip)("apt-get install dataset-fashion-mnist")
    monkeypatch.setattr(data, "DEBIAN_FOLDER", debian)
    train_iter, test_iter = load_data_fashion_mnist(128, root=tmp_path / "empty")
    assert (len(train_iter), len(test_iter)) == (469, 79)
    assert train_iter.labels.bincount().tolist() == [6000] * 10
    assert sum(len(y) for _, y in test_iter) == 10_000


def test_training_order_is_new_each_pass_and_test_order_is_the_files():
    for iterator in load_data_fashion_mnist(4):
        assert [len(y) for _, y in iterator] == [4, 4, 2] and len(iterator) == 3
        iterator.labels = torch.arange(10)
        iterator.images = iterator.labels.byte().view(10, 1, 1)  # which tell their labels
        orders = []
        for X, y in [*iterator, *iterator]:
            assert (X * 255).round().flatten().tolist() == y.tolist()
            orders += y.tolist()
            y.fill_(99)  # a batch is the reader's, to be written to
        assert sorted(orders[:10]) == sorted(orders[10:]) == list(range(10))
        assert (orders[:10] == orders[10:] == list(range(10))) == (not iterator.shuffle)


def test_a_generator_fixes_the_order_and_spares_the_global_one():
    def order(seed):
        train_iter, _ = load_data_fashion_mnist(8, generator=torch.Generator().manual_seed(seed))
        return torch.cat([pixels(train_iter), pixels(train_iter)])

    state = torch.get_rng_state()
    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_to_moves_data_and_batches_and_keeps_to_the_same_order():
    train_iter, again = (
        load_data_fashion_mnist(5, 96, generator=torch.Generator().manual_seed(0))[0] for _ in "ab"
    )
    assert train_iter.to("cpu") is train_iter
    for X, y in train_iter.to("meta"):  # shapes only, on the path that accelerators take
        assert X.shape == (5, 1, 96, 96) and y.shape == (5,)
        assert X.device.type == y.device.type == "meta"
    pixels(again)  # the first order, which the batches on meta have drawn
    assert torch.equal(pixels(train_iter), pixels(again))


def test_mapped_batches_are_the_iterators_own_changed():
    train_iter, test_iter = load_data_fashion_mnist(4)
    flipped = test_iter.map(lambda X: X.flip(-1)).map(lambda X: 2 * X)
    for (X, y), (Z, z) in zip(test_iter, flipped, strict=True):
        assert torch.equal(2 * X.flip(-1), Z) and torch.equal(y, z)
    assert all(X.device.type == "meta" for X, _ in train_iter.map(lambda X: X + 1).to("meta"))
    assert train_iter.map(torch.neg).dataset[0][0].equal(train_iter.dataset[0][0])


def test_the_data_set_behind_the_batches():
    train_iter, test_iter = load_data_fashion_mnist(3, resize=32)
    assert isinstance(test_iter.dataset, Dataset) and len(test_iter.dataset) == 10
    for i in (0, 9, -1):
        image, label = test_iter.dataset[i]
        assert torch.equal(image, pixels(test_iter)[i])
        assert label == test_iter.labels[i] and type(label) is int
    with pytest.raises(IndexError):
        train_iter.dataset[10]
    assert len(list(DataLoader(pickle.loads(pickle.dumps(train_iter)).dataset, 4))) == 3


# --- where the files are --------------------------------------------------------------------------


def test_without_data_and_network_the_error_names_what_is_missing_and_three_ways(tmp_path):
    copy_sample(tmp_path, [TRAIN_IMAGES, TRAIN_LABELS, TEST_LABELS])
    with pytest.raises(FileNotFoundError, match=f"incomplete: {TEST_IMAGES} ") as caught:
        load_data_fashion_mnist(8, root=tmp_path)
    for part in [*NAMES, "network", "D2LMINI_DATA", "apt-get install", str(tmp_path), "refused"]:
        assert part in str(caught.value)
    assert len(list(tmp_path.rglob("*"))) == 4 + 2  # what was there, and the empty folders
    with pytest.raises(FileNotFoundError, match=r"MD5SUMS.below.*can be written to"):
        load_data_fashion_mnist(8, root=tmp_path / "MD5SUMS" / "below")  # below a file


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "NETWORK_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(FashionMNIST, "mirrors", [mirror])
        with pytest.raises(FileNotFoundError, match="timed out"):
            load_data_fashion_mnist(8, root=tmp_path)
    assert socket.getdefaulttimeout() is None  # the program's own setting is back


def test_files_are_found_in_their_places_in_order(tmp_path, monkeypatch):
    """In `root` in either way, else in Debian's folder; it is the environment's, else the cache."""

    def folders(root=None):
        return {path.parent for path in data.find_files(root).values()}

    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given, cache = tmp_path / "my data 数据集 é", tmp_path / "cache" / "d2lmini"
    places = given / "FashionMNIST" / "raw", given, tmp_path / "debian"
    for place in (*places, cache):
        copy_sample(place)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", places[2])
    monkeypatch.setenv("D2LMINI_DATA", str(given))
    for place in places:
        assert folders(given) == folders("~/my data 数据集 é") == folders() == {place}
        for name in NAMES:
            (place / name).unlink()
    monkeypatch.delenv("D2LMINI_DATA")
    assert folders() == {cache}


# --- damaged files --------------------------------------------------------------------------------


def alter_a_pixel(content):
    unpacked = bytearray(gzip.decompress(content))
    unpacked[-1] ^= 1
    return gzip.compress(bytes(unpacked))


def another_file(content):
    return next(other for other in map(Path.read_bytes, SAMPLE.glob("*.gz")) if other != content)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"<html>please log in to this network</html>",
        lambda content: content[:10] + b"\xff\xff" + content[12:],
        alter_a_pixel,
        another_file,
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, damage):
    file = copy_sample(tmp_path) / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RuntimeError, match=f"{re.escape(str(file))} does not hold.*delete it"):
        load_data_fashion_mnist(8, root=tmp_path)
    assert file.is_file()  # the user's file: it is not ours to delete


def test_without_declared_sums_only_fashion_mnist_itself_is_taken(tmp_path):
    (copy_sample(tmp_path) / "MD5SUMS").unlink()
    with pytest.raises(RuntimeError, match=f"{TRAIN_IMAGES} does not hold"):
        load_data_fashion_mnist(8, root=tmp_path)


# --- downloading ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's, with one of the files; a mirror has the others."""
    published = copy_sample(tmp_path / "published", NAMES[1:])
    monkeypatch.setattr(FashionMNIST, "resources", [(n, md5(SAMPLE / n)) for n in NAMES])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=published)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield copy_sample(tmp_path / "user" / "FashionMNIST" / "raw", NAMES[:1])
        server.shutdown()


def test_what_is_missing_is_downloaded_once(folder, tmp_path):
    for _ in range(2):
        assert len(load_data_fashion_mnist(8, root=tmp_path / "user")[0]) == 2
        shutil.rmtree(tmp_path / "published", ignore_errors=True)
    assert sorted(os.listdir(folder)) == sorted([*NAMES, "MD5SUMS"])  # no leftovers


def test_other_bytes_than_the_published_are_refused_and_nothing_kept(folder, tmp_path):
    altered = tmp_path / "published" / TEST_LABELS
    altered.write_bytes(alter_a_pixel(altered.read_bytes()))
    with pytest.raises(FileNotFoundError, match=f"{TEST_LABELS} .*corrupted"):
        load_data_fashion_mnist(8, root=tmp_path / "user")
    assert sorted(os.listdir(folder)) == sorted([*NAMES[:3], "MD5SUMS"])


def test_a_download_is_put_in_place_whole_and_another_processs_is_as_good(
    folder, tmp_path, monkeypatch
):
    """Which was faster: Windows refuses to replace a file that is being read."""
    replaced = []

    def refuse(source, target):
        assert md5(Path(source)) == md5(SAMPLE / target.name) and not target.exists()
        replaced.append(target.name)
        shutil.copy(source, target)
        raise PermissionError(13, "The process cannot access the file", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    assert len(load_data_fashion_mnist(8, root=tmp_path / "user")[0]) == 2
    assert sorted(replaced) == sorted(NAMES[1:])
