"""What readers bring: a table of rules with a case for each, and what works though it is unusual.

Whatever is refused has changed nothing: weights, modes, random numbers, files.
"""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset
from torchvision import models

import d2lmini as d2l
from d2lmini.data import ImageIterator


def images(num=12, channels=1, side=8, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(num, channels, side, side, generator=generator)
    return X, torch.arange(num) % num_classes


def batches(num=12, size=4, **options):
    X, y = images(num, **options)
    return list(zip(X.split(size), y.split(size), strict=True))


def iterator(X, y, size=4, **options):
    return ImageIterator((X[:, 0] * 255).to(torch.uint8), y, size, **options)


def small_net(num_classes=3, channels=1):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, num_classes),
    )  # fmt: skip


def train(net, train_iter, test_iter=..., num_epochs=1, lr=0.1, device="cpu", **options):
    test_iter = train_iter if test_iter is ... else test_iter
    return d2l.train_ch6(net, train_iter, test_iter, num_epochs, lr, device, **options)


class Net(nn.Module):
    """`small_net`, with a function before and one after it."""

    def __init__(self, before=lambda X: X, after=lambda scores: scores):
        super().__init__()
        self.net, self.before, self.after = small_net(), before, after

    def forward(self, X):
        return self.after(self.net(self.before(X)))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.LazyLinear(3), nn.LazyLinear(3)

    def forward(self, X):
        return self.used(X.flatten(1))


class Restarting:
    """The textbook iterator: it is its own, and starts anew each time."""

    def __iter__(self):
        self.left = batches()
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


class Stream(IterableDataset):
    def __init__(self):
        self.items = iter(list(zip(*images(), strict=True)))

    def __iter__(self):
        return self.items


def with_nan():
    net = small_net()
    net[4].bias.data[0] = float("nan")
    return net


def changed(change, **options):
    return [change(X, y) for X, y in batches(**options)]


def spoilt(number, value):
    made = batches()
    made[number - 1][0][2, 0, 1, 1] = value
    return made


class Watcher:
    """All that a refusal must leave as it was."""

    def __init__(self, net, folder):
        self.net, self.folder = net, folder
        self.before = self.now()

    def now(self):
        numpys = np.random.get_state()
        lazy = [nn.parameter.is_lazy(t) for t in self.net.state_dict().values()]
        return {
            "weights": [None if is_lazy else t.clone() for t, is_lazy in
                        zip(self.net.state_dict().values(), lazy, strict=True)],
            "strides": [None if is_lazy else t.stride() for t, is_lazy in
                        zip(self.net.state_dict().values(), lazy, strict=True)],
            "modes": [module.training for module in self.net.modules()],
            "torch": torch.get_rng_state(),
            "others": (random.getstate(), numpys[1].tolist(), numpys[2:]),
            "files": {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()},
            "folders": sorted(self.folder.rglob("*")),
        }  # fmt: skip

    def check(self):
        for name, value in self.now().items():
            before = self.before[name]
            if name == "weights":
                same = all((a is None and b is None) or torch.equal(a.nan_to_num(), b.nan_to_num())
                           for a, b in zip(value, before, strict=True))  # fmt: skip
            else:
                same = torch.equal(value, before) if name == "torch" else value == before
            assert same, f"the refusal changed {name}"


# --- what is refused: how it is made, and words of the message ------------------------------------

ARGUMENTS = [
    *(({"num_epochs": wrong}, "num_epochs") for wrong in (0, True, np.True_, 2.0, "2", None)),
    *(({"lr": wrong}, "lr must be") for wrong in (0, -0.1, float("nan"), float("inf"), "0.1")),
    *(({"seed": wrong}, "whole number") for wrong in ("a", 2**70)),
    *(({"device": wrong}, "") for wrong in ("gpu", 1.5)),  # torch's words
    ({"checkpoint": 3}, "int"),
    ({"checkpoint": "."}, "directory"),
    ({"precision": "half"}, "precision must be one of"),
]  # fmt: skip
NETWORKS = [
    (lambda: small_net().requires_grad_(False), {}, "no parameter to train"),
    (nn.Flatten, {}, "no parameter to train"),
    (Unused, {}, "lazy layer is not used"),
    (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), {"train": Restarting}, "call net(X)"),
    (lambda: Net(after=lambda s: {"out": s}), {}, "a dict", "tensor of scores"),
    (lambda: Net(after=lambda s: (s, s)), {}, "a tuple", "tensor of scores"),
    (lambda: Net(after=lambda s: None), {}, "a NoneType", "tensor of scores"),
    (lambda: Net(after=lambda s: s[:, :, None, None]), {}, "(4, 3, 1, 1)", "nn.Flatten()"),
    (lambda: Net(after=lambda s: s.mean()), {}, "(4, num_classes)", "Tensor ()"),
    (lambda: Net(before=lambda X: X.view(-1, 1, 4, 8)), {}, "got (8, 32)"),  # mixes the images
    (with_nan, {}, "not finite", "before the first step"),
    (lambda: small_net(channels=3), {}, "layer 0, Conv2d(3, 4", "got (4, 1, 8, 8)", "(B, 3, H, W)"),
    (lambda: models.alexnet(num_classes=3), {"train": lambda: batches(2, 2, side=64)},
     "layer features.0, Conv2d(3, 64", "(B, 3, H, W)"),
    (lambda: nn.Sequential(nn.Linear(64, 3)), {}, "Linear(in_features=64", "(4, 1, 8, 8)",
     "nn.Flatten() before"),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 11), nn.Flatten()), {}, "(8 x 8)", "(11 x 11)"),
]  # fmt: skip
BATCHES = [  # of train_iter or test_iter
    (lambda: None, "not iterable"),
    (lambda: 7, "not iterable"),
    (lambda: [], "yields no batch"),
    (lambda: DataLoader(TensorDataset(*images(0)), 4), "yields no batch"),
    (lambda: iterator(*images(0)), "B at least 1"),
    (lambda: changed(lambda X, y: (X, y, y)), "pairs (X, y)", "a tuple"),
    (lambda: changed(lambda X, y: {"image": X, "label": y}), "pairs (X, y)", "a dict"),
    (lambda: changed(lambda X, y: X), "pairs (X, y)", "a Tensor"),
    (lambda: changed(lambda X, y: (X, ["cat"] * 4)), "pairs (X, y)"),
    (lambda: changed(lambda X, y: (["a.png"] * 4, y)), "pairs (X, y)"),
    (lambda: changed(lambda X, y: (X, F.one_hot(y))), "whole numbers", "(4, 3)"),
    (lambda: changed(lambda X, y: (X, y + 0.5)), "whole numbers", "torch.float32"),
    (lambda: changed(lambda X, y: (X, y[:2])), "(4, 1, 8, 8) and (2,)"),
    (lambda: changed(lambda X, y: (X[:0], y[:0])), "B at least 1"),
    (lambda: TensorDataset(*images()), "as a DataLoader does", "(1, 8, 8) and ()"),
    (lambda: changed(lambda X, y: (X, y + 1)), "labels from 1 to 3", "number the classes from 0"),
    (lambda: changed(lambda X, y: (X, y - 1)), "labels from -1 to 1", "number the classes from 0"),
    (lambda: changed(lambda X, y: (X, y * 2)), "labels from 0 to 4", "5 outputs"),
    (lambda: changed(lambda X, y: (X.permute(0, 2, 3, 1), y)), "(4, 8, 8, 1)", "permute"),
    (lambda: changed(lambda X, y: (X[:, 0], y)), "(4, 8, 8)", "unsqueeze"),
    (lambda: batches(channels=3), "(4, 3, 8, 8)", "Grayscale()"),
    (lambda: changed(lambda X, y: ((X * 255).byte(), y)), "unsigned char"),
    (lambda: batches(side=10), "layer 4, Linear(in_features=64", "got (4, 100)"),
    (lambda: batches(side=1), "layer 2, MaxPool2d", "too small"),
    (lambda: spoilt(1, float("nan")), "batch 1", "not finite"),
    (lambda: iterator(images()[0], torch.arange(12)), "labels from 0 to 11"),
    (lambda: iterator(*images()).map(lambda X: X / 0), "batch 1", "not finite"),
    (lambda: iterator(*images()).map(lambda X: X[:1]), "(1, 1, 8, 8) and (4,)"),
    (lambda: iterator(*images()).map(lambda X: None), "pairs (X, y)"),
]  # fmt: skip


def assert_refused(net, folder, call, *words):
    torch.manual_seed(2)
    random.seed(3)
    np.random.seed(4)
    net.train()
    watcher = Watcher(net, folder)
    with pytest.raises((ValueError, TypeError, RuntimeError, OSError)) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert len(str(caught.value)) < 700
    watcher.check()


@pytest.mark.parametrize(("options", "words"), ARGUMENTS)
def test_arguments_that_are_refused(options, words, tmp_path):
    net = small_net()
    assert_refused(net, tmp_path, lambda: train(net, batches(), **options), words)


@pytest.mark.parametrize(("make", "options", "words"), [(m, o, w) for m, o, *w in NETWORKS])
def test_networks_that_are_refused(make, options, words, tmp_path):
    net, train_iter = make(), options.get("train", batches)()
    assert_refused(net, tmp_path, lambda: train(net, train_iter, batches(2, 2)), *words)


@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
@pytest.mark.parametrize(("make", "words"), [(make, words) for make, *words in BATCHES])
def test_batches_that_are_refused(make, words, which, tmp_path):
    net, given = small_net(), {"train_iter": batches(), "test_iter": batches(), which: make()}
    path, named = tmp_path / "new" / "c.pt", [] if "iterable" in words[0] else [which]
    assert_refused(net, tmp_path, lambda: train(net, given["train_iter"], given["test_iter"],
                                                checkpoint=path), *words, *named)  # fmt: skip


@pytest.mark.parametrize(("make", "words"), [(make, words) for make, *words in BATCHES[2:]])
def test_evaluation_refuses_them_too(make, words):
    with pytest.raises(ValueError) as caught:
        d2l.evaluate_accuracy_gpu(small_net(), make())
    if "0 to" not in words[0]:  # which is of all batches, not of one
        assert words[0] in str(caught.value)


def test_what_is_no_network():
    for wrong in (None, small_net().forward, nn.Linear, "net"):
        with pytest.raises(TypeError, match=r"must be an nn\.Module"):
            train(wrong, batches())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_switched_off_outside(context, tmp_path):
    net = small_net()
    with context():
        assert_refused(net, tmp_path, lambda: train(net, batches()), "switched off")


@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
def test_a_generator_serves_one_epoch(which, tmp_path):
    net, given = small_net(), {"train_iter": batches(), "test_iter": batches()}
    generator = given[which] = (batch for batch in batches())
    assert_refused(net, tmp_path, lambda: train(net, *given.values(), num_epochs=2),
                   which, "generator", "once only")  # fmt: skip
    assert len(list(generator)) == 3, "it took some of them before it refused"
    given[which] = iter(batches())
    expected = train(small_net(), batches(), seed=0)
    assert train(small_net(), *given.values(), seed=0).train_loss == expected.train_loss


# --- what is told when it comes: the exception passes, and what was trained is kept ---------------


class Ending(list):
    """Batches that fail or are gone in the third pass, after one for the look."""

    passes, then = 0, None

    def __iter__(self):
        self.passes += 1
        return iter(self.then if self.passes == 4 else list(super().__iter__()))


@pytest.mark.parametrize("which", ["train_iter", "test_iter"])
@pytest.mark.parametrize(
    ("then", "words"),
    [
        ([], "no batch"),
        (batches(channels=3), "Grayscale"),
        ([(torch.zeros(2), "ab")], "pairs (X, y)"),
        (spoilt(2, -float("inf")), "batch 2"),
        (changed(lambda X, y: (X, y + 3)), "labels from 3 to 5"),
    ],
)
def test_what_comes_late_is_told_and_what_was_trained_is_kept(which, then, words, tmp_path):
    given = {"train_iter": batches(), "test_iter": batches(), which: Ending(batches())}
    given[which].then, net, path = then, small_net(), tmp_path / "c.pt"
    with pytest.raises(ValueError) as caught:
        train(net, *given.values(), num_epochs=5, checkpoint=path, seed=0)
    assert words in str(caught.value)
    assert len(caught.value.history.test_acc) == 2
    assert len(torch.load(path)["state"]["history"]["test_acc"]) == 2
    assert not net.training and net[0].weight.is_contiguous()


def test_an_error_in_a_later_epoch_passes_as_it_is():
    class Late(nn.Module):
        calls = 0

        def forward(self, X):
            self.calls += self.training
            return undefined if self.calls > 4 else X  # noqa: F821

    with pytest.raises(NameError, match="undefined") as caught:
        train(nn.Sequential(Late(), small_net()), batches(), num_epochs=3)
    assert len(caught.value.history.test_acc) == 1


@pytest.mark.parametrize("num", [1, 17])
def test_a_single_image_under_batch_norm_is_told_when_it_comes(num):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    loader = DataLoader(TensorDataset(*images(num)), 16)
    with pytest.raises(ValueError, match=r"BatchNorm1d.*more than one image.*drop_last") as caught:
        train(net, loader)
    assert caught.value.history.test_acc == []
    assert train(net, DataLoader(TensorDataset(*images(17)), 15), loader).test_acc


def test_a_network_of_several_outputs_in_training_is_told_in_its_first_step():
    net = models.googlenet(num_classes=3, init_weights=False)
    given = batches(2, 2, channels=3, side=96)
    with pytest.raises(ValueError, match="got a GoogLeNetOutputs"):
        train(net, given)


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda X: X.missing, AttributeError),
        (lambda X: torch.flatten(X, strt_dim=1), TypeError),
        (lambda X: X + None, TypeError),
        (lambda X: [1, 2][3], IndexError),
        (lambda X: torch.cat([X, X.flatten(1)]), RuntimeError),
        (lambda X: X.reshape(-1, 50), RuntimeError),
        (lambda X: X @ torch.rand(5, 5), RuntimeError),
        (lambda X: F.layer_norm(X, (7,)), RuntimeError),
        (lambda X: F.conv2d(X, torch.rand(2, 3, 3, 3)), RuntimeError),
    ],
)
def test_mistakes_in_forward_are_the_readers_own(mistake, error):
    with pytest.raises(error) as caught:
        train(Net(before=mistake), batches())
    assert "the network does not take" not in str(caught.value)


def test_nothing_is_run_again_to_explain_an_error():
    calls = []

    class Counting(nn.Module):
        def forward(self, X):
            calls.append(self.training)
            return X

    with pytest.raises(ValueError, match="Linear"):
        train(nn.Sequential(Counting(), nn.Flatten(), nn.Linear(7, 3)), batches())
    assert len(calls) == 1


def test_advice_is_given_where_it_fits():
    wide = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 3))
    with pytest.raises(ValueError, match="in_features=256") as caught:  # channels were changed
        train(wide, batches())
    assert "resize" not in str(caught.value)

    def fail(X):
        raise RuntimeError("unable to find an engine to execute this")

    with pytest.raises(RuntimeError, match=r"^unable to find an engine"):
        train(Net(before=fail), batches())


# --- what works -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("options", [{"seed": 3}, {"seed": 3, "precision": "fp32"}, {}])
def test_lazy_layers_train_to_the_bit_as_with_their_sizes_written_out(options):
    nets, histories = [], []
    for lazy in (True, False):
        nets.append(lazy_and_explicit(lazy))
        history = train(nets[-1], batches(), num_epochs=2, **options)
        histories.append((history.train_loss, history.test_acc))
    assert histories[0] == histories[1]
    states = [net.state_dict() for net in nets]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_lazy_network_that_was_used_once_needs_no_look():
    net = lazy_and_explicit(lazy=True)
    net(batches()[0][0])
    assert train(net, Restarting(), batches()).test_acc


@pytest.mark.parametrize("softmax", [nn.Softmax(dim=1), lambda scores: F.softmax(scores, dim=1)])
def test_a_network_that_ends_in_softmax_is_told_of_once(softmax, capsys):
    assert len(train(Net(after=softmax), batches(), num_epochs=2).test_acc) == 2
    assert capsys.readouterr().out.count("probabilities already (softmax)") == 1
    train(Net(after=nn.LogSoftmax(dim=1)), batches())  # the loss is the same with it
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("which", [0, 1])
def test_images_from_0_to_255_get_a_word(which, capsys):
    given = [batches(), batches()]
    given[which] = changed(lambda X, y: (X * 255, y))
    train(small_net(), *given)
    out = capsys.readouterr().out
    assert out.count("images go up to 25") == 1 and "divide by 255" in out
    train(small_net(), changed(lambda X, y: ((X - 0.3) / 0.3, y)))
    assert "note" not in capsys.readouterr().out


def test_a_compiled_network_trains_as_it_does_itself(tmp_path):
    net, twin = small_net(), small_net()
    compiled = torch.compile(net, backend="eager")
    history = train(compiled, batches(), seed=0, num_epochs=2, checkpoint=tmp_path / "c.pt")
    assert history.train_loss == train(twin, batches(), seed=0, num_epochs=2).train_loss
    assert all(map(torch.equal, net.parameters(), twin.parameters()))
    small_net().load_state_dict(torch.load(tmp_path / "c.pt")["state"]["net"])


def test_what_is_frozen_is_left_as_it_is():
    net = small_net()
    net[0].requires_grad_(False)
    before, head = [p.clone() for p in net[0].parameters()], net[4].weight.clone()
    train(net, batches())
    assert all(map(torch.equal, before, net[0].parameters()))
    assert not torch.equal(head, net[4].weight)


def test_training_goes_on_from_given_weights():
    net = small_net()
    given = copy.deepcopy(net)
    train(net, batches(), init_weights=False)
    optimizer = torch.optim.SGD(given.parameters(), 0.1)
    for X, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(given(X), y).backward()
        optimizer.step()
    for own, other in zip(net.parameters(), given.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bool, torch.float64])
def test_labels_of_any_width(dtype):
    num_classes = 2 if dtype == torch.bool else 3
    expected = train(small_net(), batches(num_classes=num_classes), seed=0)
    other = changed(lambda X, y: (X, y.to(dtype)), num_classes=num_classes)
    assert train(small_net(), other, seed=0).train_loss == expected.train_loss
    net = small_net()
    assert d2l.evaluate_accuracy_gpu(net, other) == d2l.evaluate_accuracy_gpu(
        net, batches(num_classes=num_classes))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("of_net", [torch.float32, torch.float64])
def test_images_of_any_width(dtype, of_net):
    expected = train(small_net().to(of_net), batches(), seed=0)
    given = changed(lambda X, y: (X.to(dtype), y))
    history = train(small_net().to(of_net), given, seed=0)
    assert history.train_loss == pytest.approx(expected.train_loss, abs=0.02)
    assert d2l.evaluate_accuracy_gpu(small_net().to(of_net), given) >= 0


class MovedOver(list):
    """Each batch as what a loop takes apart."""

    def __iter__(self):
        return (map(torch.clone, batch) for batch in super().__iter__())


class Wrapped:
    """Of a reader's own: a method, and attributes of names that the package has too."""

    batch_size, labels, images, transforms, generator = "all", ["a"], [], len, None

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(batches())

    def on(self, device):
        raise AssertionError("it is not the package's")

    to = on


@pytest.mark.parametrize("make", [
    lambda: changed(lambda X, y: (X.numpy(), y.numpy().astype(np.int16))),
    lambda: MovedOver(batches()), Wrapped, Restarting,
    lambda: DataLoader(TensorDataset(*images()), batch_sampler=[range(4), range(4, 8),
                                                                range(8, 12)]),
    lambda: DataLoader(TensorDataset(*images()), 4),
])  # fmt: skip
def test_iterators_of_a_readers_own_are_gone_over_as_they_are(make):
    expected = train(small_net(), batches(), seed=0)
    assert train(small_net(), make(), batches(), seed=0).train_loss == expected.train_loss
    assert train(small_net(), batches(), make(), seed=0).test_acc == expected.test_acc


def test_a_stream_loses_no_batch():
    history = train(small_net(), DataLoader(Stream(), 4), batches(), seed=0)
    assert history.num_samples == 12
    assert history.train_loss == train(small_net(), batches(), seed=0).train_loss


def test_training_data_is_drawn_as_if_nobody_had_looked():
    """The order, and all that is drawn to make the images, as by the loop that a reader writes."""

    class Drawing(Dataset):
        def __init__(self):
            self.drawn = []

        def __len__(self):
            return 12

        def __getitem__(self, index):
            self.drawn.append((index, np.random.rand() + torch.rand(()).item() + random.random()))
            return images()[0][index], images()[1][index]

    def loaders():
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        generator = torch.Generator().manual_seed(5)
        sampler = RandomSampler(range(12), generator=generator)
        return DataLoader(Drawing(), 4, sampler=sampler), DataLoader(TensorDataset(*images()), 4)

    train_iter, test_iter = loaders()
    train(small_net(), train_iter, test_iter, seed=4, num_epochs=2)
    state = torch.rand(()), np.random.rand(), random.random()
    by_hand, test_by_hand = loaders()
    net = small_net()
    torch.manual_seed(4)
    net.apply(d2l.train.init_xavier)
    for _ in range(2):
        list(by_hand), list(test_by_hand)
    assert train_iter.dataset.drawn[-24:] == by_hand.dataset.drawn
    assert (torch.rand(()), np.random.rand(), random.random()) == state


def test_a_network_that_keeps_something_of_its_batches():
    net = Net()
    net.after = lambda scores: net.__dict__.setdefault("kept", scores) * 0 + scores
    assert len(train(net, batches(), num_epochs=2).test_acc) == 2
    net.kept = net.net(batches()[0][0])  # a result cannot be copied
    with pytest.raises(ValueError, match="Linear"):
        train(net.train(), batches(side=10))
    assert net.training and net.net[0].weight.is_contiguous()


def test_networks_with_modes_and_sizes_of_their_own():
    naming = Net()
    naming.after = lambda scores: scores if naming.training else scores.argmax(1)
    expected = train(small_net(), batches(), seed=0)
    assert train(naming, batches(), seed=0).test_acc == expected.test_acc
    assert train(Net(before=lambda X: X.reshape(4, 1, 8, 8)), batches()).test_acc
    any_size = nn.Sequential(nn.AdaptiveAvgPool2d(8), small_net())
    assert train(any_size, batches(), batches(side=10)).test_acc
    three = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), nn.Flatten(),
                          nn.Linear(72, 3))  # fmt: skip
    assert train(three, batches()).test_acc


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_any_type(kind):
    train_iter, _ = d2l.load_data_fashion_mnist(kind(4), kind(12))
    assert next(iter(train_iter))[0].shape == (4, 1, 12, 12)
    history = train(small_net(), batches(), num_epochs=kind(2), seed=kind(3))
    assert len(history.test_acc) == 2 and d2l.try_gpu(kind(0)) == d2l.try_gpu(0)


# --- batches transformed on the device ------------------------------------------------------------


def test_mapped_batches_are_the_iterators_own_changed():
    train_iter, test_iter = d2l.load_data_fashion_mnist(4)
    flipped = test_iter.map(lambda X: X.flip(-1)).map(lambda X: 2 * X)
    assert len(flipped) == len(test_iter) and flipped.batch_size == 4
    for (X, y), (Z, z) in zip(test_iter, flipped, strict=True):
        assert torch.equal(2 * X.flip(-1), Z) and torch.equal(y, z)
    on_device = train_iter.map(lambda X: X + 1).to("meta")
    assert all(X.device.type == "meta" for X, _ in on_device)
    assert train_iter.map(torch.neg).dataset[0][0].equal(train_iter.dataset[0][0])


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
