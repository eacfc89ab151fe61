"""The trainer: the reference's numbers, and a clear end to every way a run can go wrong."""

import copy
import io
import math
import re

import matplotlib
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import d2lmini as d2l
from d2lmini import animator, train
from tools import notebooks

# The reference's own plot, for a single epoch.
pytestmark = pytest.mark.filterwarnings("ignore:Attempting to set identical low and high xlims")

every_chapter = pytest.mark.parametrize("name", notebooks.names())


def random_batches(num_batches=5, batch_size=4, side=8, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(batch_size, 1, side, side, generator=generator),
            torch.randint(num_classes, (batch_size,), generator=generator),
        )
        for _ in range(num_batches)
    ]


def small_net(side=8, num_classes=3):
    """Convolution, pooling, both kinds of dropout input and a fully connected head."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * (side // 2) ** 2, 8), nn.ReLU(), nn.Dropout(),
        nn.Linear(8, num_classes))  # fmt: skip


def run(net, batches, *, num_epochs=1, lr=0.1, test=None, **arguments):
    return d2l.train_ch6(net, batches, batches if test is None else test, num_epochs, lr, "cpu",
                         **arguments)  # fmt: skip


@pytest.fixture(autouse=True)
def no_idle_card(monkeypatch):
    """What is printed is the same on a machine whose torch does not know its NVIDIA card."""
    monkeypatch.setattr(train, "cuda_missing", lambda: "")


@pytest.fixture
def reference(monkeypatch):
    """d2l 0.17.0's train_ch6, returning (losses, train accs, test accs), a value an epoch each."""
    matplotlib.use("Agg")
    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr(display, "set_matplotlib_formats", lambda *formats: None, raising=False)
    monkeypatch.setattr(display, "display", lambda *objects: None)
    monkeypatch.setattr(display, "clear_output", lambda wait=False: None)
    d2l_0_17 = pytest.importorskip("d2l.torch")
    animators = []

    class Recorder(d2l_0_17.Animator):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            animators.append(self)

    monkeypatch.setattr(d2l_0_17, "Animator", Recorder)

    def train_reference(net, train_iter, test_iter, num_epochs, lr, seed):
        torch.manual_seed(seed)
        d2l_0_17.train_ch6(net, train_iter, test_iter, num_epochs, lr, torch.device("cpu"))
        curves = zip(animators[-1].X, animators[-1].Y, strict=True)
        # Points lie at each fifth of an epoch; those at its end are the epoch's means.
        return [
            [float(y) for x, y in zip(*curve, strict=True) if float(x).is_integer()]
            for curve in curves
        ]

    yield train_reference
    d2l_0_17.plt.close("all")


def assert_same_training(reference, net, batches, test, num_epochs, lr, **arguments):
    """Train `net` and a copy of it with both trainers; the numbers and the weights agree."""
    twin = copy.deepcopy(net)
    expected = reference(twin, batches, test, num_epochs, lr, seed=3)
    history = run(net, batches, num_epochs=num_epochs, lr=lr, test=test, seed=3, **arguments)
    assert history.stopped is None
    for measured, curve in zip(
        (history.train_loss, history.train_acc, history.test_acc), expected, strict=True
    ):
        assert len(measured) == num_epochs
        assert measured == pytest.approx(curve, abs=1e-4)
    for own, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


# --- the reference's numbers ---------------------------------------------------------------------


def sample(name, num_batches, batch_size=2, dtype=torch.float32):
    side = notebooks.chapter(name).side
    generator = torch.Generator().manual_seed(0)
    iterators = d2l.load_data_fashion_mnist(batch_size, resize=side, generator=generator)
    return [
        [(X.to(dtype), y) for X, y in list(data_iter)[:count]]
        for data_iter, count in zip(iterators, (num_batches, 2), strict=True)
    ]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "nin" else pytest.param(name, marks=pytest.mark.slow)
        for name in notebooks.names()
    ],
)
def test_each_chapter_trains_as_with_the_reference(reference, name):
    batch_size = 1 if name in ("alexnet", "vgg") else 2
    num_epochs = 2 if name == "googlenet" else 1
    net = notebooks.network_namespace(name)["net"]
    batches, test = sample(name, 5, batch_size)
    lr = notebooks.chapter(name).lr
    assert_same_training(reference, net, batches, test, num_epochs, lr, precision="fp32")


@pytest.mark.full
@every_chapter
def test_each_chapter_trains_as_with_the_reference_for_longer(reference, name):
    net = notebooks.network_namespace(name)["net"]
    batches, test = sample(name, num_batches=5)
    lr = notebooks.chapter(name).lr
    assert_same_training(reference, net, batches, test, 9, lr, precision="fp32")


class OrderedDropout(nn.Dropout):
    """Dropout that draws its mask in the order of the indices, whatever the memory layout."""

    def forward(self, X):
        if not self.training:
            return X
        return X * torch.empty(X.shape, dtype=X.dtype).bernoulli_(1 - self.p) / (1 - self.p)


@pytest.mark.full
@every_chapter
def test_the_fast_layout_computes_the_same_function(reference, name):
    """In float64: enlarged images are full of nearly equal values, and in float32 rounding decides
    which of them max-pooling takes, so that the two layouts drift apart by 1e-3 in a few steps."""
    net = notebooks.network_namespace(name)["net"].double()
    for module in net.modules():  # NiN's dropout sees images, and would draw in memory order
        if isinstance(module, nn.Dropout):
            module.__class__ = OrderedDropout
    batches, test = sample(name, 5, dtype=torch.float64)
    assert_same_training(reference, net, batches, test, 1, notebooks.chapter(name).lr)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_small_network_trains_as_with_the_reference(reference, precision):
    batches = random_batches(11, batch_size=8)
    batches[-1] = tuple(t[:3] for t in batches[-1])  # means are weighted by the samples
    test = random_batches(3, seed=1)
    assert_same_training(reference, small_net(), batches, test, 4, 0.1, precision=precision)


def test_sixteen_bits_run_under_autocast_and_learn_about_the_same():
    seen = []

    class Spy(nn.Linear):
        def forward(self, X):
            scores = super().forward(X)
            seen.append((self.training, scores.dtype))
            return scores

    histories = {}
    for precision, dtype in [("fp32", torch.float32), ("bf16", torch.bfloat16)]:
        net = small_net()
        net[-1].__class__ = Spy
        seen.clear()
        histories[precision] = run(net, random_batches(), num_epochs=2, seed=0, precision=precision)
        assert set(seen) - {(False, torch.float64)} == {(True, dtype), (False, dtype)}
        assert histories[precision].precision == precision
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert histories["bf16"].train_loss == pytest.approx(histories["fp32"].train_loss, rel=0.05)
    assert histories["bf16"].train_loss != histories["fp32"].train_loss


def test_only_fp16_scales_its_gradients(monkeypatch):
    scalers = []
    original = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda *a, **k: scalers.append(original(*a, **k)) or scalers[-1]
    )
    for precision in ("fp32", "tf32", "auto", "bf16", "fp16"):
        history = run(small_net(), random_batches(2), precision=precision)
        assert scalers[-1].is_enabled() == (precision == "fp16")
        assert math.isfinite(history.train_loss[0])


def parts_seen(net, batch_size, **arguments):
    """Numbers of images that `net` is given at once in training, and all that it is given."""
    seen = []

    def note(net, args):
        if net.training:
            seen.append(len(args[0]))

    net.register_forward_pre_hook(note)
    run(net, random_batches(1, batch_size), **arguments)
    return seen


def test_a_cpu_takes_a_large_batch_in_parts():
    assert parts_seen(small_net(), 64) == [64]
    assert parts_seen(small_net(), 65) == [33, 32]
    assert parts_seen(small_net(), 130) == [44, 44, 42]
    assert parts_seen(small_net(), 130, precision="fp32") == [130]


class OwnBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, X):
        return self.scale * (X - X.mean(0)) / (X.var(0) + 1e-5).sqrt()


class Centred(nn.Module):
    def forward(self, X):
        return X - X.mean(0)


@pytest.mark.parametrize(
    "layer",
    [
        Centred(),
        nn.BatchNorm1d(3),
        nn.BatchNorm1d(3, affine=False, track_running_stats=False),
        nn.LazyBatchNorm1d(),
        OwnBatchNorm(),
    ],
)
def test_images_that_depend_on_each_other_stay_together(layer):
    net = small_net().append(layer)
    net(random_batches(1)[0][0])
    assert parts_seen(net, 65) == [65]


def test_a_batch_in_parts_trains_as_with_the_reference(reference):
    """The parts count by their sizes, in the gradient and in the means."""
    net = small_net()
    net[6] = nn.Identity()  # a mask for each part is not the mask of the whole
    batches = random_batches(5, batch_size=130)
    assert_same_training(reference, net, batches, random_batches(1), 2, 0.1)


def test_memory_that_training_kept_is_released_before_each_evaluation(monkeypatch):
    calls = []
    evaluate = train.evaluate
    monkeypatch.setattr(train, "trim_heap", lambda device: calls.append("release"))
    monkeypatch.setattr(
        train, "evaluate", lambda *args: calls.append("evaluate") or evaluate(*args)
    )
    run(small_net(), random_batches(), num_epochs=2)
    assert calls == ["release"] + ["release", "evaluate"] * 2  # the first after the look


def test_weights_are_in_the_ordinary_layout_again():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    strides = []
    net[0].register_forward_pre_hook(lambda module, _: strides.append(module.weight.stride()))
    batches = [(torch.rand(2, 2, 8, 8), torch.tensor([0, 1]))]
    run(net, batches)
    assert strides[0] == (18, 1, 6, 2)  # channels innermost
    assert net[0].weight.is_contiguous()


def test_weights_are_xavier_uniform_and_biases_stay(monkeypatch):
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(8, 64, kernel_size=5), nn.Conv2d(64, 32, 3, groups=2)),
        nn.Flatten(), nn.Linear(32 * 4, 300), nn.BatchNorm1d(300), nn.Linear(300, 3))  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7.0)
    monkeypatch.setattr(train, "train_epoch", lambda *args: args[-2].history.__setattr__(
        "stopped", "ended by the test"))  # fmt: skip
    run(net, [(torch.rand(2, 8, 8, 8), torch.tensor([0, 1]))], seed=0)
    fans = {
        "0.0": (8 * 25, 64 * 25), "0.1": (32 * 9, 32 * 9),  # a group's filter sees 32 channels
        "2": (32 * 4, 300), "4": (300, 3),
    }  # fmt: skip
    for name, (fan_in, fan_out) in fans.items():
        module = net.get_submodule(name)
        bound = math.sqrt(6 / (fan_in + fan_out))
        weight = module.weight.detach()
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.98 * bound
        # Standard errors of mean and standard deviation of a uniform sample, five of them.
        error = 5 * bound / math.sqrt(3 * weight.numel())
        assert abs(weight.mean()) < error
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), abs=error)
        assert (module.bias == 7).all()
    assert (net[3].weight == 7).all()


class Under(nn.Module):
    """Under another module, so that `apply` meets it as it meets a reader's."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, X):
        return self.layer(X)


@pytest.mark.parametrize(
    "make",
    [
        lambda layer: nn.utils.parametrizations.weight_norm(layer),
        lambda layer: torch.jit.script(Under(layer)).layer,
        lambda layer: layer,
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(300, 200), nn.Conv2d(8, 64, 5, groups=2)])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_weights_that_are_computed_are_initialised_too(make, layer):
    made = make(copy.deepcopy(layer))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(0.5)
    torch.manual_seed(0)
    nn.Sequential(made).apply(train.init_xavier)
    expected = torch.empty_like(layer.weight)
    torch.manual_seed(0)
    nn.init.xavier_uniform_(expected)
    made(torch.zeros(1, *([300] if isinstance(layer, nn.Linear) else [8, 9, 9])))
    torch.testing.assert_close(made.weight, expected, rtol=1e-5, atol=1e-6)
    assert (made.bias == 0.5).all()


# --- what it measures and prints -----------------------------------------------------------------


def test_history_and_printed_lines(capsys, monkeypatch):
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(train.time, "perf_counter", lambda: float(next(clock)))
    batches = random_batches(3, batch_size=5)
    history = run(small_net(), batches, num_epochs=2, seed=7, test=random_batches(2))
    assert (history.device, history.precision, history.seed) == ("cpu", "fp32, channels last", 7)
    assert history.num_samples == 15
    assert history.stopped is None
    for values in (history.train_loss, history.train_acc, history.test_acc,
                   history.train_seconds, history.test_seconds):  # fmt: skip
        assert len(values) == 2
        assert all(isinstance(value, float) for value in values)
    assert history.examples_per_sec == 30 / sum(history.train_seconds)
    assert [point[0] for point in history.curve if point[3] is not None] == [1, 2]
    assert history.curve[-1] == (
        2, history.train_loss[-1], history.train_acc[-1], history.test_acc[-1]
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training on cpu"
    assert lines[-2] == (
        f"loss {history.train_loss[-1]:.3f}, train acc {history.train_acc[-1]:.3f}, "
        f"test acc {history.test_acc[-1]:.3f}"
    )
    assert re.fullmatch(r"loss \d\.\d{3}, train acc [01]\.\d{3}, test acc [01]\.\d{3}", lines[-2])
    assert lines[-1] == f"{history.examples_per_sec:.1f} examples/sec on cpu"
    assert re.fullmatch(r"\d+\.\d examples/sec on cpu", lines[-1])
    assert "2 epochs on cpu, fp32" in repr(history)
    assert run(small_net(), batches, precision="fp32").precision == "fp32"


def test_the_clock_counts_the_wait_for_data(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: now[0])

    class SlowLoader(list):
        def __iter__(self):
            for batch in super().__iter__():
                now[0] += 2.0
                yield batch

    history = run(small_net(), SlowLoader(random_batches(5)), num_epochs=2, test=random_batches(1))
    assert history.train_seconds == [10.0, 10.0]
    assert history.examples_per_sec == 2.0  # 4 images every 2 seconds


class Ticking(list):
    """Batches each of which takes some seconds of a test's own clock to come."""

    clock, seconds = None, 0

    def __iter__(self):
        for batch in super().__iter__():
            self.clock[0] += self.seconds
            yield batch


@pytest.fixture
def ticking(monkeypatch):
    """Make batches tick: `ticking(batches, seconds)`."""
    clock = [100.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])

    def make(batches, seconds):
        made = Ticking(batches)
        made.clock, made.seconds = clock, seconds
        return made

    return make


def test_what_the_clock_feeds(ticking, monkeypatch):
    """Seconds of training and of evaluation, the rate, and the time left under the plot."""
    told = []

    class Telling(d2l.Animator):
        def redraw(self, status=None):
            told.append(status)

    monkeypatch.setattr(animator, "Animator", Telling)
    history = run(small_net(), ticking(random_batches(10), 2.0), num_epochs=3,
                  test=ticking(random_batches(2, seed=1), 1.5))  # fmt: skip
    assert history.train_seconds == [20.0] * 3 and history.test_seconds == [3.0] * 3
    assert history.examples_per_sec == 2.0
    # Two seconds for four images; an epoch takes 20 s, and 3 s more since one evaluation is known.
    expected = [
        f"epoch {epoch}/3, batch {batch}/10, 2 examples/sec, about {left} min left"
        for epoch, lefts in enumerate(
            [("0:56", "0:52", "0:48", "0:44"), ("0:41", "0:37", "0:32", "0:28"),
             ("0:18", "0:14", "0:09", "0:05")], start=1)
        for batch, left in zip((2, 4, 6, 8), lefts, strict=True)
    ]  # fmt: skip
    assert [status for status in told if status] == expected


def test_progress_of_a_stream_has_no_end_to_tell(ticking, monkeypatch):
    told = []
    monkeypatch.setattr(d2l.Animator, "progress", lambda self, status: told.append(status))

    class Stream:
        def __iter__(self):
            return iter(ticking(random_batches(3), 2.0))

    run(small_net(), Stream(), test=random_batches(1))
    assert [status for status in told if status] == [
        "epoch 1/1, batch 1/?, 2 examples/sec",
        "epoch 1/1, batch 2/?, 2 examples/sec",
        "epoch 1/1, batch 3/?, 2 examples/sec",
    ]


class Terminal(io.StringIO):
    """A terminal of 60 columns, or a file, and what is to be seen of it afterwards."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal

    def lines(self):
        seen = []
        for line in self.getvalue().split("\n"):
            cells = {}
            for part in line.split("\r"):
                cells.update(enumerate(part))
                assert len(part) < 60, "it wraps"
            seen.append("".join(cells[i] for i in sorted(cells)).rstrip())
        return seen


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_progress_on_one_line_and_a_file_does_not(
    is_terminal, ticking, monkeypatch
):
    terminal = Terminal(is_terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    batches = ticking(random_batches(10), 2.0)
    history = run(small_net(), batches, num_epochs=2, test=random_batches(1))
    printed = terminal.getvalue()
    assert ("\r" in printed) == is_terminal
    assert printed.count("batch 3/10, 2 examples/sec") == (2 if is_terminal else 0)
    *lines, last = terminal.lines()
    assert last == "" and lines[0] == "training on cpu"
    assert [line.split(":")[0] for line in lines[1:3]] == ["epoch 1", "epoch 2"]
    assert lines[3].startswith(f"loss {history.train_loss[-1]:.3f}") and len(lines) == 5


def test_examples_per_sec_is_nan_before_the_first_epoch():
    assert math.isnan(d2l.History("cpu", "fp32").examples_per_sec)


def test_five_points_an_epoch_whatever_the_number_of_batches():
    for num_batches, positions in [
        (1, [1.0]),
        (2, [0.5, 1.0]),
        (4, [0.25, 0.5, 0.75, 1.0]),
        (5, [0.2, 0.4, 0.6, 0.8, 1.0]),
        (12, [3 / 12, 5 / 12, 8 / 12, 10 / 12, 1.0]),
    ]:
        history = run(small_net(), random_batches(num_batches, batch_size=1))
        assert [point[0] for point in history.curve] == pytest.approx(positions)


# --- data and devices that are not the book's ----------------------------------------------------


def test_a_plain_data_loader_and_a_data_set_without_length():
    images, labels = (torch.cat(parts) for parts in zip(*random_batches(5), strict=True))

    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(images, labels, strict=True)

    def trained_on(batches):
        net = small_net()
        net[-2].p = 0.0  # a DataLoader draws a random number too, and dropout would go another way
        return run(net, batches, seed=0, test=random_batches(5))

    expected = trained_on(random_batches(5))
    for loader in (DataLoader(TensorDataset(images, labels), 4), DataLoader(Stream(), 4)):
        history = trained_on(loader)
        assert history.num_samples == 20
        assert history.train_acc == expected.train_acc
        assert history.train_loss == pytest.approx(expected.train_loss, abs=1e-4)


def test_a_seed_fixes_weights_order_and_dropout():
    def weights(seed):
        train_iter, test_iter = d2l.load_data_fashion_mnist(8)
        net = small_net(side=28, num_classes=10)
        run(net, train_iter, test=test_iter, num_epochs=2, seed=seed)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    first = weights(0)
    torch.rand(3)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_the_network_is_left_ready_for_use():
    net = small_net()
    run(net, random_batches(), num_epochs=2)
    assert not any(module.training for module in net.modules())


class Viewing(nn.Module):
    """As in every tutorial: maps are viewed as vectors."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, X):
        return self.linear(self.conv(X).view(-1, 4 * 64))


def test_a_network_that_calls_view_trains_in_the_references_layout():
    nets = [copy.deepcopy(small) for small in [Viewing()] * 2]
    histories = [run(net, random_batches(), seed=0, precision=precision)
                 for net, precision in zip(nets, ("tf32", "fp32"), strict=True)]  # fmt: skip
    assert [history.precision for history in histories] == ["fp32", "fp32"]
    assert histories[0].train_loss == histories[1].train_loss
    assert all(map(torch.equal, *(net.parameters() for net in nets)))


def test_a_readers_autocast_outside_changes_nothing():
    for precision in ("fp32", "bf16"):
        nets = [small_net() for _ in range(2)]
        expected = run(nets[0], random_batches(), num_epochs=3, seed=0, precision=precision)
        with torch.autocast("cpu", torch.bfloat16):
            history = run(nets[1], random_batches(), num_epochs=3, seed=0, precision=precision)
        assert history.train_loss == expected.train_loss
        assert len(set(history.train_loss)) == 3
        assert all(map(torch.equal, *(net.parameters() for net in nets)))


def test_other_errors_of_a_network_are_its_own():
    class Broken(nn.Linear):
        def forward(self, X):
            raise RuntimeError("a mistake in forward")

    with pytest.raises(RuntimeError, match=r"^a mistake in forward$"):
        run(Broken(2, 2), random_batches())


# --- runs that end early -------------------------------------------------------------------------


def dead_net():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU())
    nn.init.constant_(net[1].bias, -1000.0)
    return net


def test_scores_stuck_at_zero_are_reported_at_once(capsys):
    served = []

    class Counted(list):
        def __iter__(self):
            for batch in super().__iter__():
                served.append(1)
                yield batch

    history = run(dead_net(), Counted(random_batches(20)), num_epochs=3, lr=0.1)
    assert "all scores were exactly 0 in epoch 1" in history.stopped
    assert "lr=0.05" in history.stopped and "anew" in history.stopped
    assert len(served) == 2 + 4  # the look, on whose second pass nothing is taken; a fifth
    assert history.test_acc == []
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["training on cpu", f"stopped early, 0 whole epochs done: {history.stopped}"]


def test_scores_that_start_at_zero_are_not_dead():
    """Softmax regression from zero weights, in an epoch of one batch."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    history = run(net, random_batches(1), num_epochs=2, init_weights=False)
    assert history.stopped is None and history.train_loss[1] < history.train_loss[0]


def test_a_card_that_torch_does_not_know_is_told_of_under_the_device(monkeypatch, capsys):
    monkeypatch.setattr(train, "cuda_missing", lambda: "this machine has an NVIDIA GPU, but …")
    run(small_net(), random_batches(2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["training on cpu", "this machine has an NVIDIA GPU, but …"]


def test_a_score_that_lives_is_not_stuck():
    net = dead_net()
    nn.init.constant_(net[1].bias[:1].data, 1000.0)
    assert run(net, random_batches(5)).stopped is None


@pytest.mark.parametrize("num_batches", [1, 5])
def test_a_loss_that_is_not_finite(num_batches, capsys):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 3))
    history = run(net, random_batches(num_batches), num_epochs=60, lr=1e20)
    assert re.search(r"the loss became (nan|inf) in epoch \d+.*lr=1e\+19", history.stopped)
    assert len(history.test_acc) < 60
    assert "stopped early" in capsys.readouterr().out


class Interrupted(list):
    """Batches that Ctrl-C interrupts in the second epoch, after a pass of the look."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        for number, batch in enumerate(super().__iter__()):
            if self.passes == 3 and number == 3:
                raise KeyboardInterrupt
            yield batch


def test_ctrl_c_keeps_network_plot_and_history(capsys):
    net = small_net()
    history = run(net, Interrupted(random_batches()), test=random_batches(), num_epochs=4, seed=0)
    assert history.stopped == "interrupted"
    undisturbed = run(small_net(), random_batches(), num_epochs=1, seed=0)
    assert history.train_loss == undisturbed.train_loss
    assert history.test_acc == undisturbed.test_acc
    assert [p[0] for p in history.curve] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6])
    assert net[0].weight.is_contiguous()
    out = capsys.readouterr().out
    assert "stopped early, 1 whole epochs done: interrupted" in out
    assert d2l.evaluate_accuracy_gpu(net, random_batches()) >= 0


def test_ctrl_c_in_the_first_epoch():
    batches = Interrupted(random_batches())
    batches.passes = 1
    history = run(small_net(), batches, test=random_batches())
    assert history.stopped == "interrupted"
    assert history.train_loss == [] and math.isnan(history.examples_per_sec)


class Greedy(nn.Linear):
    """Runs out of memory, in the way of a GPU, a CPU or a CUDA library."""

    error, when, calls = None, "training", 0

    def forward(self, X):
        self.calls += not self.training
        if self.training if self.when == "training" else self.calls > 4:  # after the look
            raise self.error
        return super().forward(X)


CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 64 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64 GiB"),
        RuntimeError(CPU_MESSAGE),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
@pytest.mark.parametrize("when", ["training", "evaluation", "backward"])
def test_out_of_memory_says_what_to_try(error, when):
    net = nn.Sequential(nn.Flatten(), Greedy(64, 3))
    net[1].error, net[1].when = error, when
    if when == "backward":
        net[1].__class__ = nn.Linear

        def raise_error(*gradients):
            raise error

        net[1].weight.register_hook(raise_error)
    with pytest.raises(RuntimeError) as caught:
        run(net, random_batches(batch_size=6))
    message = str(caught.value)
    if when == "evaluation":  # an epoch is trained, and not lost
        history = caught.value.history
        assert len(history.train_loss) == 1 and history.test_acc == []
    assert re.match(r"out of memory with .*try batches of 3 or a smaller resize", message)
    assert str(error) in message


def test_memory_that_really_is_not_there():
    class Huge(nn.Linear):
        def forward(self, X):
            return torch.empty(1 << 58)

    with pytest.raises(RuntimeError, match=r"try less or a smaller resize"):
        run(Huge(2, 3), random_batches(batch_size=1))
