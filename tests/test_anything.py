"""Property-based: whatever is drawn, training gives finite results or the project's own refusal."""

import math
import os
import traceback
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support import train

pytestmark = pytest.mark.slow
NUM_EXAMPLES = int(os.environ.get("D2L_EXAMPLES", 100))
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES = st.sampled_from([*FLOATS * 4, torch.uint8, torch.int64])
LABELS = st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32])


def seldom(usual, *others):
    """Mostly what is right."""
    return st.sampled_from([usual] * 20 + list(others))


@st.composite
def layers(draw, channels):
    """A convolutional body, lazy or not, with whatever a reader puts into one."""
    made = []
    for _ in range(draw(st.integers(0, 2))):
        out, kernel = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3, 3, 5]))
        options = {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 2))}
        is_lazy = draw(st.booleans())
        sizes = (out, kernel) if is_lazy else (channels, out, kernel)
        made.append((nn.LazyConv2d if is_lazy else nn.Conv2d)(*sizes, **options))
        channels = out
        others = [
            nn.ReLU(), nn.BatchNorm2d(out), nn.LazyBatchNorm2d(), nn.MaxPool2d(2), nn.Dropout(0.3),
            nn.AvgPool2d(3, stride=2, padding=1), nn.AdaptiveAvgPool2d(2),
        ]  # fmt: skip
        made += draw(st.lists(st.sampled_from(others), max_size=2))
    return made


@st.composite
def networks(draw, channels, classes):
    """A network that fits the images, or nearly."""
    body, head = draw(layers(channels)), draw(seldom([nn.Flatten()], []))
    outputs = draw(seldom(classes, classes + 1, max(1, classes - 1)))
    return nn.Sequential(*body, *head, nn.LazyLinear(outputs))


@st.composite
def data(draw, channels, side, classes, batch_size, dtype, label_dtype):
    num = draw(st.integers(1, 9))
    X = torch.rand(num, channels, side, side) * draw(st.sampled_from([1, 1, 1, 255]))
    y = torch.randint(classes, (num,)) + draw(seldom(0, 1))
    X, y = X.to(dtype), y.to(label_dtype)
    batches = list(zip(X.split(batch_size), y.split(batch_size), strict=True))
    loader = DataLoader(TensorDataset(X, y), batch_size, drop_last=draw(st.booleans()))
    texts = [(X, ["cat"] * len(y)) for X, y in batches]
    return draw(st.sampled_from([loader, batches] * 6 + [iter(batches), texts]))


@settings(
    max_examples=NUM_EXAMPLES, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.data())
def test_it_trains_or_says_why_not(drawn):
    torch.manual_seed(drawn.draw(st.integers(0, 99)))
    sizes = [drawn.draw(st.integers(1, high)) for high in (3, 12, 5)]  # channels, side, classes
    of_data = drawn.draw(st.integers(1, 5)), drawn.draw(DTYPES), drawn.draw(LABELS)
    net = drawn.draw(networks(sizes[0], sizes[2]))
    iters = [drawn.draw(data(*sizes, *of_data)) for _ in "ab"]
    num_epochs = drawn.draw(st.sampled_from([1, 2] * 8 + [0]))
    lr = drawn.draw(seldom(0.1, 1e-3, -1.0))
    precision = drawn.draw(st.sampled_from(["tf32", "fp32", "bf16"]))
    try:
        history = train(net, *iters, num_epochs, lr, precision=precision)
    except (ValueError, TypeError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.parent.name == "d2lmini", f"{type(error).__name__}: {error}"
        assert 20 < len(str(error)) < 700
        return
    assert len(history.test_acc) == num_epochs or history.stopped
    accuracies = history.train_acc + history.test_acc
    assert all(map(math.isfinite, history.train_loss)) and all(0 <= a <= 1 for a in accuracies)
    assert history.stopped or all(tensor.isfinite().all() for tensor in net.parameters())
