"""d2lmini: what the chapters import; names and calls are those of d2l 0.17.0 where it has them.

The files of the helper; read in this order, each builds on those before it:

network     modes, number formats, first weights of a network
device      the device, its arithmetic and memory, and the environment a chapter ran in
data        Fashion-MNIST as one tensor, PIL's pixels without worker processes
checks      what is refused before anything is changed, and what is explained afterwards
metrics     Timer, Accumulator, accuracy, evaluation
checkpoint  training state on disk, and the plain values by which it knows its run
cuda_graph  a training step as a CUDA graph, on request
animator    training curves updated in place
train       train_ch6: look, initialise, train, measure

figures     a subpackage: every picture of the book
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
    show_receptive_field,  # fmt: skip
)
from d2lmini.metrics import Accumulator, Timer, accuracy, evaluate_accuracy_gpu
from d2lmini.train import History, train_ch6

__all__ = ["Accumulator", "Animator", "History", "Timer", "accuracy", "draw", "environment",
           "evaluate_accuracy_gpu", "get_fashion_mnist_labels", "load_data_fashion_mnist", "show",
           "show_confusion", "show_costs", "show_feature_maps", "show_filters", "show_histories",
           "show_images", "show_receptive_field", "train_ch6", "try_gpu"]  # fmt: skip
