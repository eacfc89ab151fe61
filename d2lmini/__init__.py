"""d2lmini: what the four chapters import, `import d2lmini as d2l`.

data      Fashion-MNIST as one tensor, PIL's pixels without worker processes
train     train_ch6, with checkpoints and honest figures
arithmetic  precision, memory layout and memory while training
metrics   Timer, Accumulator, accuracy, evaluation
animator  training curves updated in place
draw      architecture figures drawn from the modules themselves
trace     what the modules are and cost, measured by running them
figures   the other pictures: images, costs, filters, feature maps, confusions
checkpoint  training state on disk
svg       matplotlib figures as inline SVG
device    the device, and the environment a chapter ran in

Names and calls follow the PyPI package d2l 0.17.0 where it has them.
"""

from d2lmini.animator import Animator
from d2lmini.data import get_fashion_mnist_labels, load_data_fashion_mnist
from d2lmini.device import environment, try_gpu
from d2lmini.draw import draw
from d2lmini.figures import (
    show_confusion,
    show_costs,
    show_feature_maps,
    show_filters,
    show_images,
    show_receptive_field,
)
from d2lmini.metrics import Accumulator, Timer, accuracy, evaluate_accuracy_gpu
from d2lmini.svg import show
from d2lmini.train import History, train_ch6

__all__ = [
    "Accumulator",
    "Animator",
    "History",
    "Timer",
    "accuracy",
    "draw",
    "environment",
    "evaluate_accuracy_gpu",
    "get_fashion_mnist_labels",
    "load_data_fashion_mnist",
    "show",
    "show_confusion",
    "show_costs",
    "show_feature_maps",
    "show_filters",
    "show_images",
    "show_receptive_field",
    "train_ch6",
    "try_gpu",
]
