"""A network is run once to find what it consists of: layers, data flow, shapes, costs.

Nothing here knows a particular network. Leaf modules report through forward hooks, functions called
between them (`F.relu`, `torch.cat`, `+`) through a `TorchFunctionMode`, FLOPs come from torch's
`FlopCounterMode`, and who feeds whom from the identity of the tensors passed on. `trace` runs on
meta tensors (shapes without numbers), so even VGG-11 costs nothing; a module that cannot run on
them runs on its own device instead.
"""

import contextlib
import copy
import functools
import re
from collections.abc import ValuesView

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from d2lmini.figures.layers import describe_function, describe_module
from d2lmini.figures.structure import IN, Group, Layer, arrange
from d2lmini.network import device_of, dtype_of, is_lazy

SILENT = {"clone", "contiguous", "detach", "to", "type_as", "float", "expand", "expand_as"}
CONSTANTS = {f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")} | {
    f"new_{kind}" for kind in ("zeros", "ones", "empty", "full", "tensor")
}  # functions that take of a tensor its shape alone


def trace_all(nets, input_shape, labels=None):
    """(label, root) for each net, `root` as `trace` returns it.

    nets: `nn.Module`s, at least one. input_shape: what `trace` takes, one for all or a list with
    one a net. labels: a text a net, none if None. TypeError or ValueError names the argument that
    does not fit.
    """
    if not nets:
        raise TypeError("no net given: pass at least one nn.Module")
    if not isinstance(input_shape, (tuple, list, torch.Tensor)):
        raise TypeError(f"input_shape must be a shape such as (1, 1, 224, 224), an example, or a "
                        f"list with one a net; got {input_shape!r}")  # fmt: skip
    one = (int, torch.Tensor) if isinstance(input_shape, tuple) else int
    is_one = isinstance(input_shape, torch.Tensor) or all(isinstance(x, one) for x in input_shape)
    shapes = [input_shape] * len(nets) if is_one else input_shape
    labels = [labels] if isinstance(labels, str) else labels or [""] * len(nets)
    for name, values in (("input_shape", shapes), ("labels", labels)):
        if len(values) != len(nets):
            raise ValueError(f"{name} has {len(values)} entries for {len(nets)} nets")
    return list(zip(labels, map(trace, nets, shapes), strict=True))


def trace(net, input_shape):
    """Run `net` once and return its root `Group`.

    input_shape: the shape of an image, batch axis first; or an example of what the net takes, where
    that is no floating-point tensor or more than one: a tensor, or a tuple of tensors.

    Modes, gradients, buffers, random state and device of the net stay as they were. Raises
    TypeError when `net` is no module, ValueError when it does not take such an input.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be an nn.Module, got {type(net).__name__}")
    inputs = (input_shape,) if isinstance(input_shape, torch.Tensor) else tuple(input_shape)
    if not all(isinstance(x, torch.Tensor) for x in inputs):
        if not all(isinstance(n, int) and n > 0 for n in inputs):
            raise ValueError(f"input_shape must be positive integers, batch size first, such as "
                             f"(1, 1, 224, 224); got {inputs}")  # fmt: skip
        inputs = (torch.zeros(inputs, dtype=dtype_of(net), device="meta"),)
    net = getattr(net, "_orig_mod", net)  # what torch.compile was given
    try:
        recorder = _run(net, inputs, on_meta=True)
    except Exception:  # e.g. forward looks at values: run it for real
        recorder = _run(net, inputs)
    layers = [layer for layer, _ in recorder.steps]
    root = Group("", type(net).__name__, layers=layers, outputs=recorder.outputs)
    root.other_params = recorder.num_params - root.params
    root.input_shapes = [tuple(x.shape[1:]) for x in inputs]
    root.items = arrange(layers, [layer for layer, _ in root.outputs])
    return root


def layer_outputs(net, X):
    """Run `net` on `X` and return (layer, output) for each layer, in the order they ran.

    The net is left alone as by `trace`. Of a layer with several outputs the first is given; one
    without a tensor is left out. Raises ValueError when the net does not take `X`.
    """
    return [(layer, output) for layer, output in _run(net, (X,)).steps if output is not None]


def _run(net, inputs, on_meta=False):
    """Run `net` once in evaluation mode and return the `_Recorder`.

    On the meta device all its tensors have stand-ins there, but for a lazy net; else `inputs` go
    to the net's device.
    """
    if is_lazy(net):  # its first run gives it its sizes
        net, on_meta = copy.deepcopy(net), False
    device = torch.device("meta") if on_meta else device_of(net)
    inputs = tuple(torch.zeros_like(x, device=device) if x.is_meta else x.to(device, copy=True)
                   for x in inputs)  # fmt: skip
    recorder = _Recorder(FlopCounterMode(display=False), inputs)
    try:
        with (
            _put_back(net, on_meta),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.no_grad(),
            recorder.counter,
            recorder,
        ):
            recorder.attach(net)
            recorder.weights = {id(p) for p in net.parameters()}
            output = net(*inputs)
            recorder.num_params = sum(p.numel() for p in net.parameters())
    except Exception as error:
        name, shapes = type(net).__name__, " and ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(f"{name} does not take an input of shape {shapes}: {error}") from error
    tensors = [(recorder.producer.get(id(x)), tuple(x.shape[1:])) for x in _tensors(output)]
    recorder.outputs = [(layer, shape) for layer, shape in tensors if layer is not None]
    return recorder


@contextlib.contextmanager
def _put_back(net, on_meta):
    """Meanwhile `net` is in evaluation mode, with tensors that may be written to: copies, but for
    the weights, or stand-ins on the meta device for all. Afterwards its modules are as they were,
    without hooks added meanwhile.
    """
    dicts = (x for module in net.modules() for x in (vars(module), *vars(module).values()))
    kept = [(values, dict(values)) for values in dicts if isinstance(values, dict)]
    made = {}  # a tensor's id -> what stands for it: tied weights stay tied
    try:
        for values, before in kept:
            for name, x in before.items():
                if not isinstance(x, torch.Tensor) or nn.parameter.is_lazy(x):
                    continue
                if on_meta or not isinstance(x, nn.Parameter):
                    copied = x.detach().to("meta") if on_meta else x.detach().clone()
                    values[name] = made.setdefault(id(x), copied)
        net.eval()
        yield
    finally:
        for values, before in kept:
            values.clear()
            values.update(before)


class _Recorder(TorchFunctionMode):
    """Collects `Layer`s, in the order they run, from hooks and from functions between modules.

    While a layer runs, it stands last in `running`, and what it calls is its own affair.
    """

    def __init__(self, counter, inputs):
        super().__init__()
        self.counter, self.input_shape = counter, tuple(inputs[0].shape)
        self.batch = (*self.input_shape, 1)[0]
        self.weights = set()  # ids of the net's parameters
        self.steps = []  # (layer, its first output)
        self.producer = {}  # id of a tensor -> the layer that made it, or IN
        self.kept = list(inputs)  # keeps tensors alive, so that no id is used twice
        self.running = []  # the modules being run: Group for containers, Layer for a leaf
        self.versions = {}  # of the running leaf's inputs, by id: torch counts writes to a tensor
        self.counted = set()  # parameters already counted (shared layers count once)
        for i, x in enumerate(inputs, start=1):
            self.producer[id(x)] = IN
            if len(inputs) > 1:  # a box for each
                layer = Layer("", operation=f"输入{i}", operands=[IN], shape=tuple(x.shape[1:]))
                self.producer[id(x)] = layer
                self.steps.append((layer, x))

    def attach(self, net):
        """Add forward hooks to every module of `net` but the root."""
        inside = set()  # modules that are a leaf's own affair
        for name, module in net.named_modules():
            is_leaf = _is_leaf(module) and (module is not net or _is_of_torch(module))
            if module in inside or (module is net and not is_leaf):
                continue
            inside.update(module.modules() if is_leaf else ())
            enter = functools.partial(self._enter_leaf if is_leaf else self._enter_group, name)
            module.register_forward_pre_hook(enter, with_kwargs=True)
            module.register_forward_hook(self._leave_leaf if is_leaf else self._leave_group)

    def _enter_group(self, name, module, args, kwargs):
        self.running.append(Group(name, type(module).__name__, len(self.running) + 1))

    def _leave_group(self, module, args, output):
        self.running.pop()

    def _enter_leaf(self, name, module, args, kwargs):
        layer = Layer(name, **describe_module(module))
        self._enter(layer, (args, kwargs), type(module).__name__)
        self._count(layer, module.parameters())

    def _leave_leaf(self, module, args, output):
        return self._leave(output)

    def _count(self, layer, parameters):
        """Parameters of a layer, but those that were counted before."""
        sizes = {id(p): p.numel() for p in parameters}
        layer.params = sum(size for key, size in sizes.items() if key not in self.counted)
        layer.is_shared = bool(sizes) and not layer.params
        self.counted.update(sizes)

    def _enter(self, layer, inputs, name):
        layer.groups = tuple(self.running)
        self.running.append(layer)  # from here, what is asked of tensors is the layer's own affair
        tensors = [x for x in _tensors(inputs) if id(x) not in self.weights]
        self._expect_batch(name, tensors)
        layer.operands = [self.producer.get(id(tensor)) for tensor in tensors]
        self.flops_before = self.counter.get_total_flops()
        self.versions = {id(tensor): _version(tensor) for tensor in tensors}

    def _expect_batch(self, name, tensors):
        """Refuse an image alone, which torch's layers take: its channels would be the batch."""
        axes = re.search(r"(?i)(?:conv|pool|transpose)(\d)d$", name)
        if axes and tensors and tensors[0].dim() == len(self.input_shape) == int(axes[1]) + 1:
            raise ValueError(f"the batch axis is missing, it would be {(1, *self.input_shape)}")

    def _leave(self, output):
        """Keep the running layer; return its output, apart from what it only handed on."""
        layer = self.running[-1]
        output = tree_map_only(torch.Tensor, self._apart, output)
        layer.flops = (self.counter.get_total_flops() - self.flops_before) // self.batch
        tensors = _tensors(output)
        layer.shape = tuple(tensors[0].shape[1:]) if tensors else ()
        self.running.pop()  # until here
        if layer.kind in ("other", "elementwise") and len(layer.inputs) > 1:
            layer.kind = "join"
        for tensor in tensors:
            self.producer[id(tensor)] = layer
        self.kept += tensors
        self.steps.append((layer, tensors[0] if tensors else None))
        for group in layer.groups:
            group.layers.append(layer)
        return output

    def _apart(self, tensor):
        """An input that comes out unchanged as a tensor of its own.

        Identity, or dropout in evaluation mode, returns the very tensor that it was given, which
        others may take too, and not from it. What was written to in place is another matter: all
        who take that tensor later take the result.
        """
        handed_on = self.versions.get(id(tensor)) == _version(tensor)
        return tensor.view_as(tensor) if handed_on else tensor

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "function")
        if self.running and isinstance(self.running[-1], Layer):
            if self.running[-1].kind == "other":  # a layer of a reader's own
                self._expect_batch(name, _tensors(args))
            return function(*args, **kwargs)
        if name == "__get__":  # of a property, such as x.T
            name = function.__self__.__name__
        plain = name.strip("_")
        values = _tensors((args, kwargs))
        known = [x for x in values if self.producer.get(id(x)) is not None]
        if not known or plain in CONSTANTS:
            return function(*args, **kwargs)
        layer = Layer("")
        self._enter(layer, (args, kwargs), plain)
        output = function(*args, **kwargs)
        made = args[0] if plain == "setitem" else output
        is_first_of_sum = plain in ("add", "radd") and [x for x in args if type(x) is int] == [0]
        if plain in SILENT or is_first_of_sum or not _tensors(made):
            self.running.pop()  # a shape, a number, the same data: no step of the network
            for tensor in _tensors(output):
                self.producer[id(tensor)] = self.producer[id(known[0])]
                self.kept.append(tensor)
            return output
        for key, value in describe_function(name, args, kwargs).items():
            setattr(layer, key, value)
        self._count(layer, [x for x in values if id(x) in self.weights])
        made = self._leave(made)
        return output if plain == "setitem" else made


def _is_of_torch(module):
    return type(module).__module__.startswith("torch.nn.")


def _is_leaf(module):
    """Whether a module is drawn as one box: it has no children or torch made it whole."""
    if not any(True for _ in module.children()):
        return True
    return _is_of_torch(module) and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.DataParallel)
    )


def _version(tensor):
    return 0 if tensor.is_inference() else tensor._version  # not counted in inference mode


def _tensors(values):
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(values, torch.Tensor):
        return [values]
    values = values.values() if isinstance(values, dict) else values
    is_nested = isinstance(values, (tuple, list, ValuesView))
    return [tensor for value in values for tensor in _tensors(value)] if is_nested else []
