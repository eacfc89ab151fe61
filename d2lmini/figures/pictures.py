"""Pictures made of pixels: images in a grid, and what a trained network has learnt.

Images are shrunk to at most `MAX_SIDE` pixels a side, so that a page stays small.
"""

import itertools
import math

import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from d2lmini.figures.inline_svg import book_style, show
from d2lmini.figures.style import BLUE, PAGE_WIDTH, PHONE_WIDTH, shape_text
from d2lmini.figures.tracing import layer_outputs
from d2lmini.metrics import predictions
from d2lmini.network import device_of, dtype_of, is_lazy

MAX_SIDE = 56  # pixels of an image inside a figure
MOST_IMAGES = 8  # of a pair of confused classes


@book_style()
def show_images(
    imgs, num_rows, num_cols, titles=None, scale=1.5, *, alt=None, caption=None, save=None
):
    """Display images in a grid, row by row; places without an image stay empty.

    imgs: tensor, array or list of images (H, W), (1, H, W) or (3, H, W), of which as many are shown
        as there are places; uint8, or values in [0, 1], else each is scaled to its own range.
    titles: one text an image. scale: side of a place in inches, less where a row would be too wide
        for the page. alt: made from the titles if None. save: a file to write as well, in the
        format of its ending.
    Raises ValueError for a wrong shape and when there are no images or too few titles.
    """
    imgs = [shrink(image) for image in list(imgs)[: num_rows * num_cols]]
    if not imgs:
        raise ValueError("imgs is empty: there is nothing to show")
    titles = [""] * len(imgs) if titles is None else [titles] if isinstance(titles, str) else titles
    if len(titles) < len(imgs):
        raise ValueError(f"titles has {len(titles)} entries for {len(imgs)} images")
    titles = [str(title) for title in titles]
    scale = min(scale, PAGE_WIDTH / num_cols)
    fig = Figure(figsize=(num_cols * scale, num_rows * scale), layout="constrained")
    axes = list(fig.subplots(num_rows, num_cols, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    for ax, image, title in zip(axes, imgs, titles, strict=False):
        plot_image(ax, image)
        ax.set_title(title, fontsize=8.5)
    words = "、".join(dict.fromkeys(filter(None, titles[: len(imgs)])))
    alt = alt or f"{len(imgs)}幅图像" + (f"：{words}" if words else "")
    show(fig, alt=alt, caption=caption, save=save)


def is_image(shape):
    """Whether a shape is an image's: (H, W), (1, H, W) or (3, H, W)."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def shrink(image):
    """An image as float tensor (H, W) or (H, W, 3) in [0, 1] with sides of at most `MAX_SIDE`.

    uint8 is divided by 255; of other values outside [0, 1], the least becomes 0, the largest 1.
    """
    image = torch.as_tensor(image).detach().cpu()
    if not is_image(image.shape):
        shape = tuple(image.shape)
        raise ValueError(f"an image must be (H, W), (1, H, W) or (3, H, W), got {shape}")
    image = image[None] if image.dim() == 2 else image
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    known = image[image.isfinite()]
    if known.numel() and (known.min() < 0 or known.max() > 1):
        image = stretch_contrast(image[None])[0]
    factor = math.ceil(max(image.shape[1:]) / MAX_SIDE)
    if factor > 1:
        image = F.adaptive_avg_pool2d(image, [max(1, side // factor) for side in image.shape[1:]])
    return image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)


def plot_image(ax, image):
    """Show a (H, W) or (H, W, 3) tensor pixel for pixel; NaN is transparent."""
    if image.dim() == 3:
        image = torch.cat([image.nan_to_num(), 1.0 - image[..., :1].isnan().float()], dim=2)
    ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
    ax.set_axis_off()


def mosaic(tiles, num_cols, gap=1):
    """Tiles of one size, (N, H, W) or (N, H, W, 3), in one image with transparent (NaN) gaps.

    Where they do not fill `num_cols` columns, the rest of the row is a gap, too.
    """
    num, height, width, *rest = tiles.shape
    num_rows = math.ceil(num / num_cols)
    size = (num_rows * (height + gap) - gap, num_cols * (width + gap) - gap, *rest)
    image = tiles.new_full(size, float("nan"))
    for i, tile in enumerate(tiles):
        top, left = i // num_cols * (height + gap), i % num_cols * (width + gap)
        image[top : top + height, left : left + width] = tile
    return image


def stretch_contrast(tiles):
    """Scale every tile of (N, H, W) or (N, H, W, 3) to [0, 1]; a constant one becomes 0.

    What is infinite becomes the least or the largest of the finite values; NaN stays.
    """
    finite, axes = tiles.isfinite(), tuple(range(1, tiles.dim()))
    low = torch.where(finite, tiles, math.inf).amin(axes, keepdim=True)
    high = torch.where(finite, tiles, -math.inf).amax(axes, keepdim=True)
    return ((tiles - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


@book_style()
def show_filters(net, *, caption=None, save=None):
    """Display all filters of the net's first Conv2d, each scaled to its own range.

    Filters over 1 channel are grey, those over 3 in colour, others as their mean over channels. Up
    to 8 stand in one row, more in at least two rows of at most 16. save: a file to write as well,
    in the format of its ending. Raises ValueError when the net has no Conv2d, or a lazy one that
    has no filters yet.
    """
    conv = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None or is_lazy(conv):
        raise ValueError(f"{type(net).__name__} has no Conv2d whose filters could be shown")
    weight = conv.weight.detach().float().cpu()
    num, channels, height, width = weight.shape
    tiles = weight.permute(0, 2, 3, 1) if channels == 3 else weight.mean(1)
    num_cols = num if num <= 8 else min(16, math.ceil(num / 2))
    side = PHONE_WIDTH / max(8, num_cols)
    num_rows = math.ceil(num / num_cols)
    fig = Figure(figsize=(num_cols * side, num_rows * side * height / width))
    plot_image(fig.add_axes((0, 0, 1, 1)), mosaic(stretch_contrast(tiles), num_cols))
    alt = f"第一个卷积层的{num}个{height}×{width}卷积核，越亮权重越大"
    show(fig, alt=alt, caption=caption, save=save)


@book_style()
def show_feature_maps(net, X, *, num_maps=8, caption=None, save=None):
    """Display one image and feature maps made from it, a row for each spatial size in the net.

    X: one image, (1, C, H, W) or (C, H, W), on any device. A row shows the last output of a size
    before the net goes on to another, in the order in which they are made, and of it the `num_maps`
    channels that vary most over the image, each scaled to its own range. Modes and gradients of
    the net are left as they were. save: a file to write as well, in the format of its ending.
    Raises ValueError when `X` is no image or not the net's, and for a net without feature maps.
    """
    X = torch.as_tensor(X)
    X = X[None] if X.dim() == 3 else X
    if X.dim() != 4 or len(X) != 1:
        raise ValueError(f"X must be one image, (1, C, H, W) or (C, H, W), got {tuple(X.shape)}")
    outputs = [output[0].float().cpu()
               for _, output in layer_outputs(net, X.to(device_of(net), dtype_of(net)))
               if output.dim() == 4 and output.shape[-1] > 1]  # fmt: skip
    runs = itertools.groupby(outputs, key=lambda maps: maps.shape[1:])
    rows = [list(run)[-1] for _, run in runs]
    if not rows:
        raise ValueError(f"{type(net).__name__} has no feature maps (4-D outputs) for this image")
    size = (PHONE_WIDTH, PHONE_WIDTH / (num_maps + 1.6) * (len(rows) + 1))
    fig = Figure(figsize=size, layout="constrained")
    axes = fig.subplots(len(rows) + 1, 1)
    image = X[0] if is_image(X.shape[1:]) else X[0].float().mean(0)
    _row(axes[0], [shrink(image)], num_maps, f"input\n{X.shape[2]}×{X.shape[3]}")
    for ax, maps in zip(axes[1:], rows, strict=True):
        chosen = maps.flatten(1).std(1).topk(min(num_maps, len(maps))).indices.sort().values
        tiles = [shrink(tile) for tile in stretch_contrast(maps[chosen])]
        _row(ax, tiles, num_maps, shape_text(maps.shape))
    sizes = "、".join(shape_text(maps.shape) for maps in rows)
    alt = f"一幅输入图像和网络由它得到的特征图，自上而下的大小：{sizes}"
    show(fig, alt=alt, caption=caption, save=save)


def _row(ax, tiles, num_cols, label):
    """One row of images with room for `num_cols` and a label on its left."""
    tiles = torch.stack(tiles)
    repeat = math.ceil(28 / min(tiles.shape[1:3]))  # so that the gaps are alike in all rows
    tiles = tiles.repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)
    plot_image(ax, mosaic(tiles, num_cols, gap=round(tiles.shape[1] / 14)))
    ax.text(-0.01, 0.5, label, transform=ax.transAxes, ha="right", va="center", fontsize=9)


@book_style()
def show_confusion(
    net, data_iter, class_names=None, *, num_pairs=3, device=None, caption=None, save=None
):
    """Display the confusion matrix of `net` over `data_iter`, and the most confused pairs.

    data_iter: iterable of (X, y), y whole numbers (B,). Rows of the matrix are true classes,
    columns predictions. Under it, for the `num_pairs` most frequent errors, up to 8 images each,
    where X are images. class_names: one a class; if None, `data_iter.dataset.classes`, which
    Fashion-MNIST's iterators have, else numbers. device: the net's, where X is sent; found from its
    first parameter if None. save: a file to write as well, in the format of its ending.
    """
    device = torch.device(device_of(net) if device is None else device)
    counts, examples = 0, {}
    for X, scores, y in predictions(net, data_iter, device, "data_iter"):
        num = scores.shape[1]
        y, guesses = y.cpu(), scores.argmax(1).cpu()
        counts += torch.bincount(y * num + guesses, minlength=num * num).view(num, num)
        for i in (y != guesses).nonzero().flatten().tolist():
            found = examples.setdefault((y[i].item(), guesses[i].item()), [])
            if len(found) < MOST_IMAGES and is_image(X.shape[1:]):
                found.append(shrink(X[i]))
    names = class_names
    if names is None:  # those of the data set, where it has a name for each score
        names = getattr(getattr(data_iter, "dataset", None), "classes", None) or ()
        names = names if len(names) == len(counts) else list(map(str, range(len(counts))))
    if isinstance(names, str) or len(names) != len(counts):
        raise ValueError(f"class_names has {len(names)} entries for {len(counts)} classes")
    pairs = sorted(examples, key=lambda pair: (-counts[pair].item(), pair))[:num_pairs]
    correct = counts.diagonal().sum().item()
    words = [f"混淆矩阵：{counts.sum().item():,}个样本中{correct:,}个预测正确"]
    words += [f"{names[true]}被认作{names[guess]}{counts[true, guess]}次" for true, guess in pairs]
    rows = [4.2] + [0.7 for pair in pairs if examples[pair]]
    fig = Figure(figsize=(PHONE_WIDTH, sum(rows)), layout="constrained")
    axes = fig.subplots(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    _matrix(axes[0], counts, names)
    for ax, (true, guess) in zip(axes[1:], pairs, strict=False):
        plot_image(ax, mosaic(torch.stack(examples[true, guess]), MOST_IMAGES, gap=3))
        title = f"{names[true]} taken for {names[guess]}: {counts[true, guess]}"
        ax.set_title(title, fontsize=9, loc="left")
    show(fig, alt="；".join(words), caption=caption, save=save)


def _matrix(ax, counts, names):
    """The matrix with numbers; the fill is stronger the larger the share of the true class."""
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    cells = torch.empty(*counts.shape, 4)
    cells[..., :3] = torch.tensor(to_rgb(BLUE))
    cells[..., 3] = 0.65 * share.sqrt()
    ax.imshow(cells.numpy(), interpolation="none")
    for i, j in counts.nonzero().tolist():
        ax.text(j, i, counts[i, j].item(), ha="center", va="center", fontsize=8)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set_xlabel("predicted", fontsize=9)
    ax.set_ylabel("true", fontsize=9)
