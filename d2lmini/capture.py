"""On CUDA a batch's work is captured once as a graph and replayed: Python launches no kernels.

A step of GoogLeNet launches 600 kernels, which takes Python twice as long as they run. What is
captured is the same code that runs ordinarily; replaying repeats its kernels on the same addresses.

Source: the CUDA graphs of torch, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import collections
import contextlib
import functools
import itertools
import random
import sys
import warnings

import torch
from torch import nn

from d2lmini.data import ImageIterator
from d2lmini.network import device_of, uncompiled

__all__ = ["GraphRecorder", "Replayed", "can_be_replayed"]

ORDINARY_CALLS = 2  # libraries load and choose algorithms in the first; the second is watched
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Replayed:
    """`work(indices)`, which after two ordinary calls is captured and from then on replayed.

    Each number of images has a graph of its own. What cannot be captured is done the ordinary way
    for good, and nothing twice, for capturing runs no kernel; the recorder then says why.

    Args:
        work: function of the numbers of a batch's images, int64 (B,), on the recorder's device. Its
            results are what it changes: tensors, in place.
        recorder: `GraphRecorder` of the module that it runs. All work of a recorder is replayed, or
            none: what training renews, evaluation may read.
    """

    def __init__(self, work, recorder):
        self.work, self.recorder = work, recorder
        self.num_ordinary = 0
        self.graphs = {}  # by number of images: the graph's indices, and a function that replays it
        recorder.replayed.append(self)

    def __call__(self, indices):
        size = len(indices)
        if self.recorder.why_not is None and self.num_ordinary >= ORDINARY_CALLS:
            if size not in self.graphs:
                self._capture(indices)
            if size in self.graphs:
                own_indices, replay = self.graphs[size]
                own_indices.copy_(indices)
                replay()
                return
        is_watched = self.num_ordinary == ORDINARY_CALLS - 1 and not self.recorder.why_not
        with self._watched() if is_watched else contextlib.nullcontext():
            self.work(indices)
        self.num_ordinary += 1

    def _capture(self, indices):
        own_indices = indices.clone()
        if not any(replayed.graphs for replayed in self.recorder.replayed):
            self.recorder.places = self.recorder.places_now()
        try:
            replay = self.recorder.record(lambda: self.work(own_indices))
        except Exception as error:  # in the ordinary call to come it is told, if it is a mistake
            self.recorder.give_up(f"capturing failed: {type(error).__name__}: {error}")
        else:
            self.graphs[len(indices)] = own_indices, replay

    @contextlib.contextmanager
    def _watched(self):
        """Look for what a replay would leave out: all that is not a kernel."""
        before = _state_outside_graphs(self.recorder.net)
        with self.recorder.rehearsal() as notes:
            yield
        if notes:
            self.recorder.give_up(f"the program waits for the GPU: {notes[0]}")
        elif not _same(before, _state_outside_graphs(self.recorder.net)):
            self.recorder.give_up("forward draws random numbers on the CPU, or keeps something")

    def look_again(self):
        """Before each pass: do the network's tensors still lie where the graphs expect them?"""
        if self.recorder.places not in (None, self.recorder.places_now()):
            self.recorder.give_up("forward renews parameters or buffers")


class GraphRecorder:
    """Captures work of `net` on its GPU.

    Its graphs, used one after another, share their memory. `why_not` is None, or says why there are
    no graphs (any more).
    """

    def __init__(self, net):
        self.net, self.device = net, device_of(net)
        self.replayed, self.why_not = [], None
        self.places = None  # of parameters and buffers, when the first graph was captured
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = _capture_stream(self.device)

    def record(self, work):
        """Capture what `work()` does, as a function that does it again."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        random_state = torch.cuda.get_rng_state(self.device)
        try:
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(graph, pool=self.pool, stream=self.stream),
            ):
                work()
        except BaseException:
            self._put_back(stream, random_state)
            raise
        return graph.replay

    def _put_back(self, stream, random_state):
        """After a capture that failed: torch leaves its stream current, and generators stuck."""
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize(self.device)
        generator = torch.cuda.default_generators[self.device.index]
        generator.graphsafe_set_state(torch.Generator(self.device).graphsafe_get_state())
        torch.cuda.set_rng_state(random_state, self.device)

    @contextlib.contextmanager
    def rehearsal(self):
        """Run the work inside on the stream that will capture it, whose libraries get memory.

        Yields a list, to which torch's warnings are added where the program waits for the GPU.
        """
        notes, mode = [], torch.cuda.get_sync_debug_mode()
        ordinary = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(ordinary)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with torch.cuda.stream(self.stream):
                    yield notes
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                ordinary.wait_stream(self.stream)
        for warning in caught:
            if "synchronizing CUDA operation" in str(warning.message):
                notes.append(str(warning.message))
            elif "Synchronization debug mode" not in str(warning.message):
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )

    def places_now(self):
        """The addresses of all parameters and buffers of the network."""
        tensors = itertools.chain(self.net.parameters(), self.net.buffers())
        return [tensor.data_ptr() for tensor in tensors]

    def give_up(self, reason):
        """Do without graphs from now on."""
        self.why_not = self.why_not or reason
        for replayed in self.replayed:
            replayed.graphs.clear()

    def close(self):
        """Give back the graphs' memory."""
        self.give_up("training has ended")
        self.replayed.clear()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()


@functools.cache  # cuBLAS keeps memory for each stream that it has ever worked on
def _capture_stream(device):
    return torch.cuda.Stream(device)


def can_be_replayed(net, data_iter):
    """Whether a batch of `data_iter` through `net` can be a graph, as far as it shows beforehand.

    What a reader's function does to the images, and hooks, would run once only.
    """
    device = device_of(net)
    return (
        device.type == "cuda"
        and type(data_iter) is ImageIterator
        and not data_iter.transforms
        and uncompiled(net) is net
        and not any(isinstance(module, nn.DataParallel) for module in net.modules())
        and not any(getattr(module, hooks) for module in net.modules() for hooks in HOOKS)
        and not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in net.parameters())
        and all(t.device == device for t in itertools.chain(net.parameters(), net.buffers()))
    )


def _state_outside_graphs(net):
    """The random numbers of the CPU, and what modules keep, as a list of (name, value)."""
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    _, key, *position = numpy_random.get_state() if numpy_random else (None, torch.empty(0))
    state = [
        ("Python", repr(random.getstate())),
        ("torch", repr(torch.get_rng_state().tolist())),
        ("NumPy", repr((key.tolist(), position))),
    ]
    for module in net.modules():
        for name, value in (*vars(module).items(), *module._buffers.items()):
            state.append((name, value))
            if isinstance(value, (list, dict, set, collections.deque)):
                state.append((name, len(value)))
    return state


def _same(state, other):
    """Whether two states hold the same objects, or equal numbers and texts."""
    return len(state) == len(other) and all(
        name == other_name
        and (
            value is other_value
            or (
                isinstance(value, (int, float, str, torch.Size))
                and type(value) is type(other_value)
                and value == other_value
            )
        )
        for (name, value), (other_name, other_value) in zip(state, other, strict=True)
    )
