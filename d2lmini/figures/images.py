"""Images in a grid, and what other figures make of images: small, side by side, in grey or colour.

Images are shrunk to at most `MAX_SIDE` pixels a side, so that a page stays small.
"""

import math

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from d2lmini.figures.inline_svg import book_style, show
from d2lmini.figures.style import PAGE_WIDTH

__all__ = ["is_image", "mosaic", "plot_image", "show_images", "shrink", "stretch_contrast"]

MAX_SIDE = 56  # pixels of an image inside a figure


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
    titles = [""] * len(imgs) if titles is None else titles
    if isinstance(titles, str) or len(titles) < len(imgs):
        num = 1 if isinstance(titles, str) else len(titles)
        raise ValueError(f"titles has {num} entries for {len(imgs)} images")
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
        raise ValueError(
            f"an image must be (H, W), (1, H, W) or (3, H, W), got {tuple(image.shape)}"
        )
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
    flat = tiles.flatten(1)
    finite = flat.isfinite()
    low = flat.where(finite, flat.new_tensor(float("inf"))).min(1).values
    high = flat.where(finite, flat.new_tensor(float("-inf"))).max(1).values
    shape = (-1, *[1] * (tiles.dim() - 1))
    stretched = (tiles - low.view(shape)) / (high - low).clamp(min=1e-12).view(shape)
    return stretched.clamp(0, 1)
