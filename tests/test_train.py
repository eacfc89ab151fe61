"""The trainer: the reference's numbers, and a clear end to every way a run can go wrong."""

import copy
import io
import math
import re
import types

import pytest
import torch
from torch import nn

import d2lmini as d2l
from d2lmini import animator
from d2lmini import train as trainer
from tests.support import (
    Net,
    assert_same_weights,
    batches,
    images,
    iterator,
    raise_at,
    small_net,
    train,
)
from tools import notebooks


@pytest.fixture(autouse=True)
def no_idle_card(monkeypatch):
    """What is printed is the same on a machine whose torch does not know its NVIDIA card."""
    monkeypatch.setattr(trainer, "cuda_missing", lambda: "")


# --- the reference's numbers ---------------------------------------------------------------------


@pytest.fixture
def reference(monkeypatch):
    """d2l 0.17.0's train_ch6, returning (losses, train accs, test accs), a value an epoch each."""
    d2l_0_17, points = pytest.importorskip("d2l.torch"), []

    class Noting:
        """In place of its plot."""

        def __init__(self, **options):
            points.clear()

        def add(self, x, y):
            points.append((float(x), y))

    monkeypatch.setattr(d2l_0_17, "Animator", Noting)

    def train_reference(*arguments, seed):
        torch.manual_seed(seed)
        d2l_0_17.train_ch6(*arguments, torch.device("cpu"))
        # Points lie at each fifth of an epoch; those at its end are the epoch's means.
        return [[y[k] for x, y in points if x.is_integer() and y[k] is not None] for k in range(3)]

    return train_reference


def assert_same_training(reference, net, train_iter, test_iter, num_epochs, lr, **options):
    """Train `net` and a copy of it with both trainers; the numbers and the weights agree."""
    twin = copy.deepcopy(net)
    expected = reference(twin, train_iter, test_iter, num_epochs, lr, seed=3)
    history = train(net, train_iter, test_iter, num_epochs, lr, seed=3, **options)
    assert history.stopped is None
    measured = history.train_loss, history.train_acc, history.test_acc
    for values, curve in zip(measured, expected, strict=True):
        assert len(values) == num_epochs and values == pytest.approx(curve, abs=1e-4)
    for own, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


def sample(name, batch_size):
    """Five training batches and two test batches of a chapter."""
    side, generator = notebooks.chapter(name).side, torch.Generator().manual_seed(0)
    iterators = d2l.load_data_fashion_mnist(batch_size, resize=side, generator=generator)
    return [list(data_iter)[:count] for data_iter, count in zip(iterators, (5, 2), strict=True)]


@pytest.mark.parametrize(
    ("name", "num_epochs"),
    [
        *(pytest.param(name, 1, marks=[] if name == "nin" else pytest.mark.slow)
          for name in notebooks.names()),
        *(pytest.param(name, 9, marks=pytest.mark.full) for name in notebooks.names()),
    ],
)  # fmt: skip
def test_each_chapter_trains_as_with_the_reference(reference, name, num_epochs):
    net = notebooks.network_namespace(name)["net"]
    data = sample(name, batch_size=1 if name in ("alexnet", "vgg") and num_epochs == 1 else 2)
    lr = notebooks.chapter(name).lr
    assert_same_training(reference, net, *data, num_epochs, lr, precision="fp32")


@pytest.mark.parametrize(
    ("batch_size", "dropout", "precision"),
    [
        (8, 0.5, "fp32"),
        (8, 0.5, "tf32"),
        (130, 0, "tf32"),  # in parts, for each of which dropout would have a mask of its own
    ],
)
def test_a_small_network_trains_as_with_the_reference(reference, batch_size, dropout, precision):
    """Means are weighted by the samples: the last batch has three."""
    data = batches(10 * batch_size + 3, batch_size), batches(12, seed=1)
    net = small_net(dropout=dropout)
    assert_same_training(reference, net, *data, 3, 0.1, precision=precision)


@pytest.mark.parametrize(
    ("precision", "dtype", "name"),
    [
        ("fp32", torch.float32, "fp32"),
        ("tf32", torch.float32, "fp32, channels last"),
        ("bf16", torch.bfloat16, "bf16"),
        ("fp16", torch.float16, "fp16"),
    ],
)
def test_arithmetic_of_a_run(precision, dtype, name, monkeypatch):
    """Autocast in training and evaluation, scaled gradients for fp16, weights and layout."""
    net, seen, scalers, make = small_net(), set(), [], torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda *a, **k: scalers.append(make(*a, **k)) or scalers[-1]
    )
    net[6].register_forward_hook(lambda layer, _, Y: seen.add((layer.training, Y.dtype)))
    strides = []
    net[3].register_forward_pre_hook(lambda layer, _: strides.append(layer.weight.stride()))
    expected = train(small_net(), batches(), num_epochs=2, seed=0, precision="fp32")
    history = train(net, batches(), num_epochs=2, seed=0, precision=precision)
    assert history.precision == name and seen == {(True, dtype), (False, dtype)}
    assert scalers[-1].is_enabled() == (precision == "fp16")
    assert history.train_loss == pytest.approx(expected.train_loss, rel=0.05)
    assert (history.train_loss != expected.train_loss) or "32" in precision
    channels_innermost, usual = (36, 1, 12, 4), (36, 9, 3, 1)
    assert set(strides) == {usual if precision == "fp32" else channels_innermost}
    assert net[3].weight.stride() == usual
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "batch_size", "precision", "expected"),
    [
        (small_net(), 64, "tf32", [64]),
        (small_net(), 65, "tf32", [33, 32]),
        (small_net(), 130, "tf32", [44, 44, 42]),
        (small_net(), 130, "fp32", [130]),
        # Images that depend on each other stay together.
        (Net(after=lambda scores: scores - scores.mean(0)), 65, "tf32", [65]),
        (small_net().append(nn.BatchNorm1d(3)), 65, "tf32", [65]),
    ],
)
def test_a_cpu_takes_a_large_batch_in_parts(net, batch_size, precision, expected):
    seen = []
    net.register_forward_pre_hook(lambda net, args: seen.append((len(args[0]), net.training)))
    train(net, batches(batch_size, batch_size), batches(), precision=precision)
    assert [size for size, is_training in seen if is_training] == expected


def test_memory_that_training_kept_is_released_before_each_evaluation(monkeypatch):
    calls, evaluate = [], trainer.evaluate
    monkeypatch.setattr(trainer, "trim_heap", lambda device: calls.append("release"))
    monkeypatch.setattr(
        trainer, "evaluate", lambda *args: calls.append("evaluate") or evaluate(*args)
    )
    train(small_net(), batches(), num_epochs=2)
    assert calls == ["release"] + ["release", "evaluate"] * 2  # the first after the look


def test_training_starts_from_xavier_weights_and_leaves_the_rest():
    convolutions = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Conv2d(6, 4, 3, groups=2))
    head = nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
    net = nn.Sequential(convolutions, nn.Flatten(), *head)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 7.0)
    train(net, batches(), lr=1e-30, seed=0)  # nothing moves
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            expected = nn.init.xavier_uniform_(torch.empty_like(module.weight))
            torch.testing.assert_close(module.weight, expected, rtol=0, atol=1e-7)
            assert (module.bias == 7).all()
    assert (net[3].weight == 7).all()


@pytest.mark.parametrize(
    "make",
    [
        nn.utils.parametrizations.weight_norm,
        lambda layer: torch.jit.script(nn.Sequential(layer))[0],
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(9, 4), nn.Conv2d(8, 6, 3, groups=2)])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_weights_that_are_computed_are_initialised_too(make, layer):
    made = make(copy.deepcopy(layer))
    torch.manual_seed(0)
    nn.Sequential(made).apply(trainer.init_xavier)
    torch.manual_seed(0)
    expected = nn.init.xavier_uniform_(torch.empty_like(layer.weight))
    made(torch.zeros(1, 9) if isinstance(layer, nn.Linear) else torch.zeros(1, 8, 9, 9))
    torch.testing.assert_close(made.weight, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(made.bias, layer.bias)


# --- what it measures and prints -----------------------------------------------------------------


@pytest.fixture
def ticking(monkeypatch):
    """`ticking(data, seconds)` are batches that take so long to come, by a test's own clock."""
    clock = [100.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: clock[0])

    class Ticking(list):
        def __iter__(self):
            for batch in super().__iter__():
                clock[0] += self.seconds
                yield batch

    def make(data, seconds):
        made = Ticking(data)
        made.seconds = seconds
        return made

    return make


def test_history_printed_lines_and_what_the_clock_feeds(ticking, monkeypatch, capsys):
    """Seconds of training and of evaluation, the rate, and the time left under the plot."""
    told, net = [], small_net()
    monkeypatch.setattr(trainer, "cuda_missing", lambda: "a card that torch does not know")
    monkeypatch.setattr(d2l.Animator, "redraw", lambda self, status=None: told.append(status))
    data = ticking(batches(40), 2.0), ticking(batches(8), 1.5)
    history = train(net, *data, num_epochs=3, seed=7)
    assert (history.device, history.precision, history.seed) == ("cpu", "fp32, channels last", 7)
    assert history.num_samples == 40 and history.stopped is None and not net.training
    assert history.train_seconds == [20.0] * 3 and history.test_seconds == [3.0] * 3
    assert history.examples_per_sec == 2.0 and len(history.cpu_seconds) == 3
    ends = zip((1, 2, 3), history.train_loss, history.train_acc, history.test_acc, strict=True)
    assert [point for point in history.curve if point[3] is not None] == list(ends)
    # Two seconds for four images; an epoch takes 20 s, and 3 s more since one evaluation is known.
    lefts = ["0:56", "0:52", "0:48", "0:44", "0:41", "0:37", "0:32", "0:28",
             "0:18", "0:14", "0:09", "0:05"]  # fmt: skip
    statuses = list(filter(None, told))
    assert [status.split("about ")[1].split()[0] for status in statuses] == lefts
    assert statuses[0].startswith("epoch 1/3, batch 2/10, 2 examples/sec")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["training on cpu", "a card that torch does not know"]
    assert lines[-2:] == [history.results(), "2.0 examples/sec on cpu"]
    results = f"{history.train_loss[2]:.3f} {history.train_acc[2]:.3f} {history.test_acc[2]:.3f}"
    assert re.findall(r"\d\.\d+", history.results()) == results.split()
    assert repr(history) == f"History(3 epochs on cpu, fp32, channels last, {history.results()})"


def test_progress_of_a_stream_has_no_end_to_tell(ticking, monkeypatch):
    told = []
    monkeypatch.setattr(d2l.Animator, "progress", lambda self, status: told.append(status))

    class Stream:
        def __iter__(self):
            return iter(ticking(batches(), 2.0))

    train(small_net(), Stream(), batches())
    assert list(filter(None, told)) == [
        f"epoch 1/1, batch {number}/?, 2 examples/sec" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_progress_on_one_line_and_a_file_does_not(
    is_terminal, ticking, monkeypatch
):
    terminal = io.StringIO()
    terminal.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "50")
    train(small_net(), ticking(batches(40), 2.0), batches(), num_epochs=2)
    printed = terminal.getvalue()
    assert ("\r" in printed) == is_terminal
    assert printed.count("batch 3/10, 2 examples/sec") == (2 if is_terminal else 0)
    lines = [line.split("\r") for line in printed.split("\n")]
    assert all(len(part) < 50 for line in lines for part in line[:-1]), "it wraps"
    for *told, blank, text in (line for line in lines if len(line) > 1):
        assert not blank.strip() and len(blank) >= len(told[-1]), f"under {text} it shows"
    ends = [line[-1] for line in lines]
    assert [end.split(" ")[0] for end in ends[:4]] == ["training", "epoch", "epoch", "loss"]
    assert ends[5:] == [""]


@pytest.mark.parametrize(
    ("num_batches", "positions"),
    [
        (1, [1.0]),
        (2, [0.5, 1.0]),
        (4, [0.25, 0.5, 0.75, 1.0]),
        (5, [0.2, 0.4, 0.6, 0.8, 1.0]),
        (12, [3 / 12, 5 / 12, 8 / 12, 10 / 12, 1.0]),
    ],
)
def test_five_points_an_epoch_whatever_the_number_of_batches(num_batches, positions):
    history = train(small_net(), batches(num_batches, 1))
    assert [point[0] for point in history.curve] == pytest.approx(positions)


# --- what a run depends on -----------------------------------------------------------------------


def test_a_seed_fixes_weights_order_and_dropout():
    nets = [small_net(dropout=0.5) for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        train(net, iterator(*images(), shuffle=True), num_epochs=2, seed=seed)
        torch.rand(3)
    assert_same_weights(*nets[:2])
    assert not torch.equal(nets[0][6].weight, nets[2][6].weight)


def test_a_network_that_calls_view_trains_in_the_references_layout():
    class View(nn.Module):
        """As in every tutorial, in place of nn.Flatten."""

        def forward(self, X):
            return X.view(-1, 64)

    nets = [small_net(), small_net()]
    nets[0][4] = nets[1][4] = View()
    histories = [train(net, batches(), seed=0, precision=precision)
                 for net, precision in zip(nets, ("tf32", "fp32"), strict=True)]  # fmt: skip
    assert [history.precision for history in histories] == ["fp32", "fp32"]
    assert_same_weights(*nets)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_readers_autocast_outside_changes_nothing(precision):
    nets = [small_net() for _ in range(2)]
    train(nets[0], batches(), num_epochs=3, seed=0, precision=precision)
    with torch.autocast("cpu", torch.bfloat16):
        history = train(nets[1], batches(), num_epochs=3, seed=0, precision=precision)
    assert len(set(history.train_loss)) == 3
    assert_same_weights(*nets)


# --- runs that end early -------------------------------------------------------------------------


def dead_net(*alive):
    """Scores that are 0 whatever the image, but for those of the classes in `alive`."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU())
    nn.init.constant_(net[1].bias, -1000.0)
    net[1].bias.data[list(alive)] = 1000.0
    return net


def test_scores_stuck_at_zero_are_reported_at_once(capsys):
    net, steps = dead_net(), []
    net.register_forward_pre_hook(lambda net, args: steps.append(net.training))
    history = train(net, batches(80), num_epochs=3)
    assert "exactly 0 in epoch 1" in history.stopped and "lr=0.05" in history.stopped
    assert steps.count(True) == 4 and history.test_acc == []  # a fifth of an epoch
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"stopped early, 0 whole epochs done: {history.stopped}"
    ]


def test_scores_that_can_still_move_are_not_stuck():
    assert train(dead_net(0), batches(20)).stopped is None
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))  # softmax regression from zero weights
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    history = train(net, batches(4), num_epochs=2, init_weights=False)
    assert history.stopped is None and history.train_loss[1] < history.train_loss[0]


@pytest.mark.parametrize("num_batches", [1, 5])
def test_a_loss_that_is_not_finite(num_batches):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 3))
    history = train(net, batches(4 * num_batches), num_epochs=60, lr=1e20)
    assert "the loss became" in history.stopped and "lr=1e+19" in history.stopped
    assert len(history.test_acc) < 60


@pytest.mark.parametrize("num_done", [0, 1])
def test_ctrl_c_keeps_network_plot_and_history(num_done, capsys):
    net = small_net()
    raise_at(5 * num_done + 4, net, KeyboardInterrupt)
    history = train(net, batches(20), num_epochs=4, seed=0)
    assert history.stopped == "interrupted" and not net.training
    undisturbed = train(small_net(), batches(20), seed=0)
    assert history.train_loss == undisturbed.train_loss[:num_done]
    assert history.test_acc == undisturbed.test_acc[:num_done]
    assert len(history.curve) == 5 * num_done + 3 and history.curve[-1][0] == num_done + 0.6
    assert math.isnan(history.examples_per_sec) == (num_done == 0)
    assert net[3].weight.is_contiguous() and net[3].weight.isfinite().all()
    assert f"stopped early, {num_done} whole epochs done" in capsys.readouterr().out


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
    net = small_net()
    if when == "training":
        raise_at(1, net[6], error)
    elif when == "evaluation":
        raise_at(3, net[6], error, training=False)  # after the look
    else:

        def fail(gradient):
            raise error

        net[6].weight.register_hook(fail)
    with pytest.raises(RuntimeError, match=r"out of memory with .*try batches of 3 ") as caught:
        train(net, batches(12, 6))
    assert str(error) in str(caught.value)
    history = caught.value.history  # an epoch that was trained is not lost
    assert len(history.train_loss) == (when == "evaluation") and history.test_acc == []


def test_memory_that_really_is_not_there():
    with pytest.raises(RuntimeError, match=r"out of memory .*try less"):
        train(Net(before=lambda X: torch.empty(1 << 58)), batches(2, 1))


# --- what it shows of itself ---------------------------------------------------------------------


def test_a_history_draws_its_curves_but_under_the_cell_that_drew_them(monkeypatch, capsys):
    shell, shown = types.SimpleNamespace(kernel=True, execution_count=1), []
    monkeypatch.setattr(animator.IPython, "get_ipython", lambda: shell)
    monkeypatch.delenv("D2LMINI_TEXT", raising=False)
    monkeypatch.setattr(animator.IPython.display, "display", lambda *a, **k: shown.append(a))
    history = d2l.History("cpu", "fp32", train_loss=[1.0], curve=[(1, 1.0, 0.5, 0.5)])
    history.cell = 1
    history._ipython_display_()
    assert not shown and capsys.readouterr().out == f"{history!r}\n"
    shell.execution_count = 2
    history._ipython_display_()
    assert len(shown) == 1
