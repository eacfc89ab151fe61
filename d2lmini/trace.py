"""What a network consists of, found by running it once: layers, data flow, shapes, costs.

Nothing here knows a particular network. Leaf modules report through forward hooks, functions called
between them (`F.relu`, `torch.cat`, `+`) through a `TorchFunctionMode`, FLOPs come from torch's
`FlopCounterMode`, and who feeds whom from the identity of the tensors passed on. The run uses meta
tensors (shapes without numbers), so even VGG-11 costs nothing; a module that cannot run on them
runs on its own device instead.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Group", "Layer", "Parallel", "trace"]

IN, OUT = "input", "output"

# Functions worth a place in a figure: name -> (kind, head). Others get a plain box with their name.
FUNCTIONS = {
    "cat": ("join", "Concatenation"),
    "concat": ("join", "Concatenation"),
    "add": ("join", "Add"),
    "iadd": ("join", "Add"),
    "radd": ("join", "Add"),
    "flatten": ("reshape", "Flatten"),
    "view": ("reshape", "Reshape"),
    "reshape": ("reshape", "Reshape"),
    "relu": ("elementwise", "ReLU"),
    "sigmoid": ("elementwise", "Sigmoid"),
    "tanh": ("elementwise", "Tanh"),
    "gelu": ("elementwise", "GELU"),
    "softmax": ("elementwise", "Softmax"),
    "dropout": ("elementwise", "Dropout"),
}
SILENT = {"clone", "contiguous", "detach", "to"}  # pass a tensor on as it is
CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
ELEMENTWISE = {
    f"torch.nn.modules.{name}"
    for name in ("activation", "dropout", "batchnorm", "instancenorm", "normalization")
}


@dataclass(eq=False)
class Layer:
    """One call of a leaf module or function.

    `kind` is conv, pool, fc, elementwise, reshape, join or other. `head` and `tail` make its label
    in the field's notation, `facts` are (name, value) pairs such as ('步幅', '4'). `shape` is the
    output's without the batch axis; `params` counts parameters, `flops` those of one example.
    """

    name: str  # path inside the net, '' for a function
    kind: str
    head: str
    tail: str = ""
    facts: tuple = ()
    shape: tuple = ()
    params: int = 0
    flops: int = 0
    inputs: list = field(default_factory=list)  # layers (or IN) whose outputs it takes
    groups: tuple = ()  # calls of the container modules around it, outermost first

    @property
    def label(self):
        if not self.tail:
            return self.head
        return f"{self.head}{' ' if self.tail.startswith('(') else ', '}{self.tail}"


@dataclass(eq=False)
class Group:
    """One call of a module with children. `items` (Layer, Group, Parallel) run one after another.

    `items` is None where the data flow is not made of series and parallel paths.
    """

    name: str
    class_name: str
    items: list | None = None
    layers: list = field(default_factory=list)  # all layers inside, in the order they ran
    other_params: int = 0  # of the root: parameters that no layer holds, such as position codes

    @property
    def params(self):
        return sum(layer.params for layer in self.layers) + self.other_params

    @property
    def flops(self):
        return sum(layer.flops for layer in self.layers)

    @property
    def shape(self):
        return self.layers[-1].shape if self.layers else ()


@dataclass(eq=False)
class Parallel:
    """Paths that start from one tensor and meet again in the item that follows."""

    paths: list  # of lists of items; an empty list is a skip connection

    @property
    def layers(self):
        items = [item for path in self.paths for item in path]
        return [x for item in items for x in ([item] if isinstance(item, Layer) else item.layers)]


def trace(net, input_shape):
    """Run `net` on an input of `input_shape` (batch axis first) and return its root `Group`.

    Modes, gradients, buffers, random state and device of the net stay as they were. Raises
    TypeError when `net` is no module, ValueError when it cannot take an input of that shape.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be an nn.Module, got {type(net).__name__}")
    input_shape = tuple(input_shape)
    if not input_shape or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise ValueError(
            f"input_shape must be positive integers, batch size first, such as "
            f"(1, 1, 224, 224); got {input_shape}"
        )
    if any(isinstance(p, UninitializedParameter) for p in net.parameters()):
        net = copy.deepcopy(net)  # the first run gives a lazy layer its shape: not the caller's
        recorder = _run(net, input_shape, meta=False)
    else:
        try:
            recorder = _run(net, input_shape, meta=True)
        except Exception:  # e.g. forward looks at values: run it for real
            recorder = _run(net, input_shape, meta=False)
    root = Group("", type(net).__name__, layers=recorder.layers)
    root.other_params = sum(p.numel() for p in net.parameters()) - root.params
    root.items = _arrange(root.layers, 0, recorder.outputs)
    return root


def _run(net, input_shape, meta):
    """Run `net` once in eval mode and return the `_Recorder`."""
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    x = torch.zeros(input_shape, dtype=first.dtype, device="meta" if meta else first.device)
    modes = {module: module.training for module in net.modules()}
    devices = [first.device] if first.device.type == "cuda" else []
    counter = FlopCounterMode(display=False)
    recorder = _Recorder(counter, x)
    try:
        net.eval()
        with (
            torch.random.fork_rng(devices),
            torch.no_grad(),
            counter,
            recorder.hooks(net),
            recorder,
        ):
            if meta:
                state = {name: tensor.detach().to("meta") for name, tensor in state.items()}
                output = torch.func.functional_call(net, state, (x,))
            else:
                output = net(x)
    except Exception as error:
        if meta:
            raise
        raise ValueError(
            f"{type(net).__name__} does not take an input of shape {input_shape}: {error}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    recorder.outputs = recorder.sources(output)
    return recorder


class _Recorder(TorchFunctionMode):
    """Collects `Layer`s, in the order they run, from hooks and from functions between modules."""

    def __init__(self, counter, x):
        super().__init__()
        self.counter, self.batch = counter, len(x)
        self.layers, self.outputs = [], []
        self.producer = {id(x): IN}
        self.kept = [x]  # keeps tensors alive, so that no id is used twice
        self.stack = []  # the modules being run: Group for containers, Layer for a leaf
        self.counted = set()  # parameters already counted (shared layers count once)

    @contextlib.contextmanager
    def hooks(self, net):
        """Forward hooks on every module of `net` but the root, removed at the end."""
        handles = []

        def attach(name, module):
            leaf = _is_leaf(module)
            enter = self._enter_leaf if leaf else self._enter_group
            if leaf or module is not net:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda m, args, kwargs: enter(name, m, (args, kwargs)), with_kwargs=True
                    )
                )
                handles.append(
                    module.register_forward_hook(self._leave_leaf if leaf else self._leave_group)
                )
            for child_name, child in () if leaf else module.named_children():
                attach(f"{name}.{child_name}" if name else child_name, child)

        attach("", net)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter_group(self, name, module, inputs):
        self.stack.append(Group(name, type(module).__name__))

    def _leave_group(self, module, inputs, output):
        self.stack.pop()

    def _enter_leaf(self, name, module, inputs):
        layer = Layer(name, *describe(module))
        new = [p for p in module.parameters() if id(p) not in self.counted]
        layer.params = sum(p.numel() for p in new)
        self.counted.update(map(id, new))
        self._enter(layer, inputs)

    def _leave_leaf(self, module, inputs, output):
        self._leave(output)

    def _enter(self, layer, inputs):
        layer.inputs = self.sources(inputs)
        layer.groups = tuple(self.stack)
        layer.flops = -self.counter.get_total_flops()
        self.stack.append(layer)

    def _leave(self, output):
        layer = self.stack.pop()
        layer.flops = (layer.flops + self.counter.get_total_flops()) // self.batch
        tensors = list(_tensors(output))
        layer.shape = tuple(tensors[0].shape[1:]) if tensors else ()
        for tensor in tensors:
            self.producer[id(tensor)] = layer
        self.kept += tensors
        self.layers.append(layer)
        for group in layer.groups:
            group.layers.append(layer)

    def sources(self, values):
        """Producers of the tensors in `values`, without repetition; constants have none."""
        found = (self.producer.get(id(tensor)) for tensor in _tensors(values))
        return list(dict.fromkeys(source for source in found if source is not None))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inside_leaf = bool(self.stack) and isinstance(self.stack[-1], Layer)
        sources = [] if inside_leaf else self.sources((args, kwargs))
        if not sources:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "function").strip("_")
        self._enter(Layer("", *FUNCTIONS.get(name, ("other", name))), (args, kwargs))
        output = function(*args, **kwargs)
        if any(True for _ in _tensors(output)) and name not in SILENT:
            self._leave(output)
        else:  # a shape, a number, the same data: no step of the network
            self.stack.pop()
            for tensor in _tensors(output):
                self.producer[id(tensor)] = sources[0]
                self.kept.append(tensor)
        return output


def _is_leaf(module):
    """Whether a module is drawn as one box: it has no children or torch made it whole."""
    if not any(True for _ in module.children()):
        return True
    return type(module).__module__.startswith("torch.nn.") and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )


def _tensors(values):
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _arrange(layers, depth, outputs):
    """Order the layers of one group into series and parallel items, or None if they are not that.

    `depth` is the number of containers around the group, `outputs` the layers whose tensors leave.
    """
    owner = {}  # layer -> the layer itself or the group directly below that holds it
    for layer in layers:
        owner[layer] = layer.groups[depth] if len(layer.groups) > depth else layer
    order = [IN, *dict.fromkeys(owner.values()), OUT]
    before = {unit: [] for unit in order}
    leaving = {unit: [] for unit in order}
    for layer in layers:
        for source in layer.inputs:
            source_unit = owner.get(source, IN)
            if source_unit is not owner[layer]:
                before[owner[layer]].append(source_unit)
                leaving[source_unit].append(source)
    for source in outputs:
        before[OUT].append(owner.get(source, IN))
        leaving[owner.get(source, IN)].append(source)
    for unit in order:
        if isinstance(unit, Group) and unit.items is None:
            unit.items = _arrange(unit.layers, depth + 1, list(dict.fromkeys(leaving[unit])))
    return _series_parallel(order, {unit: list(dict.fromkeys(b)) for unit, b in before.items()})


def _series_parallel(order, before):
    """Items from IN to OUT. `order` lists the units (IN first, OUT last), `before` what feeds each.

    Units that the input does not reach or the output does not need are left out.
    """
    reached = {IN}
    for unit in order:
        if any(source in reached for source in before[unit]):
            reached.add(unit)
    needed = {OUT}
    for unit in reversed(order):
        if unit in needed:
            needed.update(before[unit])
    kept = [unit for unit in order if unit in reached and unit in needed]
    if IN not in kept or OUT not in kept:
        return None
    before = {unit: [source for source in before[unit] if source in kept] for unit in kept}
    after = {unit: [target for target in kept if unit in before[target]] for unit in kept}
    # Post-dominators: the units that every way from here to the output passes, nearest first.
    passed = {OUT: [OUT]}
    for unit in reversed(kept[:-1]):
        common = set.intersection(*(set(passed[target]) for target in after[unit]))
        passed[unit] = [unit, *(target for target in kept if target in common)]
    seen = []

    def series(unit, end):
        items = []
        while unit is not end:
            if unit in seen:
                raise _NotSeriesParallel
            if unit is not IN:
                seen.append(unit)
                items.append(unit)
            if len(after[unit]) == 1:
                unit = after[unit][0]
            else:
                join = passed[unit][1]
                items.append(Parallel(parallel(unit, join)))
                unit = join
        return items

    def parallel(fork, join):
        """The paths from fork to join, in the order in which the join takes them."""
        paths = []
        for target in after[fork]:
            start = len(seen)
            path = series(target, join)
            ends = [
                before[join].index(unit)
                for unit in (seen[start:] if path else [fork])
                if unit in before[join]
            ]
            paths.append((min(ends), path))
        return [path for _, path in sorted(paths, key=lambda pair: pair[0])]

    try:
        items = series(IN, OUT)
    except _NotSeriesParallel:
        return None
    return items if len(seen) == len(kept) - 2 else None


class _NotSeriesParallel(Exception):
    """Paths cross: the data flow cannot be drawn as columns side by side."""


def describe(module):
    """Return kind, head, tail and facts of a leaf module (see `Layer`)."""
    name, file = type(module).__name__, type(module).__module__
    if isinstance(module, CONVOLUTIONS):
        kernel = _window(module.kernel_size)
        stride, padding = _size(module.stride), _size(module.padding)
        extras = [
            ("stride", stride, "1"),
            ("pad", padding, "0"),
            ("dilation", _size(module.dilation), "1"),
            ("groups", str(module.groups), "1"),
        ]
        tail = [f"{name} {value}" for name, value, default in extras if value != default]
        facts = (("卷积核", kernel), ("步幅", stride), ("填充", padding))
        return (
            "conv",
            f"{kernel} {'Deconv' if module.transposed else 'Conv'}",
            ", ".join([f"({module.out_channels})", *tail]),
            facts,
        )
    if isinstance(module, nn.Linear):
        return "fc", "FC", f"({module.out_features})", (("输入特征", f"{module.in_features:,}"),)
    if file == "torch.nn.modules.pooling":
        operation = name.removeprefix("Adaptive").removesuffix("1d").removesuffix("2d")
        if not hasattr(module, "kernel_size"):
            size = _size(module.output_size)
            return "pool", f"{'Global' if size == '1' else 'Adaptive'} {operation}"
        dims = int(name[-2]) if name[-2].isdigit() else 1
        window = _window(module.kernel_size, dims)
        stride = _size(module.kernel_size if module.stride is None else module.stride)
        padding = _size(getattr(module, "padding", 0))
        return (
            "pool",
            f"{window} {operation}",
            f"stride {stride}" + (f", pad {padding}" if padding != "0" else ""),
            (("窗口", window), ("步幅", stride), ("填充", padding)),
        )
    if isinstance(module, nn.Flatten):
        return "reshape", "Flatten"
    if file == "torch.nn.modules.dropout":
        return "elementwise", f"Dropout {module.p:g}"
    if file in ELEMENTWISE and not any(True for _ in module.children()):
        return "elementwise", name.removesuffix("2d")
    return "other", name


def _window(size, dims=1):
    """A window as text: (3, 3), or 3 with two dimensions, is 3×3."""
    return "×".join(map(str, size if isinstance(size, tuple) else (size,) * dims))


def _size(size):
    """Strides and paddings as text: (2, 2) is 2, (2, 1) is 2×1, 'same' stays."""
    return _window((size[0],) if isinstance(size, tuple) and len(set(size)) == 1 else size)
