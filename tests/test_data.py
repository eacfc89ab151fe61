"""The loader: PIL's pixels, the right batches in the right order, and an answer to bad data."""

import functools
import gzip
import hashlib
import http.server
import itertools
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from d2lmini import data, get_fashion_mnist_labels, load_data_fashion_mnist
from d2lmini.data import ImageIterator, _resize_axis, resize_like_pil

SAMPLE = Path(__file__).parent / "data" / "FashionMNIST" / "raw"
NAMES = list(data.CHECKSUMS)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing is fetched but from a server of the test; Debian's folder is not looked into."""
    monkeypatch.setattr(data, "DEBIAN_FOLDER", Path("/nonexistent"))
    monkeypatch.setattr(FashionMNIST, "mirrors", [closed_port()])


@pytest.fixture
def full_data(monkeypatch):
    """Root of the whole data set, gzipped; a machine without it skips, CI on Linux may not."""
    debian = Path("/usr/share/datasets/fashion-mnist")
    if not (debian / TRAIN_IMAGES).is_file():
        if os.environ.get("CI") == "true" and sys.platform == "linux":
            pytest.fail(f"CI must have the package dataset-fashion-mnist: {debian} is missing")
        pytest.skip("needs Fashion-MNIST: apt-get install dataset-fashion-mnist")
    return debian


def closed_port():
    with socket.socket() as listener:  # a port that is free, hence refuses connections
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def copy_sample(folder, names=NAMES):
    """The sample's files in `folder`, with the sums that declare it for what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*names, "MD5SUMS"]:
        shutil.copy(SAMPLE / name, folder)
    return folder


def reference(root, source, train, side):
    """torchvision's data set over PIL images, as the reference d2l reads it."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        unpacked = raw / name.removesuffix(".gz")
        if not unpacked.exists():
            unpacked.write_bytes(gzip.decompress((source / name).read_bytes()))
    steps = [] if side is None else [transforms.Resize(side)]
    return FashionMNIST(root, train=train, transform=transforms.Compose([*steps, to_tensor]))


to_tensor = transforms.ToTensor()


def pil_resize(images, side):
    """uint8 (N, H, H) to uint8 (N, side, side) through PIL, one image after another."""
    resized = [Image.fromarray(i.numpy()).resize((side, side), Image.BILINEAR) for i in images]
    return (torch.stack([to_tensor(i) for i in resized]) * 255).round().to(torch.uint8).squeeze(1)


def compare_with_reference(unpacked, source, side, **kwargs):
    """Compare every pixel and label with the reference's; return the numbers of images."""
    counts = []
    iterators = load_data_fashion_mnist(500, side, **kwargs)
    for train, iterator in zip((True, False), iterators, strict=True):
        expected = iter(reference(unpacked, source, train, side))
        in_order = ImageIterator(iterator.images, iterator.labels, 500, side)
        for X, y in in_order:
            images, labels = zip(*itertools.islice(expected, len(y)), strict=True)
            assert torch.equal(X, torch.stack(images)) and y.tolist() == list(labels)
        assert next(expected, None) is None
        counts.append(len(iterator.labels))
    return counts


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [None, 28, 96, 224])
def test_pixels_are_those_of_pil(tmp_path, side):
    assert compare_with_reference(tmp_path, SAMPLE, side) == [10, 10]


@pytest.mark.full
@pytest.mark.parametrize("side", [28, 96, 224])
def test_all_70000_images_have_the_pixels_of_pil(tmp_path, full_data, side):
    assert compare_with_reference(tmp_path, full_data, side, root=full_data) == [60_000, 10_000]


@pytest.mark.parametrize("side", [1, 20, 27, 28, 29, 64, 96, 100, 224, 227])
def test_any_device_resizes_as_pil_does(side):
    torch.manual_seed(side)
    images = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
    images[10:] = (images[10:] > 127) * 255  # the steepest edges
    expected = pil_resize(images, side)
    assert torch.equal(_resize_axis(_resize_axis(images, side, dim=2), side, dim=1), expected)
    assert torch.equal(resize_like_pil(images, side), expected)


@pytest.mark.parametrize(
    "side", [s if s == 96 else pytest.param(s, marks=pytest.mark.full) for s in data.PROVEN_SIDES]
)
def test_fast_kernel_gives_pils_pixels_for_every_pair_of_grey_values(side):
    """A pixel that a pass makes blends two neighbours, so all pairs are all cases.

    96 is the interesting one: at the other sides the weights are short binary fractions.
    """
    grey = torch.arange(256, dtype=torch.uint8)
    pairs = torch.stack([grey.repeat_interleave(256), grey.repeat(256)], dim=1)
    images = pairs.repeat(1, 14)[torch.arange(2341 * 28) % 65536].view(-1, 28, 28)
    for oriented in (images, images.transpose(1, 2).contiguous()):  # across, then down
        for part in oriented.split(200):
            exact = _resize_axis(_resize_axis(part, side, dim=2), side, dim=1)
            assert torch.equal(resize_like_pil(part, side), exact)


# --- batches --------------------------------------------------------------------------------------


def test_batches_have_the_shapes_types_and_range_of_the_contract():
    train_iter, test_iter = load_data_fashion_mnist(4, resize=56)
    assert (len(train_iter), len(test_iter)) == (3, 3)
    assert (train_iter.batch_size, train_iter.resize) == (4, 56)
    assert train_iter.images.shape == (10, 28, 28) and train_iter.images.dtype == torch.uint8
    for iterator in (train_iter, test_iter):
        batches = list(iterator)
        assert [len(y) for _, y in batches] == [4, 4, 2]  # the last, short batch is kept
        for X, y in batches:
            assert X.shape == (len(y), 1, 56, 56) and X.dtype == torch.float32
            assert y.shape == (len(y),) and y.dtype == torch.int64
            assert X.device.type == y.device.type == "cpu"
            assert X.min() >= 0 and X.max() <= 1
            assert y.min() >= 0 and y.max() <= 9
    assert torch.cat([X for X, _ in test_iter]).max() == 1  # the whole range is used


def test_full_data_has_469_and_79_batches_of_128(full_data):
    train_iter, test_iter = load_data_fashion_mnist(128, root=full_data)
    assert (len(train_iter), len(test_iter)) == (469, 79)
    assert len(train_iter.labels) == 60_000 and len(test_iter.labels) == 10_000
    assert sum(len(y) for _, y in test_iter) == 10_000
    assert train_iter.labels.bincount().tolist() == [6000] * 10


def test_one_batch_may_hold_everything():
    train_iter, _ = load_data_fashion_mnist(1000)
    ((X, y),) = train_iter
    assert len(train_iter) == 1 and len(X) == len(y) == 10


def test_training_order_is_new_each_epoch_and_test_order_is_the_files():
    train_iter, test_iter = load_data_fashion_mnist(4)
    first, second = pixels(train_iter), pixels(train_iter)
    assert not torch.equal(first, second)
    every = train_iter.images.unsqueeze(1) / 255
    assert sorted(first.sum((1, 2, 3)).tolist()) == sorted(every.sum((1, 2, 3)).tolist())
    assert torch.equal(pixels(test_iter), test_iter.images.unsqueeze(1) / 255)
    assert torch.equal(torch.cat([y for _, y in test_iter]), test_iter.labels)


def pixels(iterator):
    return torch.cat([X for X, _ in iterator])


def test_images_keep_their_labels_when_shuffled():
    train_iter, _ = load_data_fashion_mnist(3)
    label_of = {
        image.numpy().tobytes(): label
        for image, label in zip(train_iter.images, train_iter.labels.tolist(), strict=True)
    }
    for X, y in train_iter:
        for image, label in zip(X, y.tolist(), strict=True):
            key = (image[0] * 255).round().to(torch.uint8).numpy().tobytes()
            assert label_of[key] == label


def test_a_seed_gives_the_same_orders_again():
    def two_epochs(**kwargs):
        train_iter, _ = load_data_fashion_mnist(8, **kwargs)
        return torch.cat([pixels(train_iter), pixels(train_iter)])

    def seeded(seed):
        return two_epochs(generator=torch.Generator().manual_seed(seed))

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    torch.manual_seed(3)
    global_seed = two_epochs()
    torch.manual_seed(3)
    assert torch.equal(two_epochs(), global_seed)
    torch.manual_seed(3)
    torch.rand(1)
    assert not torch.equal(two_epochs(), global_seed)


def test_own_generator_leaves_the_global_one_alone():
    train_iter, test_iter = load_data_fashion_mnist(8, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    pixels(train_iter), pixels(test_iter)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_passes_at_once_are_independent():
    train_iter, test_iter = load_data_fashion_mnist(4)
    for iterator in (train_iter, test_iter):
        left, right = [], []
        for (_, y_left), (_, y_right) in zip(iterator, iterator, strict=True):
            left.append(y_left)
            right.append(y_right)
        for labels in (left, right):
            assert torch.equal(torch.cat(labels).sort()[0], iterator.labels.sort()[0])


def test_batches_may_be_written_to():
    _, test_iter = load_data_fashion_mnist(4)
    before = pixels(test_iter)
    for X, y in test_iter:
        X.zero_()
        y.zero_()
    assert torch.equal(pixels(test_iter), before)
    assert test_iter.labels.sum() > 0


def test_to_moves_data_and_batches():
    train_iter, _ = load_data_fashion_mnist(5, resize=96)
    assert train_iter.to("cpu") is train_iter
    there = train_iter.to("meta")  # a device with shapes only, on the path that accelerators take
    assert there is not train_iter and there.to("meta") is there
    assert there.images.device.type == there.labels.device.type == "meta"
    assert (len(there), there.batch_size, there.resize) == (2, 5, 96)
    for X, y in there:
        assert X.shape == (5, 1, 96, 96) and X.dtype == torch.float32 and X.device.type == "meta"
        assert y.shape == (5,) and y.device.type == "meta"
    assert train_iter.images.device.type == "cpu"


def test_to_keeps_to_the_same_order_of_the_same_generator():
    train_iter, _ = load_data_fashion_mnist(8, generator=torch.Generator().manual_seed(0))
    there = train_iter.to("meta")
    list(there)  # draws the first order
    second = pixels(train_iter)
    again, _ = load_data_fashion_mnist(8, generator=torch.Generator().manual_seed(0))
    pixels(again)
    assert torch.equal(second, pixels(again))


@pytest.mark.parametrize("batch_size", [0, -1, 1.0, 128.5, True, "128", None])
def test_batch_size_must_be_a_positive_int(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a positive int, got"):
        load_data_fashion_mnist(batch_size)


@pytest.mark.parametrize("resize", [0, -96, 96.0, False, True, "96", (96, 96)])
def test_resize_must_be_a_positive_int(resize):
    with pytest.raises(ValueError, match="resize must be a positive int, got"):
        load_data_fashion_mnist(8, resize)


def test_labels_have_names():
    names = get_fashion_mnist_labels(torch.arange(10))
    assert ", ".join(names) == (
        "t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot"
    )
    assert get_fashion_mnist_labels([9, 0]) == ["ankle boot", "t-shirt"]


# --- where the files are --------------------------------------------------------------------------


def test_without_data_and_network_the_error_names_the_three_ways(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_data_fashion_mnist(8, root=tmp_path / "empty")
    message = str(caught.value)
    for part in [
        *NAMES,
        "network",
        "D2LMINI_DATA",
        "dataset-fashion-mnist",
        str(tmp_path / "empty"),
    ]:
        assert part in message
    assert "refused" in message  # and why the download failed
    assert not list(tmp_path.rglob("*.gz")) and not list(tmp_path.rglob("tmp*"))


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "NETWORK_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(FashionMNIST, "mirrors", [mirror])
        with pytest.raises(FileNotFoundError, match="timed out"):
            load_data_fashion_mnist(8, root=tmp_path)
    assert socket.getdefaulttimeout() is None  # the program's own setting is back


def test_a_folder_with_some_of_the_files_names_the_first_that_is_missing(tmp_path):
    copy_sample(tmp_path, [TRAIN_IMAGES, TRAIN_LABELS, TEST_LABELS])
    with pytest.raises(FileNotFoundError, match=f"incomplete: {TEST_IMAGES} is neither in"):
        load_data_fashion_mnist(8, root=tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileNotFoundError, match=r"file.below.*can be written to"):
        load_data_fashion_mnist(8, root=tmp_path / "file" / "below")


def test_files_are_found_in_either_place_below_any_path(tmp_path):
    root = tmp_path / "my data 数据集 é"
    copy_sample(root)
    assert len(load_data_fashion_mnist(8, root=root)[0]) == 2
    assert len(load_data_fashion_mnist(8, root=str(root))[0]) == 2
    copy_sample(tmp_path / "as torchvision does" / "FashionMNIST" / "raw")
    assert len(load_data_fashion_mnist(8, root=tmp_path / "as torchvision does")[0]) == 2


def test_root_goes_before_the_environment_and_that_before_the_cache(tmp_path, monkeypatch):
    given = copy_sample(tmp_path / "given")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / TRAIN_IMAGES).write_bytes(b"bad")
    monkeypatch.setenv("D2LMINI_DATA", str(tmp_path / "bad"))
    assert len(load_data_fashion_mnist(8, root=given)[0]) == 2
    with pytest.raises(FileNotFoundError, match="bad"):
        load_data_fashion_mnist(8)
    monkeypatch.setenv("D2LMINI_DATA", str(given))
    assert len(load_data_fashion_mnist(8)[0]) == 2
    monkeypatch.delenv("D2LMINI_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"cache.d2lmini"):
        load_data_fashion_mnist(8)
    copy_sample(tmp_path / "cache" / "d2lmini")
    assert len(load_data_fashion_mnist(8)[0]) == 2


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    copy_sample(tmp_path / "data")
    assert len(load_data_fashion_mnist(8, root="~/data")[0]) == 2


def test_debians_folder_serves_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", copy_sample(tmp_path / "debian"))
    train_iter, _ = load_data_fashion_mnist(8, root=tmp_path / "empty")
    assert len(train_iter) == 2 and not (tmp_path / "empty").exists()


def test_debians_package_holds_the_published_data(tmp_path, monkeypatch, full_data):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", full_data)
    train_iter, test_iter = load_data_fashion_mnist(8, root=tmp_path / "empty")
    assert (len(train_iter.labels), len(test_iter.labels)) == (60_000, 10_000)


# --- damaged files --------------------------------------------------------------------------------


def truncate(content):
    return content[: len(content) // 2]


def other_bytes(content):
    return b"<html>please log in to this network</html>"


def flip_a_packed_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def alter_a_pixel(content):
    unpacked = bytearray(gzip.decompress(content))
    unpacked[-1] ^= 1
    return gzip.compress(bytes(unpacked))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage", [truncate, other_bytes, lambda content: b"", flip_a_packed_bit, alter_a_pixel]
)
def test_a_damaged_file_is_named(tmp_path, name, damage):
    file = copy_sample(tmp_path) / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RuntimeError, match=f"{re.escape(str(file))} does not hold.*delete it"):
        load_data_fashion_mnist(8, root=tmp_path)
    assert file.is_file()  # the user's file: it is not ours to delete


def test_files_swapped_are_named(tmp_path):
    copy_sample(tmp_path)
    (tmp_path / TEST_LABELS).replace(tmp_path / TRAIN_LABELS)
    shutil.copy(SAMPLE / TEST_LABELS, tmp_path)
    with pytest.raises(RuntimeError, match=f"{TRAIN_LABELS} does not hold"):
        load_data_fashion_mnist(8, root=tmp_path)


def test_without_declared_sums_only_fashion_mnist_itself_is_taken(tmp_path):
    (copy_sample(tmp_path) / "MD5SUMS").unlink()
    with pytest.raises(RuntimeError, match=f"{TRAIN_IMAGES} does not hold"):
        load_data_fashion_mnist(8, root=tmp_path)


def test_sums_of_other_files_do_not_spoil_good_data(tmp_path):
    sums = (copy_sample(tmp_path) / "MD5SUMS").read_text()
    packed = [hashlib.md5((tmp_path / name).read_bytes()).hexdigest() for name in NAMES]
    lines = ["# packed, then unpacked", "", *map("  ".join, zip(packed, NAMES, strict=True)), sums]
    (tmp_path / "MD5SUMS").write_text("\n".join(lines), "utf-8")
    train_iter, _ = load_data_fashion_mnist(8, root=tmp_path)
    assert len(train_iter.labels) == 10


# --- downloading ----------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves slowly, in two halves, so that downloads overlap and could be seen half done."""

    def do_GET(self):
        content = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        self.server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        try:
            self.wfile.write(content[:half])
            time.sleep(0.02)
            self.server.seen |= {file.name for file in self.server.target.glob("*.gz")}
            self.server.check_whole()
            self.wfile.write(content[half:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # torchvision asks once only to see whether it is redirected

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A mirror of the sample; it notes whether a file that is not whole was ever in place."""
    source = copy_sample(tmp_path / "published")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=source)
    ) as server:
        server.source, server.requests, server.seen, server.partial = source, [], set(), set()
        server.root = tmp_path / "user"
        server.target = server.root / "FashionMNIST" / "raw"
        server.target.mkdir(parents=True)
        shutil.copy(SAMPLE / "MD5SUMS", server.target)
        server.url = f"http://127.0.0.1:{server.server_port}/"

        def check_whole():
            for file in server.target.glob("*.gz"):
                if file.read_bytes() != (source / file.name).read_bytes():
                    server.partial.add(file.name)

        server.check_whole = check_whole
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def published_sums():
    return [(name, hashlib.md5((SAMPLE / name).read_bytes()).hexdigest()) for name in NAMES]


def assert_whole(server):
    assert not server.partial
    assert sorted(os.listdir(server.target)) == sorted([*NAMES, "MD5SUMS"])  # no leftovers
    for name in NAMES:
        assert (server.target / name).read_bytes() == (SAMPLE / name).read_bytes()


def test_what_is_missing_is_downloaded_once(server, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "mirrors", [server.url])
    monkeypatch.setattr(FashionMNIST, "resources", published_sums())
    shutil.copy(SAMPLE / TRAIN_IMAGES, server.target)
    assert len(load_data_fashion_mnist(8, root=server.root)[0]) == 2
    assert f"/{TRAIN_IMAGES}" not in server.requests
    assert_whole(server)
    server.requests.clear()
    load_data_fashion_mnist(8, root=server.root)
    assert server.requests == []


def test_a_server_with_other_bytes_is_refused_and_nothing_kept(server, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "mirrors", [server.url])
    monkeypatch.setattr(FashionMNIST, "resources", published_sums())
    altered = server.source / TEST_LABELS
    altered.write_bytes(alter_a_pixel(altered.read_bytes()))
    with pytest.raises(FileNotFoundError, match=f"{TEST_LABELS} .*corrupted"):
        load_data_fashion_mnist(8, root=server.root)
    assert sorted(os.listdir(server.target)) == sorted(
        [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, "MD5SUMS"]
    )


def test_the_published_sums_are_those_of_torchvision():
    assert list(dict(FashionMNIST.resources)) == NAMES


def test_a_file_that_another_process_put_there_first_is_used(server, monkeypatch):
    """Windows refuses to replace a file that is being read: the other's is as good."""

    def refuse(source, target):
        shutil.copy(source, target)
        raise PermissionError(13, "The process cannot access the file", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(FashionMNIST, "mirrors", [server.url])
    monkeypatch.setattr(FashionMNIST, "resources", published_sums())
    assert len(load_data_fashion_mnist(8, root=server.root)[0]) == 2
    assert_whole(server)


# --- other processes (spawned, as on Windows and macOS) -------------------------------------------

barrier = None


def remember(shared_barrier):
    global barrier
    barrier = shared_barrier


@pytest.fixture(scope="module")
def two_processes():
    context = multiprocessing.get_context("spawn")
    shared = context.Barrier(2)
    with ProcessPoolExecutor(2, context, remember, (shared,)) as pool:
        yield pool


def load_at_once(url, root, sums):
    """Runs in a process of its own: load what the server at `url` has, when the other does."""
    FashionMNIST.mirrors, FashionMNIST.resources = [url], sums
    data.DEBIAN_FOLDER = Path("/nonexistent")
    barrier.wait(60)
    train_iter, test_iter = load_data_fashion_mnist(8, root=root)
    return os.getpid(), len(train_iter.labels), len(test_iter.labels)


def labels_of(iterator):
    return os.getpid(), [y.tolist() for _, y in iterator]


@pytest.mark.slow
def test_two_processes_that_download_at_once_both_succeed(two_processes, server):
    arguments = (server.url, server.root, published_sums())
    runs = [two_processes.submit(load_at_once, *arguments) for _ in range(2)]
    (first, *sizes), (second, *other_sizes) = (run.result(60) for run in runs)
    assert first != second and sizes == other_sizes == [10, 10]
    # Both were at it: each asks twice, for a redirection and for the file.
    assert server.requests.count(f"/{TRAIN_IMAGES}") == 4
    assert_whole(server)


@pytest.mark.slow
def test_iterators_are_pickled_to_spawned_processes(two_processes):
    generator = torch.Generator().manual_seed(0)
    train_iter, test_iter = load_data_fashion_mnist(8, resize=96, generator=generator)
    for iterator in (train_iter, test_iter):
        pid, labels = two_processes.submit(labels_of, iterator).result(60)
        assert pid != os.getpid() and labels == [y.tolist() for _, y in iterator]
    copy = pickle.loads(pickle.dumps(test_iter))
    assert torch.equal(pixels(copy), pixels(test_iter))
