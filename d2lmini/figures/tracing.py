"""A network is run once to find what it consists of: layers, data flow, shapes, costs.

Nothing here knows a particular network. Leaf modules report through forward hooks, functions called
between them (`F.relu`, `torch.cat`, `+`) through a `TorchFunctionMode`, FLOPs come from torch's
`FlopCounterMode`, and who feeds whom from the identity of the tensors passed on. `trace` runs on
meta tensors (shapes without numbers), so even VGG-11 costs nothing; a module that cannot run on
them runs on its own device instead.
"""

import contextlib
import copy

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from d2lmini.figures.notation import describe_function, describe_module
from d2lmini.figures.rules import rule_of_function, rule_of_module
from d2lmini.figures.structure import IN, Group, Layer, arrange
from d2lmini.network import evaluation_mode

__all__ = ["layer_outputs", "trace", "trace_all"]

SILENT = {"clone", "contiguous", "detach", "to"}  # functions that pass a tensor on as it is


def trace_all(nets, input_shape, labels=None):
    """(label, shape, root) for each net, `root` as `trace` returns it.

    nets: `nn.Module`s, at least one. input_shape: one shape for all, or a list with one a net,
    batch axis first. labels: a text a net, none if None. TypeError or ValueError names the argument
    that does not fit.
    """
    if not nets:
        raise TypeError("no net given: pass at least one nn.Module")
    if isinstance(input_shape, (str, int)) or not len(input_shape):
        raise TypeError(
            f"input_shape must be a shape such as (1, 1, 224, 224) or a list of "
            f"shapes, got {input_shape!r}"
        )
    shapes = [input_shape] * len(nets) if isinstance(input_shape[0], int) else list(input_shape)
    labels = [""] * len(nets) if labels is None else list(labels)
    for name, values in (("input_shape", shapes), ("labels", labels)):
        if len(values) != len(nets):
            raise ValueError(
                f"{name} has {len(values)} entries for {len(nets)} nets: give one for each"
            )
    return [
        (label, tuple(shape), trace(net, shape))
        for label, shape, net in zip(labels, shapes, nets, strict=True)
    ]


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
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    if any(isinstance(p, UninitializedParameter) for p in net.parameters()):
        net = copy.deepcopy(net)  # the first run gives a lazy layer its shape: not the caller's
        recorder = _run(net, torch.zeros(input_shape, dtype=first.dtype, device=first.device))
    else:
        try:
            x = torch.zeros(input_shape, dtype=first.dtype, device="meta")
            recorder = _run(net, x, on_meta=True)
        except Exception:  # e.g. forward looks at values: run it for real
            recorder = _run(net, torch.zeros(input_shape, dtype=first.dtype, device=first.device))
    layers = [layer for layer, _ in recorder.steps]
    root = Group("", type(net).__name__, layers=layers)
    root.other_params = sum(p.numel() for p in net.parameters()) - root.params
    root.items = arrange(layers, recorder.outputs)
    return root


def layer_outputs(net, X):
    """Run `net` on `X` and return (layer, output) for each layer, in the order they ran.

    The net is left alone as by `trace`. Of a layer with several outputs the first is given; one
    without a tensor is left out. Raises ValueError when the net does not take `X`.
    """
    return [(layer, output) for layer, output in _run(net, X).steps if output is not None]


def _run(net, x, on_meta=False):
    """Run `net` once in evaluation mode and return the `_Recorder`."""
    first = next(net.parameters(), x)
    devices = [first.device] if first.device.type == "cuda" else []
    recorder = _Recorder(FlopCounterMode(display=False), x)
    try:
        with (
            evaluation_mode(net),
            torch.random.fork_rng(devices),
            torch.no_grad(),
            recorder.counter,
            recorder.hooks(net),
            recorder,
        ):
            output = _run_on_meta(net, x) if on_meta else net(x)
    except Exception as error:
        if on_meta:
            raise
        raise ValueError(
            f"{type(net).__name__} does not take an input of shape {tuple(x.shape)}: {error}"
        ) from error
    recorder.outputs = recorder.sources(output)
    return recorder


def _run_on_meta(net, X):
    """`net(X)` in shapes alone: `X` and all weights stand on the meta device meanwhile."""
    stand_ins = {}  # tied weights stay tied
    # Named by their modules, each once: of two names for one module, the stand-ins would stay.
    state = {
        f"{prefix}.{name}" if prefix else name: stand_ins.setdefault(
            id(tensor), tensor.detach().to("meta")
        )
        for prefix, module in net.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }
    return torch.func.functional_call(net, state, (X.to("meta"),), tie_weights=False)


class _Recorder(TorchFunctionMode):
    """Collects `Layer`s, in the order they run, from hooks and from functions between modules."""

    def __init__(self, counter, x):
        super().__init__()
        self.counter, self.batch = counter, len(x)
        self.steps, self.outputs = [], []  # (layer, its first output), sources of the net's output
        self.producer = {id(x): IN}
        self.kept = [x]  # keeps tensors alive, so that no id is used twice
        self.running = []  # the modules being run: Group for containers, Layer for a leaf
        self.versions = {}  # of the running leaf's inputs, by id: torch counts writes to a tensor
        self.counted = set()  # parameters already counted (shared layers count once)

    @contextlib.contextmanager
    def hooks(self, net):
        """Forward hooks on every module of `net` but the root, removed at the end."""
        handles, attached = [], set()

        def attach(name, module):
            if module in attached:  # one of two parents: it would report each call twice
                return
            attached.add(module)
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
        self.running.append(Group(name, type(module).__name__))

    def _leave_group(self, module, inputs, output):
        self.running.pop()

    def _enter_leaf(self, name, module, inputs):
        layer = Layer(name, *describe_module(module), rule=rule_of_module(module))
        new = [p for p in module.parameters() if id(p) not in self.counted]
        layer.params = sum(p.numel() for p in new)
        self.counted.update(map(id, new))
        self._enter(layer, inputs)

    def _leave_leaf(self, module, inputs, output):
        return self._leave(output)

    def _enter(self, layer, inputs):
        layer.operands = [self.producer.get(id(tensor)) for tensor in _tensors(inputs)]
        layer.groups = tuple(self.running)
        layer.flops = -self.counter.get_total_flops()
        self.running.append(layer)
        self.versions = {id(tensor): tensor._version for tensor in _tensors(inputs)}

    def _leave(self, output):
        """Keep the running layer; return its output, apart from what it only handed on."""
        output = _map_tensors(self._apart, output)
        layer = self.running.pop()
        layer.flops = (layer.flops + self.counter.get_total_flops()) // self.batch
        tensors = list(_tensors(output))
        layer.shape = tuple(tensors[0].shape[1:]) if tensors else ()
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
        handed_on = self.versions.get(id(tensor)) == tensor._version
        return tensor.view_as(tensor) if handed_on else tensor

    def sources(self, values):
        """Producers of the tensors in `values`, without repetition; constants have none."""
        found = (self.producer.get(id(tensor)) for tensor in _tensors(values))
        return list(dict.fromkeys(source for source in found if source is not None))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inside_leaf = bool(self.running) and isinstance(self.running[-1], Layer)
        sources = [] if inside_leaf else self.sources((args, kwargs))
        if not sources:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "function").strip("_")
        rule = rule_of_function(function, name, args, kwargs)
        self._enter(Layer("", *describe_function(name), rule=rule), (args, kwargs))
        output = function(*args, **kwargs)
        if any(True for _ in _tensors(output)) and name not in SILENT:
            return self._leave(output)
        self.running.pop()  # a shape, a number, the same data: no step of the network
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


def _map_tensors(function, values):
    """`values` with `function` applied to it, or to what it is a tuple or list of."""
    if isinstance(values, torch.Tensor):
        return function(values)
    if type(values) in (tuple, list):
        return type(values)(_map_tensors(function, value) for value in values)
    return values
