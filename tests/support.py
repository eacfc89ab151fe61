"""Small networks, batches and runs that tests of the helper share."""

import torch
from torch import nn

import d2lmini as d2l
from d2lmini.data import ImageIterator


def images(num=12, channels=1, side=8, num_classes=3, seed=0):
    """Random images in [0, 1), and the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(num, channels, side, side, generator=generator)
    return X, torch.arange(num) % num_classes


def batches(num=12, size=4, **options):
    """`images` as a list of batches."""
    X, y = images(num, **options)
    return list(zip(X.split(size), y.split(size), strict=True))


def changed(change, **options):
    """`batches`, each of which is what `change` makes of its X and y."""
    return [change(X, y) for X, y in batches(**options)]


def iterator(X, y, size=4, **options):
    """Images and labels as the package's own iterator."""
    return ImageIterator((X[:, 0] * 255).to(torch.uint8), y, size, **options)


def small_net(num_classes=3, channels=1, dropout=0.0):
    """A network for `images`; the weights of layer 3 differ with the memory layout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(64, num_classes),
    )  # fmt: skip


class Net(nn.Module):
    """`small_net`, with a function before and one after it."""

    def __init__(self, before=lambda X: X, after=lambda scores: scores):
        super().__init__()
        self.net, self.before, self.after = small_net(), before, after

    def forward(self, X):
        return self.after(self.net(self.before(X)))


def raise_at(number, net, error, training=True):
    """Have `net` raise `error` in its training step of that number, or in evaluation after one."""
    calls = {True: 0, False: 0}

    def raise_error(net, args):
        calls[net.training] += net.training or calls[True] > 0  # not in the look before training
        if net.training == training and calls[training] == number:
            raise error

    net.register_forward_pre_hook(raise_error)


def train(net, train_iter, test_iter=..., num_epochs=1, lr=0.1, device="cpu", **options):
    """`train_ch6` with settings that suit `small_net`."""
    test_iter = train_iter if test_iter is ... else test_iter
    return d2l.train_ch6(net, train_iter, test_iter, num_epochs, lr, device, **options)


def assert_same_weights(net, other, rtol=0, atol=0):
    """Each parameter and buffer of one is that of the other; without a tolerance, bit for bit."""
    states = net.state_dict(), other.state_dict()
    torch.testing.assert_close(*states, rtol=rtol, atol=atol, check_device=False)
