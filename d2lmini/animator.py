"""A plot of running curves: one figure updated in place in a notebook, a line a point elsewhere."""

import math
import operator
import os
import shutil
import sys
import time

import IPython.display
from matplotlib.figure import Figure

from d2lmini.figures.inline_svg import InlineFigure, book_style, figure_svg, quiet

POINTS_PER_EPOCH = 5  # of the training curves, as in the reference
SECONDS_BETWEEN_REDRAWS = 0.5  # a fast GPU must not wait for the plot


class Animator:
    """Curves that grow while a program runs.

    In a notebook one display is updated in place, so lines printed before stay and exactly one
    figure remains. Elsewhere, and with D2LMINI_TEXT=1 in the environment, a line is printed for
    each point at a whole `x` (an epoch), and a terminal shows progress in between. The arguments
    are those of the reference, d2l 0.17.0:

    Args:
        xlabel, ylabel, legend, caption: axis labels, names of the curves, text under the figure.
        xlim, ylim: `(low, high)` of the axes; None fits the data. xscale, yscale: 'linear', 'log'.
        fmts: matplotlib formats, used in turn by any number of curves.
        nrows, ncols, figsize: grid of axes, of which the first has the curves; its size in inches.
    """

    @book_style()
    def __init__(self, xlabel=None, ylabel=None, legend=None, xlim=None, ylim=None,
                 xscale="linear", yscale="linear", fmts=("-", "m--", "g-.", "r:"),
                 nrows=1, ncols=1, figsize=(3.5, 2.5), *, caption=None):  # fmt: skip
        legend = [legend] if isinstance(legend, str) else list(legend or [])
        self.legend, self.fmts, self.caption = legend, fmts, caption
        self.xlabel, self.fig = xlabel, Figure(figsize=figsize)
        self.axes = self.fig.subplots(nrows, ncols, squeeze=False).flatten()
        self._settings = {"xlabel": xlabel or "", "ylabel": ylabel or "",
                          "xscale": xscale, "yscale": yscale}  # fmt: skip
        for name, limits in ("xlim", xlim), ("ylim", ylim):
            self._settings |= {name: limits} if limits and limits[0] != limits[1] else {}
        self.X, self.Y = [], []  # a list of points for each curve
        self._display, self._progress = None, ""  # what stands in the terminal's last line

    def add(self, x, y, *, redraw=True):
        """Add a point to each curve; `redraw=False` only keeps it.

        `x` and `y` are numbers, tensors on any device, or sequences of these with one entry a
        curve; one `x` serves all curves; None leaves a curve as it is.
        """
        xs, ys, at, told = _as_list(x), _as_list(y), None, []
        xs = xs * len(ys) if len(xs) == 1 else xs
        if len(xs) != len(ys):
            raise ValueError(f"x has {len(xs)} entries and y has {len(ys)}; they must be as many")
        for index, (x_new, y_new) in enumerate(zip(xs, ys, strict=True)):
            if index == len(self.X):
                self.X.append([])
                self.Y.append([])
            if x_new is not None and y_new is not None:
                self.X[index].append(at := float(x_new))
                self.Y[index].append(float(y_new))
                told.append(f"{self._name(index)} {float(y_new):.3f}")
        if redraw and _in_notebook():
            self.redraw()
        elif told and at.is_integer() and not _in_notebook():
            self.progress("")
            print(f"{self.xlabel or 'x'} {at:.0f}: {', '.join(told)}", flush=True)

    @book_style()
    def redraw(self, status=None):
        """Show the curves as they are, in a notebook; `status` is a line under the figure."""
        self.progress(status or "")
        if not _in_notebook():
            return
        self._draw()
        caption = "  |  ".join(filter(None, (self.caption, status)))
        last = [f"{self._name(i)} {points[-1]:.3g}" for i, points in enumerate(self.Y) if points]
        told = f"各曲线的最后一点：{'，'.join(last)}" if last else "数值逐轮打印：D2LMINI_TEXT=1"
        alt = f"曲线图，横轴{self.xlabel or 'x'}；{told}"
        svg = figure_svg(self.fig, alt=alt, caption=caption)
        picture = InlineFigure(svg, alt=alt, caption=caption)
        picture.text = f"<figure: {'；'.join(filter(None, (caption, alt)))}>"
        if self._display is None:
            self._display = IPython.display.display(picture, display_id=True)
        else:
            self._display.update(picture)

    def progress(self, status):
        """Write `status` over the last line of a terminal, '' to clear it; nothing elsewhere."""
        if _in_notebook() or status == self._progress or not sys.stdout.isatty():
            return
        status = status[: shutil.get_terminal_size().columns - 1]  # one that wraps would stay
        print(f"\r{' ' * len(self._progress)}\r{status}", end="", flush=True)
        self._progress = status

    @book_style()
    def save(self, path):
        """Write the figure to a file, in the format that its ending names (.svg, .png, .pdf)."""
        self._draw()
        with quiet(self.fig):
            self.fig.savefig(path, bbox_inches="tight")

    def _draw(self):
        axes = self.axes[0]
        axes.cla()
        for index, (x_list, y_list) in enumerate(zip(self.X, self.Y, strict=True)):
            fmt = self.fmts[index % len(self.fmts)]
            (line,) = axes.plot(x_list, y_list, fmt, label=self._name(index))
            if len(x_list) == 1:  # no line to be seen yet
                line.set_marker("o")
        axes.set(**self._settings)
        if self.legend and self.X:
            axes.legend()
        axes.grid(alpha=0.4)

    def _name(self, index):
        return self.legend[index] if index < len(self.legend) else f"series {index + 1}"


class Progress:
    """What a reader sees of a run: its curves, and a line with speed and time left."""

    def __init__(self, history, num_epochs, train_iter, on_cuda, caption):
        self.history, self.num_epochs, self.on_cuda = history, num_epochs, on_cuda
        self.num_batches = operator.length_hint(train_iter)  # 0 where it cannot know
        points = (math.ceil(self.num_batches * k / POINTS_PER_EPOCH) for k in range(1, 5))
        self.points, self.status = set(points) - {self.num_batches}, None
        self.last_redraw = self.last_status = time.perf_counter()
        self.animator = Animator(xlabel="epoch", xlim=[0, num_epochs], caption=caption,
                                 legend=["train loss", "train acc", "test acc"])  # fmt: skip
        for epoch, *values in history.curve:  # of a run that goes on
            self.animator.add(epoch, values, redraw=False)
        self.animator.redraw()

    def is_due(self, done, num_samples, started):
        """Whether the curves get a point after `done` batches of an epoch; shows the status."""
        due, now = done in self.points, time.perf_counter()
        if not due and now - self.last_status <= SECONDS_BETWEEN_REDRAWS:
            return False
        epoch, seconds = len(self.history.test_acc) + 1, max(now - started, 1e-9)
        self.status = (f"epoch {epoch}/{self.num_epochs}, batch {done}/{self.num_batches or '?'}, "
                       f"{num_samples / seconds:.0f} examples/sec")  # fmt: skip
        if self.num_batches:
            an_epoch = self.num_batches / done * seconds + sum(self.history.test_seconds[-1:])
            left = round((self.num_epochs - epoch + 1 - done / self.num_batches) * an_epoch)
            self.status += f", about {left // 60}:{left % 60:02d} min left"
        if due and self.on_cuda:  # which has work to do meanwhile
            self._redraw()
        elif not due:
            self.animator.progress(self.status)
            self.last_status = now
        return due

    def add(self, epoch, train_loss, train_acc, test_acc=None):
        """Add a point to the curves, the last of an epoch with `test_acc`."""
        self.history.curve.append((epoch, train_loss, train_acc, test_acc))
        self.animator.add(epoch, (train_loss, train_acc, test_acc), redraw=False)
        self.status = self.status if test_acc is None else None
        if not self.on_cuda:
            self._redraw()

    def _redraw(self):
        if time.perf_counter() - self.last_redraw > SECONDS_BETWEEN_REDRAWS:
            self.animator.redraw(self.status)
            self.last_redraw = time.perf_counter()


def _as_list(values):
    values = values.tolist() if hasattr(values, "tolist") else values  # a tensor or an array
    values = values if hasattr(values, "__len__") else [values]
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]


def _in_notebook():
    return hasattr(IPython.get_ipython(), "kernel") and not os.environ.get("D2LMINI_TEXT")


def current_cell():
    """The number of the cell that runs; None outside IPython."""
    return getattr(IPython.get_ipython(), "execution_count", None)
