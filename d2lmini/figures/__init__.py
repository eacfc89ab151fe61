"""The book's pictures: inline SVG for light and dark pages, in notebooks and on the site.

architecture  `draw`: networks as columns of boxes, from the modules themselves
boxes         from layers to boxes
column        from boxes to SVG, one column a network
svg           the pieces of that SVG
tracing       a net is run once: its layers, who feeds whom, shapes, costs
structure     layers in series and on parallel paths
layers        what is known of each type of layer: kind, label, facts, rule
plots         costs as bars, training runs as curves, receptive fields
pictures      images in a grid, and filters, feature maps, confusions of a trained network
inline_svg    matplotlib figures as inline SVG, and how any figure is shown
style         kinds of layers, colours, widths, numbers as text

Words in pictures follow one rule: English in matplotlib's, which lays its texts out with a font
that has to be at hand, and Colab has none for Chinese; Chinese in captions, alternative texts and
the architecture figures, whose texts the reader's browser lays out (their boxes have the field's
notation: 3×3 Conv). Nothing here imports the trainer or the plot of its curves.
"""

from d2lmini.figures.architecture import draw
from d2lmini.figures.inline_svg import show
from d2lmini.figures.pictures import show_confusion, show_feature_maps, show_filters, show_images
from d2lmini.figures.plots import show_costs, show_histories, show_receptive_field

__all__ = ["draw", "show", "show_confusion", "show_costs", "show_feature_maps", "show_filters",
           "show_histories", "show_images", "show_receptive_field"]  # fmt: skip
