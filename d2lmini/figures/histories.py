"""Several training runs in one picture."""

import itertools

from matplotlib.figure import Figure

from d2lmini.figures.inline_svg import book_style, show
from d2lmini.figures.style import CURVES, PAGE_WIDTH

__all__ = ["plot_curves", "show_histories"]


@book_style()
def show_histories(*histories, labels=None, caption=None, save=None):
    """Display the training loss and the test accuracy of several runs, a curve a run.

    histories: what `train_ch6` returned, one after another or in a list. labels: a text a run;
    numbers if None. save: a file to write as well, in the format of its ending. Raises ValueError
    when there is no run, when one of them has no whole epoch, or when labels are too few or many.

    >>> show_histories(history, longer, labels=['5 epochs', '10 epochs'])
    """
    if len(histories) == 1 and isinstance(histories[0], (list, tuple)):
        histories = histories[0]
    if not histories:
        raise ValueError("no history given: pass what train_ch6 returned, once for each run")
    labels = [f"run {i}" for i, _ in enumerate(histories, 1)] if labels is None else labels
    if isinstance(labels, str) or len(labels) != len(histories):
        raise ValueError(f"labels must be a list of {len(histories)} texts, got {labels!r}")
    words, runs = [], list(zip(labels, histories, strict=True))
    for label, history in runs:
        num_epochs = len(history.test_acc)  # the last that was trained may lack its evaluation
        if not num_epochs:
            raise ValueError(
                f"the history of {label!r} has no whole epoch: there is nothing to draw"
            )
        loss, accuracy = history.train_loss[num_epochs - 1], history.test_acc[-1]
        words.append(f"{label}训练{num_epochs}轮，损失{loss:.3f}，测试精度{accuracy:.3f}")
    fig = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    fig.get_layout_engine().set(wspace=0.06)
    loss, accuracy = fig.subplots(1, 2)
    losses = [history.train_loss[: len(history.test_acc)] for history in histories]
    plot_curves(loss, labels, losses, "train loss")
    plot_curves(accuracy, labels, [history.test_acc for history in histories], "test accuracy")
    legend = loss.legend(loss.lines, map(str, range(len(runs))), fontsize=9)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(str(label))  # matplotlib hides one that begins with an underscore
    alt = "训练损失（左）和测试精度（右）随训练轮数变化的曲线，最后：" + "；".join(words)
    show(fig, alt=alt, caption=caption, save=save)


def plot_curves(ax, labels, curves, ylabel):
    """Draw curves with a value an epoch, told apart in grey too."""
    for label, values, (line, marker) in zip(labels, curves, itertools.cycle(CURVES), strict=False):
        style = {"linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
        ax.plot(range(1, len(values) + 1), values, label=str(label), **style)
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.4)
