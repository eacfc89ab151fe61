"""Several training runs in one picture."""

import itertools

from matplotlib.figure import Figure

from d2lmini.figures.inline_svg import show
from d2lmini.figures.style import CURVES, PAGE_WIDTH

__all__ = ["plot_curves", "show_histories"]


def show_histories(*histories, labels=None, caption=None):
    """Display the training loss and the test accuracy of several runs, a curve a run.

    histories: what `train_ch6` returned, one after another or in a list. labels: a text a run;
    numbers if None. Raises ValueError when there is no run, when one of them has no whole epoch,
    or when labels are too few or too many.

    >>> show_histories(history, longer, labels=['5 epochs', '10 epochs'])
    """
    if len(histories) == 1 and isinstance(histories[0], (list, tuple)):
        histories = histories[0]
    if not histories:
        raise ValueError("no history given: pass what train_ch6 returned, once for each run")
    labels = [f"run {i}" for i in range(1, len(histories) + 1)] if labels is None else list(labels)
    if len(labels) != len(histories):
        raise ValueError(
            f"labels has {len(labels)} entries for {len(histories)} histories: give one for each"
        )
    for label, history in zip(labels, histories, strict=True):
        if not history.test_acc:
            raise ValueError(
                f"the history of {label!r} has no whole epoch: there is nothing to draw"
            )
    fig = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    fig.get_layout_engine().set(wspace=0.06)
    for ax, values, ylabel in zip(
        fig.subplots(1, 2), ("train_loss", "test_acc"), ("train loss", "test accuracy"), strict=True
    ):
        curves = [getattr(history, values)[: len(history.test_acc)] for history in histories]
        plot_curves(ax, labels, curves, ylabel)
    fig.axes[0].legend(fontsize=9)
    words = []
    for label, history in zip(labels, histories, strict=True):
        num_epochs = len(history.test_acc)  # the last that was trained may lack its evaluation
        loss, accuracy = history.train_loss[num_epochs - 1], history.test_acc[-1]
        words.append(f"{label}训练{num_epochs}轮，损失{loss:.3f}，测试精度{accuracy:.3f}")
    alt = "训练损失（左）和测试精度（右）随训练轮数变化的曲线，最后：" + "；".join(words)
    show(fig, alt=alt, caption=caption)


def plot_curves(ax, labels, curves, ylabel):
    """Draw curves with a value an epoch, told apart in grey too."""
    for label, values, (line, marker) in zip(labels, curves, itertools.cycle(CURVES), strict=False):
        epochs = range(1, len(values) + 1)
        style = {"linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
        ax.plot(epochs, values, label=str(label), **style)
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.4)
