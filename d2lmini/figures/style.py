"""What the pictures have in common: kinds of layers, colours, widths, and numbers as text."""

BLUE, ORANGE, GREY = "#2f7fd1", "#e08a1e", "#888888"  # readable on white and on dark pages
PHONE_WIDTH, PAGE_WIDTH = 4.4, 6.4  # of matplotlib's figures, inches: legible on a phone; at most

# Line and marker of each of many curves, all different: they are told apart in grey too.
CURVES = [(line, marker) for line in ("-", "--", ":", "-.") for marker in "osD^vP*X"]

# kind -> (colour, outline, name in the legend); outlines tell the kinds apart without colour.
KINDS = {
    "conv": (BLUE, "solid", "卷积层"),
    "pool": (ORANGE, "dashed", "池化层"),
    "fc": ("#2e9e5b", "double", "全连接层"),
    "join": ("#9a63c7", "round", "合并路径"),
    "module": ("#c9527f", "sides", "含并行路径的块"),
    "other": ("#8a8a8a", "dotted", "其他"),
}


def drawn_kind(kind):
    """The kind in whose colour a layer of `kind` is drawn."""
    return kind if kind in KINDS else "other"


def shape_text(shape):
    """(96, 54, 54) as 96×54×54."""
    return "×".join(map(str, shape))


def share_text(part, whole):
    """A share: 0%, <0.1%, 3.6%."""
    percent = 100 * part / whole if whole else 0
    return "<0.1%" if 0 < percent < 0.05 else f"{percent:.1f}%" if percent else "0%"


def flops_text(flops):
    """1876000000 as 1,876 MFLOPs, 576 as 576 FLOPs."""
    digits = 0 if flops >= 1e7 else 2
    return f"{flops / 1e6:,.{digits}f} MFLOPs" if flops >= 1e5 else f"{flops:,} FLOPs"
