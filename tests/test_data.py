"""The loader: PIL's pixels, the right batches in the right order, and an answer to bad data."""

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
import time
from concurrent.futures import ThreadPoolExecutor
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


def copy_sample(folder, names=NAMES):
    """The sample's files in `folder`, with the sums that declare it for what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*names, "MD5SUMS"]:
        shutil.copy(SAMPLE / name, folder)
    return folder


def pixels(iterator):
    return torch.cat([X for X, _ in iterator])


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [None, 28, 96, 224])
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
        assert torch.equal(X, torch.stack(images)) and y.tolist() == list(labels)


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


def test_batches_have_the_shapes_types_and_range_of_the_contract():
    train_iter, test_iter = load_data_fashion_mnist(4, resize=56)
    assert (train_iter.batch_size, train_iter.resize, len(train_iter)) == (4, 56, 3)
    assert train_iter.images.shape == (10, 28, 28) and train_iter.images.dtype == torch.uint8
    for iterator in (train_iter, test_iter):
        batches = list(iterator)
        assert [len(y) for _, y in batches] == [4, 4, 2]  # the last, short batch is kept
        for X, y in batches:
            assert X.shape == (len(y), 1, 56, 56) and X.dtype == torch.float32
            assert y.shape == (len(y),) and y.dtype == torch.int64
            assert y.min() >= 0 and y.max() <= 9 and X.min() == 0
    assert pixels(test_iter).max() == 1  # the whole range is used


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


@pytest.mark.parametrize("at_once", [False, True])
def test_training_order_is_new_each_pass_and_test_order_is_the_files(at_once):
    """Also where two passes go on at once."""
    train_iter, test_iter = load_data_fashion_mnist(4)
    for iterator in (train_iter, test_iter):
        passes = zip(iterator, iterator, strict=True) if at_once else ()
        first, second = zip(*passes, strict=True) if at_once else (iterator, iterator)
        orders = [torch.cat([y for _, y in batches]) for batches in (list(first), list(second))]
        assert torch.equal(orders[0], orders[1]) == (iterator is test_iter)
        for order in orders:
            assert torch.equal(order.sort()[0], iterator.labels.sort()[0])
    assert torch.equal(orders[0], test_iter.labels)
    expected = test_iter.images.unsqueeze(1) / 255
    for X, y in test_iter:  # batches may be written to
        X.zero_()
        y.fill_(99)
    assert torch.equal(pixels(test_iter), expected) and test_iter.labels.max() <= 9


def test_images_keep_their_labels_when_shuffled():
    train_iter, _ = load_data_fashion_mnist(3)
    train_iter.labels = torch.arange(10)
    train_iter.images = train_iter.labels.byte().view(10, 1, 1)
    for X, y in train_iter:
        assert (X * 255).round().flatten().tolist() == y.tolist()


def test_a_seed_gives_the_same_orders_again():
    def two_passes(generator=None):
        train_iter, test_iter = load_data_fashion_mnist(8, generator=generator)
        return torch.cat([pixels(train_iter), pixels(test_iter), pixels(train_iter)])

    def seeded(seed):
        return two_passes(torch.Generator().manual_seed(seed))

    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert torch.equal(seeded(1), seeded(1)) and not torch.equal(seeded(1), seeded(2))
    assert torch.equal(torch.get_rng_state(), state)  # the global one is left alone
    global_seed = two_passes()
    torch.manual_seed(3)
    assert torch.equal(two_passes(), global_seed)
    assert not torch.equal(two_passes(), global_seed)


def test_to_moves_data_and_batches_and_keeps_to_the_same_order():
    train_iter, again = (
        load_data_fashion_mnist(5, 96, generator=torch.Generator().manual_seed(0))[0] for _ in "ab"
    )
    assert train_iter.to("cpu") is train_iter
    there = train_iter.to("meta")  # a device with shapes only, on the path that accelerators take
    assert there is not train_iter and there.to("meta") is there
    assert (len(there), there.batch_size, there.resize) == (2, 5, 96)
    for X, y in there:  # draws the first order
        assert X.shape == (5, 1, 96, 96) and X.dtype == torch.float32 and X.device.type == "meta"
        assert y.shape == (5,) and y.device.type == "meta"
    assert train_iter.images.device.type == "cpu"
    pixels(again)
    assert torch.equal(pixels(train_iter), pixels(again))


def test_mapped_batches_are_the_iterators_own_changed():
    train_iter, test_iter = load_data_fashion_mnist(4)
    flipped = test_iter.map(lambda X: X.flip(-1)).map(lambda X: 2 * X)
    assert len(flipped) == len(test_iter) and flipped.batch_size == 4
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
    assert train_iter.dataset.classes[9] == "ankle boot"


@pytest.mark.parametrize("value", [0, -1, 96.0, True, "128"])
def test_sizes_must_be_positive_ints(value):
    with pytest.raises(ValueError, match="batch_size must be"):
        load_data_fashion_mnist(value)
    with pytest.raises(ValueError, match="resize must be"):
        load_data_fashion_mnist(8, value)


def test_labels_have_names():
    assert get_fashion_mnist_labels(torch.arange(10)) == [
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ]
    with pytest.raises(ValueError, match="labels 0 to 9"):
        get_fashion_mnist_labels([0, 10])


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
    """In `root` in either way, else the environment's, else the cache, else Debian's folder."""
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def is_found(root=None):
        try:
            return len(load_data_fashion_mnist(8, root=root)[0]) == 2
        except FileNotFoundError:
            return False

    given = copy_sample(tmp_path / "my data 数据集 é")
    copy_sample(tmp_path / "as torchvision does" / "FashionMNIST" / "raw")
    monkeypatch.setenv("D2LMINI_DATA", str(tmp_path / "nothing"))
    for root in (given, str(given), "~/my data 数据集 é", tmp_path / "as torchvision does"):
        assert is_found(root)
    copy_sample(tmp_path / "cache" / "d2lmini")
    assert not is_found()
    monkeypatch.setenv("D2LMINI_DATA", str(given))
    assert is_found()
    monkeypatch.delenv("D2LMINI_DATA")
    assert is_found()
    shutil.rmtree(tmp_path / "cache")
    assert not is_found()
    monkeypatch.setattr(data, "DEBIAN_FOLDER", given)
    assert is_found() and is_found(tmp_path / "empty") and not (tmp_path / "empty").exists()


# --- damaged files --------------------------------------------------------------------------------


def flip_a_packed_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


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
        lambda content: b"",
        flip_a_packed_bit,
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


def test_sums_of_other_files_do_not_spoil_good_data(tmp_path):
    sums = (copy_sample(tmp_path) / "MD5SUMS").read_text()
    packed = [hashlib.md5((tmp_path / name).read_bytes()).hexdigest() for name in NAMES]
    lines = ["# packed, then unpacked", "", *map("  ".join, zip(packed, NAMES, strict=True)), sums]
    (tmp_path / "MD5SUMS").write_text("\n".join(lines), "utf-8")
    assert len(load_data_fashion_mnist(8, root=tmp_path)[0].labels) == 10


# --- downloading ----------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves slowly, in two halves, so that downloads overlap and could be seen half done."""

    def do_GET(self):
        server, content = self.server, (self.server.source / self.path.lstrip("/")).read_bytes()
        server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content[: len(content) // 2])
            time.sleep(0.02)
            for file in server.target.glob("*.gz"):
                if file.read_bytes() != (server.source / file.name).read_bytes():
                    server.partial.add(file.name)
            self.wfile.write(content[len(content) // 2 :])
        except (BrokenPipeError, ConnectionResetError):
            pass  # torchvision asks once only to see whether it is redirected

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A mirror of the sample; it notes whether a file that is not whole was ever in place."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.source, server.root = copy_sample(tmp_path / "published"), tmp_path / "user"
        server.requests, server.partial = [], set()
        server.target = copy_sample(server.root / "FashionMNIST" / "raw", [TRAIN_IMAGES])
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        sums = {name: hashlib.md5((SAMPLE / name).read_bytes()).hexdigest() for name in NAMES}
        monkeypatch.setattr(FashionMNIST, "resources", list(sums.items()))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def assert_whole(server):
    assert not server.partial
    assert sorted(os.listdir(server.target)) == sorted([*NAMES, "MD5SUMS"])  # no leftovers
    for name in NAMES:
        assert (server.target / name).read_bytes() == (SAMPLE / name).read_bytes()


def test_what_is_missing_is_downloaded_once(server):
    for num_files in (3, 0):
        assert len(load_data_fashion_mnist(8, root=server.root)[0]) == 2
        assert len(set(server.requests)) == num_files
        assert f"/{TRAIN_IMAGES}" not in server.requests
        server.requests.clear()
    assert_whole(server)


def test_a_server_with_other_bytes_is_refused_and_nothing_kept(server):
    altered = server.source / TEST_LABELS
    altered.write_bytes(alter_a_pixel(altered.read_bytes()))
    with pytest.raises(FileNotFoundError, match=f"{TEST_LABELS} .*corrupted"):
        load_data_fashion_mnist(8, root=server.root)
    assert sorted(os.listdir(server.target)) == sorted([*NAMES[:3], "MD5SUMS"])


def test_a_file_that_another_process_put_there_first_is_used(server, monkeypatch):
    """Windows refuses to replace a file that is being read: the other's is as good."""

    def refuse(source, target):
        shutil.copy(source, target)
        raise PermissionError(13, "The process cannot access the file", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    assert len(load_data_fashion_mnist(8, root=server.root)[0]) == 2
    assert_whole(server)


def test_two_downloads_at_once_both_succeed(server):
    (server.target / TRAIN_IMAGES).unlink()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(load_data_fashion_mnist, 8, root=server.root) for _ in range(2)]
        assert [len(run.result(60)[0]) for run in runs] == [2, 2]
    socket.setdefaulttimeout(None)  # threads share it, unlike processes
    # Both were at it: each asks twice, for a redirection and for the file.
    assert server.requests.count(f"/{TRAIN_IMAGES}") == 4
    assert_whole(server)
