"""Property-based: whatever is drawn, training gives finite results or the project's own refusal."""

import contextlib
import io
import math
import os
import traceback
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import d2lmini as d2l

pytestmark = pytest.mark.slow
NUM_EXAMPLES = int(os.environ.get("D2L_EXAMPLES", 100))
SIDES, CHANNELS, CLASSES = st.integers(1, 12), st.sampled_from([1, 2, 3]), st.integers(1, 5)
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES = st.sampled_from([*FLOATS * 4, torch.uint8, torch.int64])
LABELS = st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32])


@st.composite
def layers(draw, channels):
    """A convolutional body, lazy or not, with whatever a reader puts into one."""
    made = []
    for _ in range(draw(st.integers(0, 2))):
        out, kernel = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3, 3, 5]))
        options = {
            "stride": draw(st.integers(1, 2)),
            "padding": draw(st.integers(0, 2)),
            "dilation": draw(st.sampled_from([1, 1, 2])),
        }
        lazy = draw(st.booleans())
        made.append(
            nn.LazyConv2d(out, kernel, **options)
            if lazy
            else nn.Conv2d(channels, out, kernel, **options)
        )
        channels = out
        others = [
            nn.ReLU(), nn.Sigmoid(), nn.BatchNorm2d(out), nn.LazyBatchNorm2d(), nn.MaxPool2d(2),
            nn.AvgPool2d(3, stride=2, padding=1), nn.Dropout(0.3), nn.Identity(),
            nn.AdaptiveAvgPool2d(2),
        ]  # fmt: skip
        made += draw(st.lists(st.sampled_from(others), max_size=2))
    return made


@st.composite
def networks(draw, channels, side, classes):
    """A network that fits the images, or nearly."""
    body = draw(layers(channels))
    wrong = draw(st.sampled_from(["nothing"] * 20 + ["flatten", "classes", "features", "softmax"]))
    head = [] if wrong == "flatten" else [nn.Flatten()]
    outputs = max(1, classes + draw(st.integers(-1, 1))) if wrong == "classes" else classes
    if body or draw(st.booleans()):
        head.append(nn.LazyLinear(outputs))
    else:
        features = channels * side * side + (wrong == "features")
        head += draw(st.sampled_from([[], [nn.BatchNorm1d(features)]]))
        head.append(nn.Linear(features, outputs))
    if wrong == "softmax":
        head.append(nn.Softmax(dim=1))
    return nn.Sequential(*body, *head)


@st.composite
def data(draw, channels, side, classes, batch_size, dtype, label_dtype):
    num = draw(st.integers(1, 9))
    X = torch.rand(num, channels, side, side) * draw(st.sampled_from([1, 1, 1, 255]))
    y = torch.randint(classes, (num,)) + draw(st.sampled_from([0] * 20 + [1]))
    X, y = X.to(dtype), y.to(label_dtype)
    kinds = ["loader", "list", "arrays"] * 4 + ["drop_last", "generator", "texts"]
    kind = draw(st.sampled_from(kinds))
    if kind in ("loader", "drop_last"):
        return DataLoader(TensorDataset(X, y), batch_size, drop_last=kind == "drop_last")
    batches = list(zip(X.split(batch_size), y.split(batch_size), strict=True))
    if kind == "generator":
        return iter(batches)
    if kind == "arrays" and dtype != torch.bfloat16:
        return [(X.numpy(), y.numpy()) for X, y in batches]
    return [(X, ["cat"] * len(y)) for X, y in batches] if kind == "texts" else batches


@settings(
    max_examples=NUM_EXAMPLES, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.data())
def test_it_trains_or_says_why_not(drawn):
    torch.manual_seed(drawn.draw(st.integers(0, 99)))
    channels, side, classes = drawn.draw(CHANNELS), drawn.draw(SIDES), drawn.draw(CLASSES)
    batch_size, dtype, labels = (
        drawn.draw(st.integers(1, 5)),
        drawn.draw(DTYPES),
        drawn.draw(LABELS),
    )
    net = drawn.draw(networks(channels, side, classes))
    iters = [drawn.draw(data(channels, side, classes, batch_size, dtype, labels)) for _ in range(2)]
    num_epochs = drawn.draw(st.sampled_from([1, 2] * 8 + [0]))
    lr = drawn.draw(st.sampled_from([0.1, 1e-3] * 8 + [-1.0]))
    precision = drawn.draw(st.sampled_from(["tf32", "fp32", "bf16"]))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            history = d2l.train_ch6(net, *iters, num_epochs, lr, "cpu", precision=precision)
    except (ValueError, TypeError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.parent.name == "d2lmini", f"{type(error).__name__}: {error}"
        assert 20 < len(str(error)) < 700
        event("refused")
        return
    event("stopped" if history.stopped else "trained")
    if history.stopped:
        reasons = ("exactly 0", "the loss became")
        assert any(words in history.stopped for words in reasons), history.stopped
        return
    assert len(history.test_acc) == num_epochs
    for values in (history.train_loss, history.train_acc, history.test_acc):
        assert all(map(math.isfinite, values))
    assert all(0 <= accuracy <= 1 for accuracy in history.train_acc + history.test_acc)
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    assert f"test acc {history.test_acc[-1]:.3f}" in printed.getvalue()
