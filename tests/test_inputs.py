"""What readers bring to the helper: it works, or is refused before time is lost, in a sentence.

The cases are readers' own, from public reports; kinds are tried rather than single reports.
"""

import contextlib
import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

import d2lmini as d2l
from d2lmini import animator, data
from d2lmini.figures import inline_svg

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "data" / "FashionMNIST" / "raw"


def images(num=12, channels=1, side=8, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(num, channels, side, side, generator=generator)
    return X, torch.arange(num) % num_classes


def batches(num=12, size=4, **options):
    X, y = images(num, **options)
    return list(zip(X.split(size), y.split(size), strict=True))


def small_net(num_classes=3, channels=1):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, num_classes),
    )  # fmt: skip


def train(net, train_iter, test_iter=None, num_epochs=1, **options):
    test_iter = train_iter if test_iter is None else test_iter
    return d2l.train_ch6(net, train_iter, test_iter, num_epochs, 0.1, "cpu", **options)


@contextlib.contextmanager
def refused(net, *words):
    """Refused before the first step, in a message that has all the words."""
    before = copy.deepcopy(net.state_dict())
    steps = []
    hook = torch.optim.SGD.step
    torch.optim.SGD.step = lambda *args, **options: steps.append(1) or hook(*args, **options)
    try:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            yield
    finally:
        torch.optim.SGD.step = hook
    assert not steps, "it trained before it refused"
    assert before.keys() == net.state_dict().keys()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert len(str(caught.value)) < 600


# --- networks -------------------------------------------------------------------------------------


def lazy_and_explicit(lazy):
    """A network in the way of d2l's English edition, and the same with its sizes written out."""
    torch.manual_seed(5)
    if lazy:
        conv, linear, norm = nn.LazyConv2d, nn.LazyLinear, nn.LazyBatchNorm2d()
        sizes = [(4, 3), (6, 3), (16,), (3,)]
    else:
        conv, linear, norm = nn.Conv2d, nn.Linear, nn.BatchNorm2d(4)
        sizes = [(1, 4, 3), (4, 6, 3), (96, 16), (16, 3)]
    return nn.Sequential(
        conv(*sizes[0]), norm, nn.ReLU(), conv(*sizes[1]), nn.ReLU(), nn.Flatten(),
        linear(*sizes[2]), nn.ReLU(), nn.Dropout(0.5), linear(*sizes[3]),
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_lazy_layers_train_to_the_bit_as_with_their_sizes_written_out(precision):
    nets, histories = [], []
    for lazy in (True, False):
        nets.append(lazy_and_explicit(lazy))
        history = train(nets[-1], batches(), num_epochs=2, seed=3, precision=precision)
        histories.append((history.train_loss, history.test_acc))
    assert histories[0] == histories[1]
    state, other = (net.state_dict() for net in nets)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_sizes_are_found_without_touching_the_statistics(monkeypatch):
    net = lazy_and_explicit(lazy=True)
    monkeypatch.setattr(d2l.train.TrainingRun, "train_epoch", lambda self, _: _end(self))
    train(net, batches())
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].running_mean, torch.zeros(4))
    assert torch.equal(net[1].running_var, torch.ones(4))


def _end(run):
    run.history.stopped = "ended by the test"


def test_a_lazy_layer_that_forward_does_not_use_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.LazyLinear(3), nn.LazyLinear(3)

        def forward(self, X):
            return self.used(X.flatten(1))

    net = Net()
    with pytest.raises(ValueError, match="layer spare still waits for its first input"):
        train(net, batches())


def test_torchvisions_network_with_several_outputs():
    net = models.googlenet(num_classes=3, init_weights=False)
    with refused(net, "GoogLeNetOutputs", "3 values", "one tensor of scores", "aux_logits=False"):
        train(net, batches(channels=3, side=224, num=2, size=2))


class Returns(nn.Module):
    """A network that returns its scores in some wrapping."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = small_net(), wrap

    def forward(self, X):
        return self.wrap(self.net(X))


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda s: {"out": s}, ["a dict with the keys 'out'", "wrap it in a module"]),
        (lambda s: (s, s), ["a tuple of 2 values"]),
        (lambda s: None, ["a NoneType", "one tensor of scores"]),
        (lambda s: s[:, :, None, None], ["(4, num_classes)", "(4, 3, 1, 1)", "nn.Flatten()"]),
        (lambda s: s.mean(), ["(4, num_classes)", "()"]),
    ],
)
def test_outputs_that_are_no_scores(wrap, words):
    net = Returns(wrap)
    with refused(net, *words):
        train(net, batches())


@pytest.mark.parametrize(
    ("wanted", "given", "words"),
    [
        (3, 1, ["takes (B, 3, H, W)", "got (4, 1, 8, 8), with 1", "in_channels=1", "expand"]),
        (1, 3, ["takes (B, 1, H, W)", "got (4, 3, 8, 8), with 3", "Grayscale()"]),
        (4, 2, ["takes (B, 4, H, W)", "with 2", "in_channels=2"]),
    ],
)
def test_channels_that_do_not_fit(wanted, given, words):
    net = small_net(channels=wanted)
    with refused(net, "layer 0, Conv2d", *words):
        train(net, batches(channels=given))
    with refused(net, "test_iter", *words):
        train(net, batches(channels=wanted), batches(channels=given))
    with pytest.raises(ValueError, match="data_iter") as caught:
        d2l.evaluate_accuracy_gpu(net, batches(channels=given))
    assert all(word in str(caught.value) for word in words)


def test_torchvisions_alexnet_on_grey_images():
    net = models.alexnet(num_classes=10)
    with refused(net, "features.0, Conv2d", "images with 3 channels", "in_channels=1"):
        train(net, batches(2, 2, side=64))


@pytest.mark.parametrize("softmax", [nn.Softmax(dim=1), lambda scores: F.softmax(scores, dim=1)])
def test_a_network_that_ends_in_softmax_is_told_of_once(softmax, capsys):
    net = Returns(softmax)
    history = train(net, batches(), num_epochs=2)
    assert len(history.test_acc) == 2
    assert capsys.readouterr().out.count("probabilities already (softmax)") == 1
    train(Returns(nn.LogSoftmax(dim=1)), batches())  # the loss is the same with it
    train(small_net(), batches())
    assert "note" not in capsys.readouterr().out


def test_a_compiled_network_trains_as_it_does_itself():
    net, twin = small_net(), small_net()
    history = train(torch.compile(net, backend="eager"), batches(), seed=0, num_epochs=2)
    assert history.train_loss == train(twin, batches(), seed=0, num_epochs=2).train_loss
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


def test_what_is_frozen_is_left_as_it_is():
    net = small_net()
    net[0].requires_grad_(False)
    before = [p.clone() for p in net[0].parameters()]
    head = net[4].weight.clone()
    train(net, batches())
    assert all(map(torch.equal, before, net[0].parameters()))
    assert not torch.equal(head, net[4].weight)


def test_training_goes_on_from_given_weights():
    net = small_net()
    train(net, batches(), num_epochs=2, seed=0)
    given = copy.deepcopy(net)
    loss = F.cross_entropy(given(images()[0]), images()[1]).item()
    history = train(net, batches(), init_weights=False)
    assert history.train_loss[0] == pytest.approx(loss, rel=0.1)
    optimizer = torch.optim.SGD(given.parameters(), 0.1)
    for X, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(given(X), y).backward()
        optimizer.step()
    for own, other in zip(net.parameters(), given.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


def norm_net(kind):
    if kind == "vectors":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))


def test_a_last_batch_of_one_image_and_batch_normalisation():
    X, y = images(17)
    loader = DataLoader(TensorDataset(X, y), 16)
    net = norm_net("vectors")
    with refused(net, "more than one image", "17 images in batches of 16", "15 or 17", "drop_last"):
        train(net, loader)
    with refused(net, "train_iter has a batch of one image", "another batch"):
        train(net, list(loader))
    assert train(norm_net("maps"), loader).test_acc  # which has several values an image
    assert train(net, DataLoader(TensorDataset(X, y), 16, drop_last=True), loader).test_acc
    assert train(net, DataLoader(TensorDataset(X, y), 15), loader).test_acc

    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(X, y, strict=True)

    with pytest.raises(ValueError, match=r"\(1, 5\)|more than one image; choose a batch size"):
        train(net, DataLoader(Stream(), 16))


def test_flatten_forgotten_before_a_linear_layer():
    net = nn.Sequential(nn.Linear(784, 3))
    with refused(net, "layer 0, Linear", "784 features", "(4, 1, 28, 28)", "nn.Flatten() before"):
        train(net, batches(side=28))


@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
@pytest.mark.parametrize(
    ("side", "words"),
    [(10, ["layer 4, Linear", "64 features", "got 100", "resize"]),
     (1, ["layer 2, MaxPool2d", "window of 2×2", "1×1", "too small", "resize"])],
)  # fmt: skip
def test_sizes_that_do_not_fit(which, side, words):
    net = small_net()
    given = {"train_iter": batches(), "test_iter": batches(), which: batches(side=side)}
    with refused(net, f"the images of {which}, (4, 1, {side}, {side})", *words):
        train(net, given["train_iter"], given["test_iter"])


def test_a_network_of_functions_is_explained_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 64))

        def forward(self, X):
            return F.linear(X.flatten(1), self.weight)

    net = Net()
    with refused(net, "the network does not take", "(4, 1, 10, 10)", "resize"):
        train(net, batches(side=10))


# --- batches --------------------------------------------------------------------------------------


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool, torch.float32, torch.float64])
def test_labels_of_any_width(dtype):
    num_classes = 2 if dtype == torch.bool else 3
    expected = train(small_net(), batches(num_classes=num_classes), seed=0, num_epochs=2)
    other = [(X, y.to(dtype)) for X, y in batches(num_classes=num_classes)]
    history = train(small_net(), other, seed=0, num_epochs=2)
    assert (history.train_loss, history.test_acc) == (expected.train_loss, expected.test_acc)
    net = small_net()
    expected = d2l.evaluate_accuracy_gpu(net, batches(num_classes=num_classes))
    assert d2l.evaluate_accuracy_gpu(net, other) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("of_net", [torch.float32, torch.float64])
def test_images_of_any_width(dtype, of_net):
    expected = train(small_net().to(of_net), batches(), seed=0)
    given = [(X.to(dtype), y) for X, y in batches()]
    history = train(small_net().to(of_net), given, seed=0)
    assert history.train_loss == pytest.approx(expected.train_loss, abs=0.02)
    assert d2l.evaluate_accuracy_gpu(small_net().to(of_net), given) >= 0


def test_bytes_are_explained():
    net = small_net()
    with refused(net, "layer 0, Conv2d", "torch.uint8", "/ 255"):
        train(net, [((X * 255).to(torch.uint8), y) for X, y in batches()])


def test_arrays_of_numpy_are_batches():
    arrays = [(X.numpy(), y.numpy().astype(np.int16)) for X, y in batches()]
    history = train(small_net(), arrays, seed=0)
    assert history.train_loss == train(small_net(), batches(), seed=0).train_loss


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda X, y: (X, y, y), ["pairs (X, y)", "a tuple of 3", "(4, 1, 8, 8)"]),
        (lambda X, y: {"image": X, "label": y}, ["pairs (X, y)", "keys 'image', 'label'"]),
        (lambda X, y: X, ["pairs (X, y)", "a tensor of shape (4, 1, 8, 8)"]),
        (lambda X, y: (X, tuple("cat" for _ in y)), ["texts, such as 'cat'", "number the classes"]),
        (lambda X, y: (["a.png"] * 4, y), ["pairs (X, y) of tensors", "a list of 4"]),
        (lambda X, y: (X, F.one_hot(y)), ["whole numbers of shape (B,)", "(4, 3)"]),
        (lambda X, y: (X, y + 0.5), ["whole numbers of shape (B,)", "torch.float32"]),
        (lambda X, y: (X, y[:2]), ["4 images and 2 labels"]),
        (lambda X, y: (X[:0], y[:0]), ["0 images and 0 labels"]),
        (lambda X, y: (X, y + 1), ["labels from 1 to 3", "0 to 2", "number the classes from 0"]),
        (lambda X, y: (X, y - 1), ["labels from -1 to 1", "labels start at 0"]),
        (lambda X, y: (X, y * 2), ["labels from 0 to 4", "5 outputs"]),
        (lambda X, y: (X.permute(0, 2, 3, 1), y), ["channels stand last", "permute(0, 3, 1, 2)"]),
        (lambda X, y: (X[:, 0], y), ["without an axis for the channels", "unsqueeze(1)"]),
    ],
)
@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
def test_batches_that_are_no_images_with_labels(make, words, which):
    net = small_net()
    wrong = [make(X, y) for X, y in batches()]
    given = {"train_iter": batches(), "test_iter": batches(), which: wrong}
    with refused(net, which, *words):
        train(net, given["train_iter"], given["test_iter"])
    with pytest.raises(ValueError, match="data_iter") as caught:
        d2l.evaluate_accuracy_gpu(net, wrong)
    if "labels from" not in words[0]:  # of the first batch, not of all
        assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("given", [None, 7, nn.Linear(2, 2)])
def test_what_yields_no_batches(given):
    net = small_net()
    with refused(net, "train_iter must yield batches (X, y)"):
        train(net, given, batches())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("number", [1, 3])
def test_images_that_are_not_finite(value, number):
    wrong = batches()
    wrong[number - 1][0][2, 0, 1, 1] = value
    for which in ("train_iter", "test_iter", "data_iter"):
        with pytest.raises(ValueError, match=rf"batch {number} of {which} .*not finite") as caught:
            if which == "train_iter":
                train(small_net(), wrong, batches())
            elif which == "test_iter":
                train(small_net(), batches(), wrong)
            else:
                d2l.evaluate_accuracy_gpu(small_net(), wrong)
        assert "learning rate" not in str(caught.value)


def test_values_that_are_large_but_finite_pass(capsys):
    train(small_net(), [(X * 1e38, y) for X, y in batches()])  # their sum is infinite
    assert "the loss became" in capsys.readouterr().out


def test_images_from_0_to_255_get_a_word(capsys):
    train(small_net(), [(X * 255, y) for X, y in batches()])
    out = capsys.readouterr().out
    assert out.count("images go up to 25") == 1 and "divide by 255" in out
    train(small_net(), [((X - 0.3) / 0.3, y) for X, y in batches()])
    assert "note" not in capsys.readouterr().out


def test_pictures_of_a_folder(tmp_path):
    for name in ("bag", "coat", "shirt"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / "1.png")
    net = small_net()
    colour = ImageFolder(tmp_path, transforms.ToTensor())
    with refused(net, "got (3, 3, 8, 8)", "Grayscale()"):
        train(net, DataLoader(colour, 4))
    grey = ImageFolder(tmp_path, transforms.Compose([transforms.Grayscale(), colour.transform]))
    assert len(train(net, DataLoader(grey, 4)).test_acc) == 1
    raw = DataLoader(
        ImageFolder(tmp_path), 4, collate_fn=lambda items: tuple(zip(*items, strict=True))
    )
    with refused(net, "pairs (X, y) of tensors", "ToTensor()"):
        train(net, raw)


@pytest.mark.parametrize("kind", [[], iter([]), DataLoader(TensorDataset(*images(0)), 4)])
@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
def test_data_without_a_batch(kind, which):
    net = small_net()
    if which == "test_iter" and not hasattr(kind, "__len__"):  # found when it is looked for
        history = train(net, batches(), kind)
        assert len(history.train_loss) == 1 and "test_iter yields no batch" in history.stopped
        return
    given = {"train_iter": batches(), "test_iter": batches(), which: kind}
    with refused(net, which, "yields no batch"):
        train(net, given["train_iter"], given["test_iter"])


def test_test_labels_beyond_the_scores_that_only_the_last_batches_have():
    X, y = images(400)
    y[-1] = 9
    net = small_net()
    for loader in (
        DataLoader(TensorDataset(X, y), 4),
        DataLoader([(x, int(label)) for x, label in zip(X, y, strict=True)], 4),
        list(DataLoader(TensorDataset(X, y), 4)),
        data.ImageIterator((X[:, 0] * 255).to(torch.uint8), y, 4),
    ):
        with refused(net, "test_iter has labels from 0 to 9", "10 outputs"):
            train(net, batches(), loader)
        with pytest.raises(ValueError, match="data_iter has labels"):
            d2l.evaluate_accuracy_gpu(net, loader)


class Ending(list):
    """Batches that fail or are gone in the third pass."""

    passes, then = 0, None

    def __iter__(self):
        self.passes += 1
        return iter(self.then if self.passes == 3 else list(super().__iter__()))


@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
@pytest.mark.parametrize("then", [[], batches(channels=3), [(torch.zeros(2), "ab")]])
def test_what_was_trained_is_not_lost(which, then, capsys):
    given = {"train_iter": batches(), "test_iter": batches(), which: Ending(batches())}
    given[which].then = then
    history = train(small_net(), given["train_iter"], given["test_iter"], num_epochs=5)
    assert len(history.test_acc) == 2 and history.stopped
    assert "stopped early, 2 whole epochs done" in capsys.readouterr().out


def test_a_data_loader_draws_no_other_random_numbers_than_before():
    """Looking at the first batch changes neither the order nor what comes after."""
    seen = []

    class Seen(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            seen.append(index)
            return images()[0][index], images()[1][index]

    def order(make, look):
        seen.clear()
        torch.manual_seed(3)
        loader = make()
        if look:
            train(small_net(), loader, batches(), seed=4)
            return seen[-12:], torch.rand(()).item()
        torch.manual_seed(4)
        small_net().apply(d2l.train.init_xavier)  # draws as training does
        list(loader)
        return seen[-12:], torch.rand(()).item()

    for options in ({}, {"generator": torch.Generator()}):

        def make(options=options):
            for generator in options.values():
                generator.manual_seed(5)
            return DataLoader(Seen(), 4, shuffle=True, **options)

        torch.manual_seed(1)
        first, _ = order(make, look=True)
        again, _ = order(make, look=True)
        assert first == again and sorted(first) == list(range(12)) and first != sorted(first)
        if options:
            make()
            assert first == order(make, look=False)[0]


# --- whole numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint8, torch.tensor])
def test_whole_numbers_of_any_type(kind):
    train_iter, test_iter = d2l.load_data_fashion_mnist(kind(4), kind(12))
    assert next(iter(train_iter))[0].shape == (4, 1, 12, 12) and len(test_iter) == 3
    history = train(small_net(), batches(), num_epochs=kind(2), seed=kind(3))
    assert len(history.test_acc) == 2
    assert d2l.try_gpu(kind(0)) == d2l.try_gpu(0)


@pytest.mark.parametrize("wrong", [True, np.True_, 2.0, np.float64(2), "2", None, 0, -1, [2]])
def test_what_is_no_whole_number(wrong):
    with pytest.raises(ValueError, match=r"num_epochs must be a positive int, got"):
        train(small_net(), batches(), num_epochs=wrong)
    with pytest.raises(ValueError, match=r"batch_size must be a positive int, got"):
        d2l.load_data_fashion_mnist(wrong)


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_knows_its_data(tmp_path):
    path = tmp_path / "c.pt"
    train(small_net(), batches(), checkpoint=path, seed=0)
    for which in ("training", "test"):
        given = [batches(), batches()]
        given[which == "test"] = batches(seed=1)
        with pytest.raises(ValueError, match=rf"another run: its {which} data is"):
            train(small_net(), *given, checkpoint=path, seed=0)
    other_labels = [(X, (y + 1) % 3) for X, y in batches()]
    with pytest.raises(ValueError, match="its training data is"):
        train(small_net(), other_labels, batches(), checkpoint=path, seed=0)


def iterator(X, y, **options):
    return data.ImageIterator((X[:, 0] * 255).to(torch.uint8), y, 4, **options)


@pytest.mark.parametrize(
    "make",
    [
        iterator,
        lambda X, y: DataLoader(TensorDataset(X, y), 4),
        lambda X, y: list(zip(X.split(4), y.split(4), strict=True)),
    ],
    ids=["iterator", "loader", "list"],
)
def test_data_is_known_by_images_and_labels(make, tmp_path):
    X, y = images()
    for changed_X, changed_y in ((1 - X, y), (X, (y + 1) % 3)):
        path = tmp_path / f"{changed_X is X}.pt"
        train(small_net(), make(X, y), checkpoint=path, seed=0)
        again = train(
            small_net(), make(X.clone(), y.clone()), checkpoint=path, seed=0, num_epochs=2
        )
        assert len(again.test_acc) == 2
        with pytest.raises(ValueError, match="its training data is"):
            train(small_net(), make(changed_X, changed_y), make(X, y), checkpoint=path, seed=0)


def test_images_that_are_changed_at_random_do_not_make_another_run(tmp_path):
    X, y = images()

    class Noisy(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return X[index] + 0.01 * torch.rand(()) + 0.01 * np.random.rand(), y[index]

    for num_epochs in (1, 2, 3):
        net = small_net()
        torch.manual_seed(num_epochs)
        history = train(net, DataLoader(Noisy(), 4), batches(), num_epochs=num_epochs,
                        checkpoint=tmp_path / "c.pt")  # fmt: skip
        assert len(history.test_acc) == num_epochs


class Activated(nn.Module):
    def __init__(self, activation=None):
        super().__init__()
        self.net = small_net()
        if activation:
            self.activation = activation


class WithRelu(Activated):
    def forward(self, X):
        return F.relu(self.net(X)) + 1


class WithSigmoid(Activated):
    def forward(self, X):
        return F.sigmoid(self.net(X)) + 1


class WithTwo(Activated):
    def forward(self, X):
        return F.relu(self.net(X)) + 2


class Kept(Activated):
    def forward(self, X):
        return self.activation(self.net(X)) + 1


class Delegating(Activated):
    def forward(self, X):
        return self.last(self.net(X))

    def last(self, X):
        return F.relu(X) + 1


class DelegatingOtherwise(Delegating):
    def last(self, X):
        return F.sigmoid(X) + 1


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (WithRelu(), WithSigmoid()),
        (WithRelu(), WithTwo()),
        (Kept(F.relu), Kept(F.sigmoid)),
        (Kept(torch.relu), Kept(torch.sigmoid)),
        (Kept(lambda X: X * 2), Kept(lambda X: X * 3)),
        (Delegating(), DelegatingOtherwise()),
    ],
    ids=["function", "number", "python", "builtin", "lambda", "method"],
)
def test_a_checkpoint_knows_what_its_network_computes(first, other, tmp_path):
    type(other).__name__ = type(first).__name__  # they print alike
    assert str(first) == str(other)
    path = tmp_path / "c.pt"
    train(first, batches(), checkpoint=path, seed=0)
    with pytest.raises(ValueError, match="another run: its forward method"):
        train(other, batches(), checkpoint=path, seed=0)
    assert len(train(first, batches(), checkpoint=path, seed=0, num_epochs=2).test_acc) == 2


def test_a_run_that_trains_nothing_says_so(tmp_path, capsys):
    path = tmp_path / "c.pt"
    first = train(small_net(), batches(), checkpoint=path, num_epochs=2, seed=0)
    assert "nothing is trained" not in capsys.readouterr().out
    again = train(small_net(), batches(), checkpoint=path, num_epochs=2, seed=0)
    assert "nothing is trained: the checkpoint holds 2 epochs already" in capsys.readouterr().out
    assert again.train_loss == first.train_loss


def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    path = tmp_path / "c.pt"
    net, unbroken = small_net(), small_net()
    train(net, batches(), checkpoint=path, num_epochs=2, seed=0)
    history = train(net, batches(), checkpoint=path, num_epochs=5, seed=0)
    expected = train(unbroken, batches(), num_epochs=5, seed=0)
    assert history.train_loss == expected.train_loss and len(history.test_acc) == 5
    assert all(map(torch.equal, net.parameters(), unbroken.parameters()))


def test_the_trained_weights_leave_a_checkpoint_as_the_docstring_says(tmp_path):
    checkpoint, net = tmp_path / "c.pt", small_net()
    train(net, batches(), checkpoint=checkpoint)
    line = 'net.load_state_dict(torch.load(checkpoint)["state"]["net"])'
    assert line in " ".join(d2l.train_ch6.__doc__.split())
    names = {"net": small_net(), "torch": torch, "checkpoint": checkpoint}
    exec(line, names)
    assert all(map(torch.equal, net.parameters(), names["net"].parameters()))


def test_a_checkpoint_of_an_older_version_is_taken_up(tmp_path):
    path = tmp_path / "c.pt"
    train(small_net(), batches(), checkpoint=path, seed=0)
    content = torch.load(path)
    new = [name for name in content["settings"] if "data" in name or "Python" in name]
    assert len(new) == 5
    for name in new:
        del content["settings"][name]
    torch.save(content, path)
    assert len(train(small_net(), batches(), checkpoint=path, seed=0, num_epochs=2).test_acc) == 2


# --- batches transformed on the device ------------------------------------------------------------


def flip(X):
    return X.flip(-1) if torch.rand(()) < 0.5 else X


def test_mapped_batches_are_the_iterators_own_changed():
    train_iter, test_iter = d2l.load_data_fashion_mnist(4)
    flipped = test_iter.map(lambda X: X.flip(-1)).map(lambda X: 2 * X)
    assert len(flipped) == len(test_iter) and flipped.batch_size == 4
    for (X, y), (Z, z) in zip(test_iter, flipped, strict=True):
        assert torch.equal(2 * X.flip(-1), Z) and torch.equal(y, z)
    on_device = train_iter.map(lambda X: X + 1).on("meta")
    assert all(X.device.type == "meta" for X, _ in on_device)
    assert train_iter.map(flip).dataset[0][0].equal(train_iter.dataset[0][0])


def test_mapped_batches_follow_seed_and_checkpoint(tmp_path):
    def run(num_epochs, change=flip, **options):
        train_iter, test_iter = d2l.load_data_fashion_mnist(3)
        torch.manual_seed(9)
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        return train(net, train_iter.map(change), test_iter, num_epochs, seed=2, **options)

    path = tmp_path / "c.pt"
    unbroken = run(3)
    assert run(3).train_loss == unbroken.train_loss
    run(1, checkpoint=path)
    assert run(3, checkpoint=path).train_loss == unbroken.train_loss
    with pytest.raises(ValueError, match="another run: its map of train_iter"):
        run(3, change=lambda X: X.roll(1, -1), checkpoint=path)


@pytest.mark.parametrize("change", [lambda X: None, lambda X: X[:1], lambda X: X.sum()])
def test_a_map_that_makes_no_batch(change):
    train_iter, test_iter = d2l.load_data_fashion_mnist(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with refused(net, "given to map must return", "(4, 1, 28, 28)"):
        train(net, train_iter.map(change), test_iter)


def test_a_map_that_makes_nan():
    train_iter, test_iter = d2l.load_data_fashion_mnist(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with refused(net, "batch 1 of train_iter", "not finite"):
        train(net, train_iter.map(lambda X: X / 0), test_iter)


def test_the_data_set_behind_the_batches():
    train_iter, test_iter = d2l.load_data_fashion_mnist(3, resize=32)
    assert isinstance(test_iter.dataset, Dataset) and len(test_iter.dataset) == 10
    X, y = (torch.cat(parts) for parts in zip(*test_iter, strict=True))
    for i in (0, 9, -1):
        image, label = test_iter.dataset[i]
        assert torch.equal(image, X[i]) and label == y[i] and type(label) is int
    with pytest.raises(IndexError):
        train_iter.dataset[10]
    assert len(list(DataLoader(train_iter.dataset, 4))) == 3
    assert train_iter.dataset.classes[9] == "ankle boot"


# --- data files -----------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch):
    """No network and no package of Debian's."""
    monkeypatch.setattr(data, "DEBIAN_FOLDER", Path("/nonexistent"))
    monkeypatch.setattr(data.FashionMNIST, "mirrors", [])


def unpack(folder):
    folder.mkdir(parents=True)
    for name in data.CHECKSUMS:
        (folder / name.removesuffix(".gz")).write_bytes(
            data.gzip.decompress((SAMPLE / name).read_bytes())
        )
    (folder / "MD5SUMS").write_bytes((SAMPLE / "MD5SUMS").read_bytes())
    return folder


@pytest.mark.parametrize("place", ["", "FashionMNIST/raw"])
def test_unpacked_files_are_read_and_checked(place, tmp_path, alone):
    folder = unpack(tmp_path / "data" / place)
    found = d2l.load_data_fashion_mnist(4, root=tmp_path / "data")
    for own, packed in zip(found, d2l.load_data_fashion_mnist(4), strict=True):
        assert torch.equal(own.images, packed.images) and torch.equal(own.labels, packed.labels)
    damaged = folder / "t10k-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="t10k-images-idx3-ubyte does not hold what"):
        d2l.load_data_fashion_mnist(4, root=tmp_path / "data")


HOMELESS = """
import os, pathlib, pwd
from d2lmini import data, load_data_fashion_mnist  # other packages want a home when imported
os.environ.pop("HOME", None)
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
data.DEBIAN_FOLDER = pathlib.Path({folder!r})
data.FashionMNIST.mirrors = []
print(len(load_data_fashion_mnist(4)[0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_a_user_without_a_home(there, tmp_path):
    unset = {"D2LMINI_DATA", "XDG_CACHE_HOME"}
    code = HOMELESS.format(folder=str(SAMPLE if there else tmp_path))
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name not in unset},
    )  # fmt: skip
    if there:
        assert run.stdout == "3\n", run.stderr
    else:
        message = run.stderr.splitlines()[-1]
        assert "no home folder" in message and "D2LMINI_DATA" in message and "apt-get" in message


def test_a_relative_folder_is_named_in_full(tmp_path, monkeypatch, alone):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LMINI_DATA", "my data")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "my data"))):
        d2l.load_data_fashion_mnist(4)


# --- figures --------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    pictures = []
    monkeypatch.setattr(inline_svg, "display", lambda picture: pictures.append(picture.html))
    return pictures


def test_classes_are_named_by_their_data_set_only(shown, tmp_path):
    _, test_iter = d2l.load_data_fashion_mnist(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    d2l.show_confusion(net, test_iter)
    d2l.show_confusion(small_net(), batches())
    assert ">ankle boot<" in shown[0]
    assert ">t-shirt<" not in shown[1] and ">trouser<" not in shown[1]
    named = TensorDataset(*images())
    named.classes = ["cat", "dog", "newt"]
    d2l.show_confusion(small_net(), DataLoader(named, 4))
    assert ">newt<" in shown[2]
    with pytest.raises(ValueError, match="labels from 1 to 3"):
        d2l.show_confusion(small_net(), [(X, y + 1) for X, y in batches()][:1])
    with pytest.raises(ValueError, match="Grayscale"):
        d2l.show_confusion(small_net(), batches(channels=3))


@pytest.mark.parametrize("labels", [[-1], [10], [3, 11], torch.tensor([-2])])
def test_class_names_of_no_class(labels):
    with pytest.raises(ValueError, match=r"labels 0 to 9, got (-1|10|11|-2)"):
        d2l.get_fashion_mnist_labels(labels)
    assert d2l.get_fashion_mnist_labels([]) == []


@pytest.mark.parametrize("installed", [True, False])
def test_chinese_texts_in_plots(installed, shown, monkeypatch, recwarn, tmp_path):
    fonts = [] if not installed else list(matplotlib.font_manager.fontManager.ttflist)
    latin = [font for font in matplotlib.font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(matplotlib.font_manager.fontManager, "ttflist", fonts or latin)
    d2l.show_images(images(2)[0], 1, 2, titles=["手提包", "外套"])
    curves = d2l.Animator(legend=["损失"], xlabel="轮")
    monkeypatch.setattr(animator, "_in_notebook", lambda: True)
    monkeypatch.setattr(animator, "display", lambda *args, **options: None)
    curves.add(1, 2.0)
    curves.save(tmp_path / "x.png")
    assert ">手提包<" in shown[0].replace("\n", "")
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message)]


def test_several_runs_in_one_picture(shown):
    runs = [train(small_net(), batches(), num_epochs=n, seed=n) for n in (1, 3)]
    d2l.show_histories(*runs, labels=["短", "long"], caption="图")
    (html,) = shown
    for label, run in zip(["短", "long"], runs, strict=True):
        numbers = f"损失{run.train_loss[-1]:.3f}，测试精度{run.test_acc[-1]:.3f}"
        assert f"{label}训练{len(run.test_acc)}轮，{numbers}" in html
        assert f">{label}<" in html
    assert ">train loss<" in html and ">test accuracy<" in html
    d2l.show_histories(runs[0])
    assert ">run 1<" in shown[1]
    for wrong, words in (
        ((), "no history given"),
        ((d2l.History("cpu", "fp32"),), "no whole epoch"),
    ):
        with pytest.raises(ValueError, match=words):
            d2l.show_histories(*wrong)
    with pytest.raises(ValueError, match="labels has 1 entries for 2 histories"):
        d2l.show_histories(*runs, labels=["a"])


# --- looking changes nothing ----------------------------------------------------------------------


class Restarting:
    """The textbook iterator: it is its own, and starts anew each time."""

    def __iter__(self):
        self.left = batches()
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


class Wrapped:
    """Of a reader's own: a method, and attributes of names that the package has too."""

    def __init__(self, **attributes):
        self.inner = batches()
        vars(self).update(attributes)

    def __len__(self):
        return len(self.inner)

    def __iter__(self):
        return iter(self.inner)

    def on(self, device):
        return self


def test_iterators_of_a_readers_own_are_gone_over_as_they_are():
    expected = train(small_net(), batches(), seed=0, num_epochs=2)
    for own in (
        Restarting(),
        Wrapped(),
        Wrapped(
            labels=["a", "b"], images=["1.png"], transforms=len, generator=np.random.default_rng()
        ),
    ):
        history = train(small_net(), own, batches(), seed=0, num_epochs=2)
        assert history.num_samples == 12 and history.train_loss == expected.train_loss
        assert (
            train(small_net(), batches(), own, seed=0, num_epochs=2).test_acc == expected.test_acc
        )


class Stream(IterableDataset):
    def __init__(self):
        self.items = iter(list(zip(*images(), strict=True)))

    def __iter__(self):
        return self.items


@pytest.mark.parametrize("make", [lambda s: DataLoader(s, 4), lambda s: DataLoader(s, None)])
def test_a_stream_loses_no_batch(make):
    if make(Stream()).batch_size is None:  # single images: told, after they have been looked at
        with pytest.raises(ValueError, match="images one by one"):
            train(small_net(), make(Stream()), batches())
        return
    history = train(small_net(), make(Stream()), batches(), seed=0)
    assert history.num_samples == 12
    assert history.train_loss == train(small_net(), batches(), seed=0).train_loss


class Drawing(Dataset):
    """Draws from every source of random numbers for each image."""

    def __init__(self):
        self.rng = np.random.default_rng(3)
        self.drawn = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = np.random.rand() + self.rng.random() + torch.rand(()).item()
        self.drawn.append((index, noise))
        return images()[0][index], images()[1][index]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_training_data_is_drawn_as_if_nobody_had_looked(checkpoint, tmp_path):
    """The order, and all that is drawn to make the images, as by the loop that a reader writes."""

    def loaders():
        torch.manual_seed(1)
        np.random.seed(2)
        generator = torch.Generator().manual_seed(5)
        sampler = torch.utils.data.RandomSampler(range(12), generator=generator)
        return DataLoader(Drawing(), 4, sampler=sampler), DataLoader(TensorDataset(*images()), 4)

    train_iter, test_iter = loaders()
    options = {"checkpoint": tmp_path / "c.pt"} if checkpoint else {}
    train(small_net(), train_iter, test_iter, seed=4, num_epochs=2, **options)
    state = torch.rand(()), np.random.rand()

    by_hand, test_by_hand = loaders()
    net = small_net()
    torch.manual_seed(4)
    net.apply(d2l.train.init_xavier)
    for _ in range(2):
        for _ in by_hand:
            pass
        for _ in test_by_hand:
            pass
    assert train_iter.dataset.drawn[-24:] == by_hand.dataset.drawn  # after a sample, of a copy
    assert (torch.rand(()), np.random.rand()) == state


def test_a_sample_is_taken_from_a_copy():
    class Opening(Drawing):
        """Opens its file when it is first asked for an image, in each process."""

        file = None

        def __getitem__(self, index):
            self.file = self.file or object()
            return super().__getitem__(index)

    loader = DataLoader(Opening(), 4)
    assert d2l.train.checkpoints.data_digest(loader) == d2l.train.checkpoints.data_digest(loader)
    assert loader.dataset.file is None
    assert loader.dataset.rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_gets_weights_once(norm):
    """Each look at such a weight is a step of an iteration."""
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        nets.append(norm(nn.Linear(64, 3)))
    torch.manual_seed(0)
    nets[0].apply(d2l.train.init_xavier)
    torch.manual_seed(0)
    nn.init.xavier_uniform_(nets[1].weight)
    for own, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(own, other)


def test_a_network_that_keeps_something_of_its_batches():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.state = small_net(), None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, X):
            self.calls += 1
            if self.state is None:
                self.state = torch.zeros(len(X), 3)
            return self.net(X) + self.state

    net = Counting()
    assert len(train(net, batches(), num_epochs=2).test_acc) == 2
    assert net.calls == 2 * (3 + 3)


def test_a_network_made_for_one_batch_size():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, X):
            return self.net(X.reshape(4, 1, 8, 8))

    assert train(Fixed(), batches(), num_epochs=2).test_acc


def test_a_network_that_names_classes_when_it_evaluates(capsys):
    class Naming(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, X):
            scores = self.net(X)
            return scores if self.training else scores.argmax(1)

    assert (
        train(Naming(), batches(), seed=0).test_acc
        == train(small_net(), batches(), seed=0).test_acc
    )
    assert "note" not in capsys.readouterr().out


def test_labels_that_the_loader_makes_are_those_that_count():
    X, y = images()
    three = TensorDataset(X, y, torch.arange(100, 112))

    def loader_of(data_set, shift):
        def collate(items):
            images, labels, *_ = map(torch.stack, zip(*items, strict=True))
            return images, labels - shift

        return DataLoader(data_set, 4, collate_fn=collate)

    pairs, shifted = loader_of(three, 0), loader_of(TensorDataset(X, y + 5), 5)
    for loader in (pairs, shifted):
        assert train(small_net(), loader).num_samples == 12


def test_the_sampler_says_how_many_images_there_are():
    loader = DataLoader(
        TensorDataset(*images(17)), 8, sampler=torch.utils.data.SubsetRandomSampler(range(16))
    )
    assert train(norm_net("vectors"), loader).test_acc
    one_left = DataLoader(TensorDataset(*images(18)), 8,
                          sampler=torch.utils.data.SubsetRandomSampler(range(17)))  # fmt: skip
    net = norm_net("vectors")
    with pytest.raises(ValueError, match="leaves no single image over"):
        train(net, one_left)


def test_lazy_layers_without_a_seed():
    losses = [train(lazy_and_explicit(lazy), batches()).train_loss for lazy in (True, False)]
    assert losses[0] == losses[1]


def test_a_lazy_network_whose_data_cannot_be_looked_at():
    net = lazy_and_explicit(lazy=True)
    with pytest.raises(ValueError, match=r"call net\(X\) on one before training"):
        train(net, Restarting(), batches())
    net(batches()[0][0])
    assert train(net, Restarting(), batches()).test_acc


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ((lambda k: lambda X: X * k)(2), (lambda k: lambda X: X * k)(3)),
        (transforms.Normalize(0.0, 1.0), transforms.Normalize(0.0, 0.1)),
        (F.relu, F.sigmoid),
    ],
    ids=["closure", "object", "function"],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_checkpoint_knows_its_maps(first, other, which, tmp_path):
    def run(change):
        iterators = [iterator(*images(), resize=None) for _ in range(2)]
        iterators[which] = iterators[which].map(change)
        return train(small_net(), *iterators, checkpoint=tmp_path / "c.pt", seed=0)

    run(first)
    with pytest.raises(
        ValueError, match=f"another run: its map of {('train_iter', 'test_iter')[which]}"
    ):
        run(other)
    assert run(first).test_acc


def test_a_list_is_known_by_every_batch(tmp_path):
    path, altered = tmp_path / "c.pt", batches(120)
    altered[17][0][2, 0, 3, 3] += 0.1
    train(small_net(), batches(120), batches(), checkpoint=path, seed=0)
    with pytest.raises(ValueError, match="its training data is"):
        train(small_net(), altered, batches(), checkpoint=path, seed=0)


def test_a_file_that_lacks_something_is_told(tmp_path):
    path = tmp_path / "c.pt"
    train(small_net(), batches(), checkpoint=path, seed=0)
    content = torch.load(path)
    del content["state"]["net"]
    torch.save(content, path)
    with pytest.raises(ValueError, match="is not a checkpoint of train_ch6, or not all of one"):
        train(small_net(), batches(), checkpoint=path, seed=0)


def test_test_images_from_0_to_255_get_a_word_too(capsys):
    train(small_net(), batches(), [(X * 255, y) for X, y in batches()])
    assert "images go up to 25" in capsys.readouterr().out


# --- everyday mistakes ----------------------------------------------------------------------------


class Pictures(Dataset):
    """Pictures of the sides given, as PIL has them or as tensors."""

    def __init__(self, *sides, tensors=False):
        self.sides, self.tensors = sides, tensors

    def __len__(self):
        return 12

    def __getitem__(self, index):
        side = self.sides[index % len(self.sides)]
        picture = Image.fromarray(np.zeros((side, side), np.uint8))
        return transforms.ToTensor()(picture) if self.tensors else picture, index % 3


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (Pictures(8), "gives what is no tensor .*ToTensor"),
        (Pictures(8, 9, tensors=True), "are of different sizes .*Resize"),
    ],
)
def test_pictures_that_make_no_batch(pictures, words, num_workers):
    net = small_net()
    with pytest.raises(ValueError, match=rf"of train_iter.*{words}"):
        train(net, DataLoader(pictures, 4, num_workers=num_workers), batches())


class Viewing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Linear(64, 3), change

    def forward(self, X):
        return self.change(self, X)


@pytest.mark.parametrize(
    "change",
    [
        lambda net, X: net.layer(X.view(-1, 50)),
        lambda net, X: net.layer(X @ torch.rand(5, 5)),
        lambda net, X: net.layer(F.conv2d(X, torch.rand(2, 3, 3, 3)).flatten(1)),
        lambda net, X: net.layer(torch.cat([X, X.flatten(1)])),
        lambda net, X: F.layer_norm(X, (7,)),
        lambda net, X: nn.GRU(5, 3)(X.flatten(1))[0],
    ],
)
def test_torchs_words_come_with_what_was_given(change):
    net = Viewing(change)
    with refused(net, "the network does not take the images of train_iter, (4, 1, 8, 8)"):
        train(net, batches())


def test_the_readers_own_errors_keep_their_words():
    def fail(net, X):
        raise RuntimeError("shapes cannot be multiplied, says the reader")

    with pytest.raises(RuntimeError, match=r"^shapes cannot be multiplied, says the reader$"):
        train(Viewing(fail), batches())
    _, test_iter = d2l.load_data_fashion_mnist(4)
    with pytest.raises(RuntimeError, match=r"shape '.*' is invalid"):
        train(small_net(), test_iter.map(lambda X: X.view(-1, 5)), batches())


@pytest.mark.parametrize("wrong", [None, small_net().forward, nn.Linear, "net"])
def test_what_is_no_network(wrong):
    with pytest.raises(TypeError, match=r"net must be an nn\.Module, got"):
        train(wrong, batches())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": "a"}, "seed must be a whole number"),
        ({"seed": 2**70}, "seed must be a whole number"),
        ({"device": "gpu"}, "device must be such as 'cpu'"),
        ({"device": 1.5}, "device must be such as 'cpu'"),
        ({"checkpoint": 3}, "checkpoint=3 cannot be written"),
    ],
)
def test_arguments_of_another_kind(options, words):
    arguments = {"device": "cpu", **options}
    with pytest.raises(ValueError, match=words):
        d2l.train_ch6(small_net(), batches(), batches(), 1, 0.1, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test lacks")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="'cuda', but torch finds no CUDA GPU"):
        d2l.train_ch6(small_net(), batches(), batches(), 1, 0.1, "cuda")


def test_a_home_that_is_not_there(monkeypatch):
    monkeypatch.setenv("D2LMINI_DATA", "~nobody-of-this-name/data")
    with pytest.raises(ValueError, match="'~nobody-of-this-name/data' has no such home"):
        d2l.load_data_fashion_mnist(4)


# --- what is sound is not refused -----------------------------------------------------------------


class Numbers(list):
    """A list that makes its batches when it is gone over."""

    def __iter__(self):
        return (batches()[i] for i in list.__iter__(self))


class MovedOver(list):
    """Each batch as what a loop takes apart."""

    def __iter__(self):
        return (map(torch.clone, batch) for batch in super().__iter__())


class Shifted(TensorDataset):
    def __getitem__(self, index):
        X, y = super().__getitem__(index)
        return X, y - 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Numbers(range(3)),
        lambda: MovedOver(batches()),
        lambda: DataLoader(Shifted(images()[0], images()[1] + 1), 4),
        lambda: DataLoader(
            TensorDataset(images()[0], torch.where(torch.arange(12) < 8, images()[1], -1)), 4,
            sampler=torch.utils.data.SubsetRandomSampler(range(8)),
        ),
    ],
    ids=["list", "map", "data set", "sampler"],
)  # fmt: skip
def test_data_of_a_readers_own_making(make):
    assert len(train(small_net(), make(), batches()).test_acc) == 1
    assert len(train(small_net(), batches(), make()).test_acc) == 1


def test_batches_that_the_data_set_makes():
    class Whole(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return batches()[index]

    loader = DataLoader(Whole(), batch_size=1, collate_fn=lambda items: items[0])
    assert train(norm_net("vectors"), loader).num_samples == 12


def test_a_network_that_keeps_numbers_is_not_run_for_nothing():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear, self.seen = nn.BatchNorm2d(1), nn.Linear(64, 3), 0.0

        def forward(self, X):
            X = self.norm(X)
            self.seen = 0.9 * self.seen + X.detach().mean()
            return self.linear(X.flatten(1) * (1 + self.seen))

    loader = DataLoader(TensorDataset(*images(17)), 8)
    assert train(Keeping(), loader).test_acc


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_an_interruption_while_evaluating_keeps_the_epoch_apart(num_epochs, capsys):
    class Interrupting(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            if self.passes == num_epochs:
                raise KeyboardInterrupt
            return super().__iter__()

    history = train(small_net(), batches(), Interrupting(batches()), num_epochs=3, seed=0)
    expected = train(small_net(), batches(), num_epochs=3, seed=0)
    assert len(history.train_loss) == num_epochs == len(history.test_acc) + 1
    out = capsys.readouterr().out
    assert f"in epoch {num_epochs}, not evaluated" in out
    if num_epochs == 2:
        first = f"loss {expected.train_loss[0]:.3f}, train acc {expected.train_acc[0]:.3f}, "
        assert first in out and first in repr(history)


def test_a_run_that_goes_on_refuses_as_a_new_one(tmp_path):
    path = tmp_path / "c.pt"
    train(small_net(), Wrapped(), batches(), checkpoint=path, seed=0)
    with pytest.raises(ValueError, match="labels from 50 to 52"):
        train(small_net(), Wrapped(inner=[(X, y + 50) for X, y in batches()]), batches(),
              checkpoint=path, seed=0, num_epochs=2)  # fmt: skip


def test_scores_that_cannot_be_trained():
    net = Returns(torch.Tensor.detach)
    with refused(net, "do not depend on its weights", ".detach()"):
        train(net, batches())
    net = small_net()
    net[4].bias.data[0] = float("nan")
    with refused(net, "not finite", "before the first step", "define the network anew"):
        train(net, batches())


def test_a_rounded_up_window_fits():
    net = nn.Sequential(
        nn.MaxPool2d(4), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(7, 3)
    )
    with refused(net, "layer 3, Linear, takes 7 features an image, got 1"):
        train(net, batches())


class Mistaken(nn.Module):
    def __init__(self, mistake):
        super().__init__()
        self.layer, self.mistake = nn.Linear(64, 3), mistake

    def forward(self, X):
        return self.layer(self.mistake(self, X.flatten(1)))


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda net, X: net.missing(X), AttributeError),
        (lambda net, X: torch.flaten(X), AttributeError),
        (lambda net, X: torch.flatten(X, strt_dim=1), TypeError),
        (lambda net, X: X + None, TypeError),
        (lambda net, X: "a" + 1, TypeError),
        (lambda net, X: [1, 2][3], IndexError),
        (lambda net, X: {}["c"], KeyError),
        (lambda net, X: net.undefined if hasattr(net, "x") else undefined, NameError),  # noqa: F821
    ],
)
def test_mistakes_in_forward_are_the_readers_own(mistake, error):
    with pytest.raises(error) as caught:
        train(Mistaken(mistake), batches())
    assert "the network does not take" not in str(caught.value)


@pytest.mark.parametrize("kind", ["maps", "vectors"])
def test_batches_that_a_list_of_numbers_makes(kind):
    loader = DataLoader(TensorDataset(*images()), batch_sampler=[[0, 1, 2], [5, 7], [8, 9, 10]])
    assert train(norm_net(kind), loader).num_samples == 8


def test_trying_images_of_another_size_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, X):
            self.calls += 1
            return self.linear(self.conv(X).mean((2, 3)))

    net = Counting()
    assert train(net, batches(), batches(side=10)).test_acc
    assert net.calls == 3 + 3
