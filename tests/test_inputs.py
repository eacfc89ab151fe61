"""What readers bring: the table of what is refused, and what works though it is unusual.

What a training refuses before its first step has changed nothing: weights, modes, random numbers,
files.
"""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import d2lmini as d2l
from tests.support import (
    Net,
    assert_same_weights,
    batches,
    changed,
    images,
    iterator,
    small_net,
    train,
)


class Restarting:
    """The textbook iterator: it is its own, and starts anew each time."""

    def __iter__(self):
        self.left = batches()
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


def unused():
    net = Net()
    net.spare = nn.LazyLinear(3)
    return net


def spoilt(number, value):
    made = batches()
    made[number - 1][0][2, 0, 1, 1] = value
    return made


# --- what is refused: how it is made, and words of the message ------------------------------------

ARGUMENTS = [
    *(({"num_epochs": wrong}, "num_epochs") for wrong in (0, True, np.True_, 2.0, "2", None)),
    *(({"lr": wrong}, "lr must be") for wrong in (0, -0.1, float("nan"), float("inf"), "0.1")),
    *(({"seed": wrong}, "whole number") for wrong in ("a", 2**70)),
    ({"device": "gpu"}, ""),  # torch's words
    ({"checkpoint": 3}, "int"),
    ({"checkpoint": "."}, "directory"),
    ({"precision": "half"}, "precision must be one of"),
    ({"within": torch.no_grad}, "switched off"),
    ({"within": torch.inference_mode}, "switched off"),
]  # fmt: skip
NETWORKS = [
    (lambda: small_net().requires_grad_(False), "no parameter to train"),
    (unused, "lazy layer is not used"),
    (lambda: Net(after=lambda s: {"out": s}), "a dict", "tensor of scores"),
    (lambda: Net(after=lambda s: (s, s)), "a tuple", "tensor of scores"),
    (lambda: Net(after=lambda s: s[:, :, None, None]), "(4, 3, 1, 1)", "nn.Flatten()"),
    (lambda: Net(after=lambda s: s.mean()), "(4, num_classes)", "Tensor ()"),
    (lambda: Net(before=lambda X: X.view(-1, 1, 4, 8)), "got (8, 32)"),  # mixes the images
    (lambda: Net(after=lambda s: s / 0), "not finite", "before the first step"),
    (lambda: small_net(channels=3), "layer 0, Conv2d(3, 4", "got (4, 1, 8, 8)", "(B, 3, H, W)"),
    (lambda: nn.Sequential(nn.Linear(64, 3)), "Linear(in_features=64", "nn.Flatten() before"),
    (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(9, 3)), "in_features=9"),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 11), nn.Flatten()), "(11 x 11)",
     "got (4, 1, 8, 8) ("),  # torch's words, without advice
]  # fmt: skip
BATCHES = [  # of train_iter or test_iter
    (lambda: [], "yields no batch"),
    (lambda: changed(lambda X, y: (X, y, y)), "pairs (X, y)", "a tuple"),
    (lambda: changed(lambda X, y: {"image": X, "label": y}), "pairs (X, y)", "a dict"),
    (lambda: changed(lambda X, y: (X, ["cat"] * 4)), "pairs (X, y)"),
    (lambda: changed(lambda X, y: (X, F.one_hot(y))), "whole numbers", "(4, 3)"),
    (lambda: changed(lambda X, y: (X, y + 0.5)), "whole numbers", "torch.float32"),
    (lambda: changed(lambda X, y: (X, y[:2])), "(4, 1, 8, 8) and (2,)"),
    (lambda: changed(lambda X, y: (X[:0], y[:0])), "B at least 1"),
    (lambda: TensorDataset(*images()), "as a DataLoader does", "(1, 8, 8) and ()"),
    (lambda: changed(lambda X, y: (X, y + 1)), "labels from 1 to 3", "number the classes from 0"),
    (lambda: changed(lambda X, y: (X, y - 1)), "labels from -1 to 1", "number the classes from 0"),
    (lambda: changed(lambda X, y: (X, y * 2)), "labels from 0 to 4", "5 outputs"),
    (lambda: changed(lambda X, y: (X[:, 0], y)), "(4, 8, 8)", "unsqueeze"),
    (lambda: batches(channels=3), "(4, 3, 8, 8)", "Grayscale()"),
    (lambda: changed(lambda X, y: ((X * 255).byte(), y)), "unsigned char"),
    (lambda: batches(side=10), "layer 6, Linear(in_features=64", "got (4, 100)"),
    (lambda: batches(side=1), "layer 2, MaxPool2d", "too small"),
    (lambda: spoilt(1, float("nan")), "batch 1", "not finite"),
]  # fmt: skip
ITERATORS = ("train_iter", "test_iter")
TRAININGS = [
    *ARGUMENTS,
    *(({"net": make}, *words) for make, *words in NETWORKS),
    ({"net": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "train_iter": Restarting},
     "call net(X)"),
    ({"train_iter": lambda: 7}, "not iterable"),
    *(({which: make}, which, *words) for which in ITERATORS for make, *words in BATCHES),
    *(({which: lambda: iter(batches()), "num_epochs": 2}, which, "once only")
      for which in ITERATORS),
    *(({which: lambda: iterator(images()[0], torch.arange(12))}, which, "labels from 0 to 11")
      for which in ITERATORS),  # in all batches, not in the first
]  # fmt: skip
OTHER_CALLS = [
    *((d2l.train_ch6, (wrong, batches(), batches(), 1, 0.1), r"must be an nn\.Module")
      for wrong in (None, small_net().forward, nn.Linear)),
    (d2l.load_data_fashion_mnist, (0,), "batch_size must be"),
    (d2l.load_data_fashion_mnist, (8, 0), "resize must be"),
    (d2l.get_fashion_mnist_labels, ([0, 10],), "0 to 9"),
    (d2l.try_gpu, (-1,), "i must be"),
    (d2l.accuracy, (torch.zeros(6, 3), torch.zeros(6, 1)), "do not belong together"),
    (d2l.accuracy, (torch.zeros(6, 10, 5, 5), torch.zeros(6)), "do not belong together"),
]  # fmt: skip


def state_of(net, folder):
    """All that a refusal must leave as it was."""
    numpys, tensors = np.random.get_state(), net.state_dict().values()
    return {
        "weights": [None if nn.parameter.is_lazy(t) else (t.stride(), t.numpy().tobytes())
                    for t in tensors],
        "modes": [module.training for module in net.modules()],
        "torch": torch.get_rng_state().tolist(),
        "others": (random.getstate(), numpys[1].tolist(), numpys[2:]),
        "files": {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"), [(given, words) for given, *words in TRAININGS], ids=" ".join
)
def test_a_refused_training_has_changed_nothing(given, words, tmp_path):
    made = {"net": small_net, "train_iter": batches, "test_iter": batches, **given}
    made.update({name: made[name]() for name in ("net", "train_iter", "test_iter")})
    arguments = {"checkpoint": tmp_path / "new" / "c.pt", **made}
    within = arguments.pop("within", contextlib.nullcontext)
    torch.manual_seed(2)
    random.seed(3)
    np.random.seed(4)
    before = state_of(made["net"], tmp_path)
    errors = ValueError, TypeError, RuntimeError, OSError
    with pytest.raises(errors) as caught, within():
        train(**arguments)
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 700
    for name, value in state_of(made["net"], tmp_path).items():
        assert value == before[name], f"the refusal changed {name}"


@pytest.mark.parametrize(("make", "words"), [(make, words) for make, *words in BATCHES])
def test_evaluation_refuses_batches_too(make, words):
    with pytest.raises(ValueError) as caught:
        d2l.evaluate_accuracy_gpu(small_net(), make())
    assert words[0] in str(caught.value)


@pytest.mark.parametrize(("function", "arguments", "words"), OTHER_CALLS)
def test_other_calls_that_are_refused(function, arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        function(*arguments)


# --- what is told when it comes: the exception passes, and what was trained is kept ---------------


class Ending(list):
    """Batches that fail or are gone in the third epoch; the look before training is a pass, too."""

    passes, then = 0, None

    def __iter__(self):
        self.passes += 1
        return iter(self.then if self.passes == 4 else list(super().__iter__()))


@pytest.mark.parametrize("which", ITERATORS)
@pytest.mark.parametrize(
    ("then", "words"),
    [
        ([], "no batch"),
        (batches(channels=3), "Grayscale"),
        (spoilt(2, -float("inf")), "batch 2"),
        (changed(lambda X, y: (X, y + 3)), "labels from 3 to 5"),
    ],
)
def test_what_comes_late_is_told_and_what_was_trained_is_kept(which, then, words, tmp_path):
    given = {"train_iter": batches(), "test_iter": batches(), which: Ending(batches())}
    given[which].then, net, path = then, small_net(), tmp_path / "c.pt"
    with pytest.raises(ValueError) as caught:
        train(net, **given, num_epochs=5, checkpoint=path, seed=0)
    assert words in str(caught.value)
    assert len(caught.value.history.test_acc) == 2
    assert len(torch.load(path)["state"]["history"]["test_acc"]) == 2
    assert not net.training and net[3].weight.is_contiguous()


def test_a_single_image_under_batch_norm_is_told_when_it_comes():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"BatchNorm1d.*more than one image.*drop_last"):
        train(net, batches(17, 16))
    assert train(net, batches(17, 15), batches(17, 16)).test_acc


def unknown_engine(X):
    raise RuntimeError("unable to find an engine to execute this")


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda X: X.missing, AttributeError),
        (lambda X: [1, 2][3], IndexError),
        (lambda X: torch.cat([X, X.flatten(1)]), RuntimeError),
        (lambda X: F.conv2d(X, torch.rand(2, 3, 3, 3)), RuntimeError),
        (unknown_engine, RuntimeError),
    ],
)
def test_mistakes_in_forward_are_the_readers_own(mistake, error):
    with pytest.raises(error) as caught:
        train(Net(before=mistake), batches())
    assert "the network does not take" not in str(caught.value)


# --- what works -----------------------------------------------------------------------------------


def lazy_net():
    """A network in the way of d2l's English edition."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16),
        nn.Dropout(0.5), nn.LazyLinear(3),
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"seed": 3}, {"seed": 3, "precision": "fp32"}, {}])
def test_lazy_layers_train_to_the_bit_as_those_that_have_their_sizes(options):
    lazy = lazy_net()
    history = train(lazy, batches(), num_epochs=2, **options)
    sized = lazy_net()
    sized.eval()(batches()[0][0])
    expected = train(sized, Restarting(), batches(), num_epochs=2, **options)  # needs no look
    assert history.train_loss == expected.train_loss and history.test_acc == expected.test_acc
    assert_same_weights(lazy, sized)


def bright():
    return changed(lambda X, y: (X * 255, y))


def normalised():
    return changed(lambda X, y: ((X - 0.3) / 0.3, y))


@pytest.mark.parametrize(
    ("make", "train_batches", "test_batches", "words"),
    [
        (lambda: Net(after=nn.Softmax(dim=1)), batches, batches, "softmax"),
        (lambda: Net(after=nn.LogSoftmax(dim=1)), batches, batches, ""),  # the loss is the same
        (lambda: Net(after=F.dropout), batches, batches, "F.dropout"),
        (small_net, bright, batches, "divide by 255"),
        (small_net, batches, bright, "divide by 255"),
        (small_net, normalised, batches, "normalised"),
        (small_net, batches, normalised, "normalised"),
        (small_net, normalised, normalised, ""),
        (small_net, lambda: batches(16, 16, num_classes=1), batches, "shuffle"),
        (small_net, lambda: batches(16, 16), batches, ""),
    ],
)
def test_what_trains_and_gets_a_word(make, train_batches, test_batches, words, capsys):
    assert len(train(make(), train_batches(), test_batches(), num_epochs=2).test_acc) == 2
    out = capsys.readouterr().out
    assert out.count("note:") == bool(words) and words in out


def test_a_compiled_network_trains_as_it_does_itself(tmp_path):
    net, twin = small_net(), small_net()
    compiled = torch.compile(net, backend="eager")
    history = train(compiled, batches(), seed=0, num_epochs=2, checkpoint=tmp_path / "c.pt")
    assert history.train_loss == train(twin, batches(), seed=0, num_epochs=2).train_loss
    assert_same_weights(net, twin)
    small_net().load_state_dict(torch.load(tmp_path / "c.pt")["state"]["net"])


@pytest.mark.parametrize(
    ("of_X", "of_y", "of_net"),
    [
        (torch.float16, torch.uint8, torch.float32),
        (torch.bfloat16, torch.bool, torch.float64),
        (torch.float64, torch.float64, torch.float32),
    ],
)
def test_numbers_of_any_width(of_X, of_y, of_net):
    black_and_white = changed(lambda X, y: (X.round(), y), num_classes=2)  # exact in each of them
    given = [(X.to(of_X), y.to(of_y)) for X, y in black_and_white]
    expected = train(small_net().to(of_net), black_and_white, seed=0)
    assert train(small_net().to(of_net), given, seed=0).curve == expected.curve


class Stream(IterableDataset):
    """Gone after one pass."""

    def __init__(self):
        self.items = iter(list(zip(*images(), strict=True)))

    def __iter__(self):
        return self.items


class Wrapped(Restarting):
    """With a method and attributes of names that the package has too."""

    batch_size, labels, images, transforms, generator, to = "all", ["a"], [], len, None, None


@pytest.mark.parametrize("make", [
    lambda: changed(lambda X, y: (X.numpy(), y.numpy().astype(np.int16))),
    Wrapped, Restarting, lambda: iter(batches()), lambda: DataLoader(Stream(), 4),
    lambda: DataLoader(TensorDataset(*images()), 4),
])  # fmt: skip
def test_iterators_of_a_readers_own_are_gone_over_as_they_are(make):
    expected = train(small_net(), batches(), seed=0)
    history = train(small_net(), make(), batches(), seed=0)
    assert history.num_samples == 12 and history.train_loss == expected.train_loss
    assert train(small_net(), batches(), make(), seed=0).test_acc == expected.test_acc


def test_training_data_is_drawn_as_if_nobody_had_looked():
    """The order, and all that is drawn to make the images, as by the loop that a reader writes."""

    drawn = []

    class Drawing(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            drawn.append((index, np.random.rand(), torch.rand(()).item(), random.random()))
            return images()[0][index], images()[1][index]

    def loader():
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(1)
        sampler = RandomSampler(range(12), generator=torch.Generator().manual_seed(5))
        return DataLoader(Drawing(), 4, sampler=sampler)

    train(small_net(), loader(), batches(), seed=4, num_epochs=2)
    net, by_hand = small_net(), loader()
    torch.manual_seed(4)
    net.apply(d2l.train.init_xavier)
    list(by_hand), list(by_hand)
    assert drawn[4:28] == drawn[28:]  # the look before the training makes a batch


def test_networks_that_name_classes_and_convolve_in_three_dimensions():
    naming = Net()
    naming.after = lambda scores: scores if naming.training else scores.argmax(1)
    expected = train(small_net(), batches(), seed=0)
    assert train(naming, batches(), seed=0).test_acc == expected.test_acc
    three = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), nn.Flatten(),
                          nn.Linear(72, 3))  # fmt: skip
    assert train(three, batches()).test_acc


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_any_type(kind):
    train_iter, _ = d2l.load_data_fashion_mnist(kind(4), kind(12))
    assert next(iter(train_iter))[0].shape == (4, 1, 12, 12)
    history = train(small_net(), batches(), num_epochs=kind(2), seed=kind(3))
    assert len(history.test_acc) == 2 and type(history.seed) is int
    assert d2l.try_gpu(kind(0)) == d2l.try_gpu(0)
