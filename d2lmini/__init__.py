"""d2lmini: what the chapters import, `import d2lmini as d2l`.

The files of the helper; read in this order, each builds on those before it:

network     what is done to a network: its place, its mode, its first weights
explain     torch's errors about memory, shapes and number formats, explained
data        Fashion-MNIST as one tensor, PIL's pixels without worker processes
device      the device, its memory, and the environment a chapter ran in
batches     images and labels from whatever a reader has, as tensors, or refused
checks      what train_ch6 is given, looked at before the first step
metrics     Timer, Accumulator, accuracy, evaluation
precision   number formats and memory layout while training
capture     a batch's work as a CUDA graph
checkpoint  training state on disk, and what tells one run from another
animator    training curves updated in place
train       train_ch6: initialise, train, measure, say what went wrong

figures     a subpackage: every picture of the book

Names and calls follow the PyPI package d2l 0.17.0 where it has them.
"""

from d2lmini.animator import Animator
from d2lmini.data import get_fashion_mnist_labels, load_data_fashion_mnist
from d2lmini.device import environment, try_gpu
from d2lmini.figures import (
    draw,
    show,
    show_confusion,
    show_costs,
    show_feature_maps,
    show_filters,
    show_histories,
    show_images,
    show_receptive_field,
)
from d2lmini.metrics import Accumulator, Timer, accuracy, evaluate_accuracy_gpu
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
    "show_histories",
    "show_images",
    "show_receptive_field",
    "train_ch6",
    "try_gpu",
]
