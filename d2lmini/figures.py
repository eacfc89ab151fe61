"""The book's other pictures: images, costs, receptive fields, filters, feature maps, confusions.

Each builds a matplotlib `Figure` of its own (no pyplot state, English labels) and displays it with
`svg.show`. Images inside are shrunk to at most 56 pixels a side, so that a page stays small.
"""

import math

import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import nn
from torch.nn import functional as F

from d2lmini.data import get_fashion_mnist_labels
from d2lmini.draw import KINDS, share, traces
from d2lmini.metrics import batches_on, evaluation_mode
from d2lmini.svg import show
from d2lmini.trace import Group, Parallel

__all__ = [
    "show_confusion",
    "show_costs",
    "show_feature_maps",
    "show_filters",
    "show_images",
    "show_receptive_field",
]

PHONE, PAGE = 4.4, 6.4  # widths in inches: legible on a phone, and at most
MAX_SIDE = 56  # pixels of an image inside a figure
MAX_ROWS = 12  # bars in a chart of costs; a net with more layers is shown by its top-level blocks
COSTS = {"params": "Parameters", "flops": "FLOPs per image"}
BLUE, ORANGE = "#2f7fd1", "#e08a1e"  # readable on white and on dark pages
GREY = "#888888"


# --- images ---------------------------------------------------------------------------------------


def show_images(imgs, num_rows, num_cols, titles=None, scale=1.5, *, alt=None, caption=None):
    """Display images in a grid, row by row; places without an image stay empty.

    imgs: tensor, array or list of images (H, W), (1, H, W) or (3, H, W), values in [0, 1] or uint8.
    titles: one text an image. scale: side of a place in inches, less where a row
        would be too wide for the page. alt: made from the titles if None.
    Raises ValueError for a wrong shape and when there are no images or too few titles.
    """
    imgs = [_shrink(image) for image in list(imgs)[: num_rows * num_cols]]
    if not imgs:
        raise ValueError("imgs is empty: there is nothing to show")
    if titles is not None and len(titles) < len(imgs):
        raise ValueError(f"titles has {len(titles)} entries for {len(imgs)} images")
    titles = [""] * len(imgs) if titles is None else [str(title) for title in titles]
    scale = min(scale, PAGE / num_cols)
    fig = Figure(figsize=(num_cols * scale, num_rows * scale), layout="constrained")
    axes = list(fig.subplots(num_rows, num_cols, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    for ax, image, title in zip(axes, imgs, titles, strict=False):
        _imshow(ax, image)
        ax.set_title(title, fontsize=8.5)
    words = "、".join(dict.fromkeys(filter(None, titles[: len(imgs)])))
    show(fig, alt=alt or f"{len(imgs)}幅图像" + (f"：{words}" if words else ""), caption=caption)


def _shrink(image):
    """An image as float tensor (H, W) or (H, W, 3) in [0, 1] with sides of at most `MAX_SIDE`."""
    image = torch.as_tensor(image).detach().cpu()
    if image.dim() == 2:
        image = image[None]
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"an image must be (H, W), (1, H, W) or (3, H, W), got {tuple(image.shape)}"
        )
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    factor = math.ceil(max(image.shape[1:]) / MAX_SIDE)
    if factor > 1:
        image = F.adaptive_avg_pool2d(image, [max(1, side // factor) for side in image.shape[1:]])
    return image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)


def _imshow(ax, image):
    """Show a (H, W) or (H, W, 3) tensor pixel for pixel; NaN is transparent."""
    if image.dim() == 3:
        image = torch.cat([image.nan_to_num(), 1.0 - image[..., :1].isnan().float()], dim=2)
    ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
    ax.set_axis_off()


def _mosaic(tiles, num_cols, gap=1):
    """Tiles of one size, (N, H, W) or (N, H, W, 3), in one image with transparent (NaN) gaps."""
    num, height, width, *rest = tiles.shape
    num_rows = math.ceil(num / num_cols)
    image = tiles.new_full(
        (num_rows * (height + gap) - gap, num_cols * (width + gap) - gap, *rest), float("nan")
    )
    for i, tile in enumerate(tiles):
        top, left = i // num_cols * (height + gap), i % num_cols * (width + gap)
        image[top : top + height, left : left + width] = tile
    return image


def _stretch(tiles):
    """Scale every tile of (N, H, W) or (N, H, W, 3) to [0, 1]; a constant one becomes 0."""
    flat = tiles.flatten(1)
    low, high = flat.min(1).values, flat.max(1).values
    shape = (-1, *[1] * (tiles.dim() - 1))
    return (tiles - low.view(shape)) / (high - low).clamp(min=1e-12).view(shape)


# --- costs ----------------------------------------------------------------------------------------


def show_costs(*nets, input_shape, labels=None, caption=None):
    """Display where the parameters and the FLOPs (of one example) of the nets sit.

    One net: a bar for each layer that has any, with its share, or, in a net with more than
    `MAX_ROWS` of them, for each of its blocks. Several nets: a bar each on a common scale, with a
    part for each layer. The numbers are `trace`'s, and the arguments are those of `draw`.
    """
    fig, alt = costs_figure(nets, input_shape, labels)
    show(fig, alt=alt, caption=caption)


def costs_figure(nets, input_shape, labels=None):
    """Return the figure of `show_costs` and its alternative text."""
    traced = traces(nets, input_shape, labels)
    names = [label or root.class_name for label, _, root in traced]
    roots = [root for _, _, root in traced]
    totals = "；".join(
        f"{name}共{root.params:,}个参数、{root.flops / 1e6:,.0f} MFLOPs"
        for name, root in zip(names, roots, strict=True)
    )
    if len(roots) == 1:
        fig, words = _layer_costs(roots[0])
        return fig, f"{totals}。各层的参数与FLOPs占比：{words}"
    return _net_costs(names, roots), f"各网络的参数和FLOPs（按层分段）：{totals}"


def _layer_costs(root):
    """Bars of the shares of one net's layers, and the shares in words."""
    rows = [(_short(layer), [layer]) for layer in root.layers if layer.params or layer.flops]
    groups = [item for item in root.items or () if isinstance(item, Group)]
    if len(rows) > MAX_ROWS and groups:
        rows = []
        for item in root.items:
            if isinstance(item, Group):
                rows.append((f"Block {groups.index(item) + 1}", item.layers))
            else:
                layers = item.layers if isinstance(item, Parallel) else [item]
                rows += [(_short(x), [x]) for x in layers if x.params or x.flops]
    fig, axes = _bars([name for name, _ in rows])
    words = [name for name, _ in rows]
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        total = getattr(root, cost)
        ax.set_title(f"{title}\n{_amount(total)}", fontsize=9)
        for y, (_, layers) in enumerate(rows):
            text = share(_cost(layers, cost), total)
            _bar(ax, y, layers, cost, text)
            words[y] += f"，{title} {text}"
        ax.set_xlim(0, 1.4 * max([1, *(_cost(layers, cost) for _, layers in rows)]))
    return fig, "；".join(words)


def _net_costs(names, roots):
    """Bars of the parameters and FLOPs of several nets, on one scale each."""
    fig, axes = _bars(names)
    for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
        ax.set_title(title, fontsize=9)
        for y, root in enumerate(roots):
            _bar(ax, y, root.layers, cost, _amount(getattr(root, cost)))
        ax.set_xlim(0, 1.45 * max([1, *(getattr(root, cost) for root in roots)]))
    handles = [
        Patch(label=label, **_style(kind))
        for kind, label in (("conv", "convolution"), ("fc", "fully connected"))
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return fig


def _bars(names):
    """A figure with two axes for horizontal bars, one row a name."""
    fig = Figure(figsize=(PHONE, 0.27 * len(names) + 0.9), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True)
    for ax in axes:
        ax.set_xticks([])
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return fig, axes


def _bar(ax, y, layers, cost, text):
    """A bar with one part for each layer, or for each kind of many layers, and a text behind it."""
    layers = [layer for layer in layers if getattr(layer, cost)]
    parts = {}
    for layer in layers:
        part = layer.kind if len(layers) > MAX_ROWS else layer
        parts.setdefault(part, []).append(layer)
    left = 0
    for part in parts.values():
        ax.barh(y, _cost(part, cost), 0.7, left=left, **_style(part[0].kind))
        left += _cost(part, cost)
    ax.annotate(text, (left, y), (3, 0), textcoords="offset points", va="center", fontsize=9)


def _cost(layers, cost):
    return sum(getattr(layer, cost) for layer in layers)


def _style(kind):
    """Colour and hatch of a bar: as in the architecture figures, and told apart in grey."""
    return {
        "facecolor": KINDS.get(kind, KINDS["other"])[0],
        "hatch": {"fc": "////"}.get(kind),
        "edgecolor": "black",
        "linewidth": 0.4,
    }


def _short(layer):
    """A layer's label without stride and padding."""
    return f"{layer.head} {layer.tail.split(',')[0]}".strip()


def _amount(number):
    """46764746 as 46.8 M."""
    return f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number / 1e6:,.0f} M"


# --- receptive field ------------------------------------------------------------------------------


def show_receptive_field(*stacks, caption=None):
    """Display which input pixels one output of stacked convolutions (stride 1) sees.

    stacks: one tuple of odd kernel sizes for each picture, first layer first, such as (3, 3) and
    (5,). The titles count the weights of equally wide layers with c channels.

    >>> show_receptive_field((3, 3), (5,))
    """
    if not stacks:
        raise TypeError("no stack given: pass tuples of kernel sizes such as (3, 3)")
    for stack in stacks:
        if (
            not isinstance(stack, (tuple, list))
            or not stack
            or not all(isinstance(k, int) and k > 0 and k % 2 for k in stack)
        ):
            raise ValueError(
                f"a stack must be a tuple of odd kernel sizes such as (3, 3), got {stack!r}"
            )
    fig = Figure(
        figsize=(PHONE / 2 * len(stacks), 1 + 0.8 * max(map(len, stacks))), layout="constrained"
    )
    words = []
    for ax, stack in zip(fig.subplots(1, len(stacks), squeeze=False).flat, stacks, strict=True):
        seen = 1 + sum(k - 1 for k in stack)
        weights = sum(k * k for k in stack)
        _planes(ax, stack, seen, max(map(len, stacks)))
        layers = " + ".join(f"{k}×{k}" for k in stack)
        ax.set_title(f"{layers}: sees {seen}×{seen}\n{weights}c² weights", fontsize=9)
        words.append(f"{layers}卷积的一个输出看到{seen}×{seen}个输入像素，权重{weights}c²个")
    show(fig, alt="；".join(words), caption=caption)


def _planes(ax, stack, seen, levels):
    """Grids of cells, input at the bottom, in oblique projection; one window a layer is filled."""

    def project(x, y, level):
        return x + 0.55 * y, 0.45 * y + (0.55 * seen + 0.6) * level

    def square(x, y, size, level):
        return [
            project(x + dx * size, y + dy * size, level)
            for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]

    sizes = [1 + sum(k - 1 for k in stack[i:]) for i in range(len(stack) + 1)]
    lefts = [(seen - size) / 2 for size in sizes]
    for level, (left, size) in enumerate(zip(lefts, sizes, strict=True)):
        grid = [square(left + x, left + y, 1, level) for x in range(size) for y in range(size)]
        ax.add_collection(
            PolyCollection(grid, facecolor=(*_rgb(BLUE), 0.22), edgecolor=GREY, linewidth=0.8)
        )
        if level:  # the first cell here and the window it sees below
            upper = square(left, left, 1, level)
            lower = square(lefts[level - 1], lefts[level - 1], stack[level - 1], level - 1)
            ax.add_collection(
                PolyCollection(
                    [upper, lower], facecolor=(*_rgb(ORANGE), 0.4), edgecolor=ORANGE, linewidth=1.2
                )
            )
            for (x1, y1), (x2, y2) in zip(upper, lower, strict=True):
                ax.plot([x1, x2], [y1, y2], color=ORANGE, linewidth=0.8)
        name = "input" if not level else "output" if level == len(stack) else f"layer {level}"
        ax.text(
            1.55 * seen + 0.2,
            project(0, seen / 2, level)[1],
            f"{name}\n{size}×{size}",
            va="center",
            fontsize=9,
        )
    ax.set_xlim(-0.2, 1.55 * seen + 2.5)
    ax.set_ylim(-0.2, project(0, (seen + 1) / 2, levels)[1] + 0.4)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _rgb(colour):
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


# --- what a trained network has learnt ------------------------------------------------------------


def show_filters(net, *, caption=None):
    """Display all filters of the net's first Conv2d, each scaled to its own range.

    Filters over 1 channel are grey, those over 3 in colour, others as their mean over channels.
    Raises ValueError when the net has no Conv2d.
    """
    conv = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is None:
        raise ValueError(f"{type(net).__name__} has no Conv2d whose filters could be shown")
    weight = conv.weight.detach().float().cpu()
    num, channels, height, width = weight.shape
    tiles = weight.permute(0, 2, 3, 1) if channels == 3 else weight.mean(1)
    num_cols = min(num, 16)
    fig = Figure(figsize=(PHONE, PHONE * math.ceil(num / num_cols) / num_cols * height / width))
    _imshow(fig.add_axes((0, 0, 1, 1)), _mosaic(_stretch(tiles), num_cols))
    show(fig, alt=f"第一个卷积层的{num}个{height}×{width}卷积核，越亮权重越大", caption=caption)


def show_feature_maps(net, X, *, num_maps=8, caption=None):
    """Display one image and feature maps made from it, a row for each spatial size in the net.

    X: one image, (1, C, H, W) or (C, H, W), on any device. A row shows the last output of that size
    before the net goes on to another, and of it the `num_maps` channels that vary most over the
    image, each scaled to its own range. Modes and gradients of the net are left as they were.
    """
    X = X[None] if X.dim() == 3 else X
    if X.dim() != 4 or len(X) != 1:
        raise ValueError(f"X must be one image, (1, C, H, W) or (C, H, W), got {tuple(X.shape)}")
    outputs = {}  # (height, width) -> the last output of that size

    def keep(module, inputs, output):
        if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[-1] > 1:
            outputs[tuple(output.shape[2:])] = output[0].float().cpu()

    handles = [module.register_forward_hook(keep) for module in net.modules()]
    first = next(net.parameters(), X)
    try:
        with evaluation_mode(net), torch.no_grad():
            net(X.to(first.device, first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    if not outputs:
        raise ValueError(f"{type(net).__name__} has no feature maps (4-D outputs) for this image")
    num_rows = len(outputs) + 1
    fig = Figure(figsize=(PHONE, PHONE / (num_maps + 1.6) * num_rows), layout="constrained")
    axes = fig.subplots(num_rows, 1)
    image = X[0] if X.shape[1] in (1, 3) else X[0].mean(0)
    _row(axes[0], [image], num_maps, f"input\n{X.shape[2]}×{X.shape[3]}")
    for ax, maps in zip(axes[1:], outputs.values(), strict=True):
        chosen = maps.flatten(1).std(1).topk(min(num_maps, len(maps))).indices.sort().values
        _row(ax, _stretch(maps[chosen]), num_maps, "×".join(map(str, maps.shape)))
    sizes = "、".join("×".join(map(str, maps.shape)) for maps in outputs.values())
    show(fig, alt=f"一幅输入图像和网络由它得到的特征图，自上而下的大小：{sizes}", caption=caption)


def _row(ax, images, num_cols, label):
    """One row of images with room for `num_cols` and a label on its left."""
    tiles = torch.stack([_shrink(image) for image in images])
    repeat = math.ceil(28 / min(tiles.shape[1:3]))  # so that the gaps are alike in all rows
    tiles = tiles.repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)
    blank = tiles.new_full((num_cols - len(tiles), *tiles.shape[1:]), float("nan"))
    _imshow(ax, _mosaic(torch.cat([tiles, blank]), num_cols, gap=round(tiles.shape[1] / 14)))
    ax.text(-0.01, 0.5, label, transform=ax.transAxes, ha="right", va="center", fontsize=9)


def show_confusion(net, data_iter, class_names=None, *, num_pairs=3, device=None, caption=None):
    """Display the confusion matrix of `net` over `data_iter`, and the most confused pairs.

    data_iter: iterable of (X, y), y int64 (B,). Rows of the matrix are true classes, columns
    predictions. Under it, for the `num_pairs` most frequent errors, up to 8 images each.
    class_names: one a class; Fashion-MNIST's if None. device: the net's, where X is
    sent; found from its first parameter if None.
    """
    if device is None:
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
    counts, examples = 0, {}
    with evaluation_mode(net), torch.no_grad():
        for X, y in batches_on(data_iter, device):
            scores = net(X)
            num = scores.shape[1]
            y, guesses = y.cpu(), scores.argmax(1).cpu()
            counts += torch.bincount(y * num + guesses, minlength=num * num).view(num, num)
            for i in (y != guesses).nonzero().flatten().tolist():
                found = examples.setdefault((y[i].item(), guesses[i].item()), [])
                if len(found) < 8:
                    found.append(_shrink(X[i]))
    if not torch.is_tensor(counts):
        raise ValueError("data_iter yields no batch: there is nothing to compare")
    names = get_fashion_mnist_labels(range(len(counts))) if class_names is None else class_names
    if len(names) != len(counts):
        raise ValueError(f"class_names has {len(names)} entries for {len(counts)} classes")
    pairs = sorted(examples, key=lambda pair: (-counts[pair].item(), pair))[:num_pairs]
    fig = Figure(figsize=(PHONE, 4.2 + 0.7 * len(pairs)), layout="constrained")
    axes = fig.subplots(1 + len(pairs), 1, height_ratios=[4.2] + [0.7] * len(pairs), squeeze=False)
    _matrix(axes[0, 0], counts, names)
    words = []
    for ax, (true, guess) in zip(axes[1:, 0], pairs, strict=True):
        number = counts[true, guess].item()
        tiles = torch.stack(examples[true, guess])
        blank = torch.full((8 - len(tiles), *tiles.shape[1:]), float("nan"))
        _imshow(ax, _mosaic(torch.cat([tiles, blank]), 8, gap=3))
        ax.set_title(f"{names[true]} taken for {names[guess]}: {number}", fontsize=9, loc="left")
        words.append(f"{names[true]}被认作{names[guess]}{number}次")
    correct = counts.diagonal().sum().item()
    alt = f"混淆矩阵：{counts.sum().item():,}个样本中{correct:,}个预测正确"
    show(fig, alt="；".join([alt, *words]), caption=caption)


def _matrix(ax, counts, names):
    """The matrix with numbers; the fill is stronger the larger the share of the true class."""
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    cells = torch.empty(*counts.shape, 4)
    cells[..., :3] = torch.tensor(_rgb(BLUE))
    cells[..., 3] = 0.65 * share.sqrt()
    ax.imshow(cells.numpy(), interpolation="none")
    for (i, j), number in zip(
        torch.cartesian_prod(*map(torch.arange, counts.shape)).tolist(),
        counts.flatten().tolist(),
        strict=True,
    ):
        if number:
            ax.text(j, i, number, ha="center", va="center", fontsize=8)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set_xlabel("predicted", fontsize=9)
    ax.set_ylabel("true", fontsize=9)
