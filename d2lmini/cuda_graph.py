"""A training step as a CUDA graph: captured once and replayed, without Python's launches.

A step of GoogLeNet launches 600 kernels, which takes Python twice as long as they run. The first
steps, and batches of another size, go the ordinary way.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import functools

import torch

from d2lmini.data import ImageIterator


def graphed_step(data_iter):
    """A `GraphedStep`, or None for batches that are not made on a GPU by this package alone."""
    is_own = isinstance(data_iter, ImageIterator) and not data_iter.transforms
    return GraphedStep(data_iter.device) if is_own and data_iter.device.type == "cuda" else None


class GraphedStep:
    """A training step, which changes tensors in place; captured and replayed for full batches."""

    def __init__(self, device):
        self.device, self.stream = device, _capture_stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.num_calls, self.indices, self.graph = 0, None, None

    def __call__(self, work, indices, full_size):
        """Do `work(indices)`, given the numbers of a batch's images, int64 (B,)."""
        if len(indices) != full_size:
            work(indices)
        elif self.num_calls < 2:  # libraries load, and choose algorithms on the stream of captures
            self.num_calls += 1
            ordinary = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(ordinary)
            with torch.cuda.stream(self.stream if self.num_calls == 2 else ordinary):
                work(indices)
            ordinary.wait_stream(self.stream)
        else:
            if self.graph is None:
                self._capture(work, indices)
            self.indices.copy_(indices)
            self.graph.replay()

    def _capture(self, work, indices):
        """Record the kernels of the work without running them."""
        self.indices, graph = indices.clone(), torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self.device)
        random_state = torch.cuda.get_rng_state(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, self.pool, self.stream):
                work(self.indices)
        except Exception as error:
            # Torch leaves its stream current, and generators stuck.
            torch.cuda.set_stream(stream)
            torch.cuda.synchronize(self.device)
            generator = torch.cuda.default_generators[self.device.index]
            generator.graphsafe_set_state(torch.Generator(self.device).graphsafe_get_state())
            torch.cuda.set_rng_state(random_state, self.device)
            raise RuntimeError("this network cannot be captured as a CUDA graph, its forward must "
                               "do the same each time on the GPU alone: leave cuda_graph=True out "
                               f"({error})") from error  # fmt: skip
        self.graph = graph

    def close(self):
        """Give back the graph's memory."""
        self.graph = self.indices = None
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()


@functools.cache  # cuBLAS keeps memory for each stream that it has ever worked on
def _capture_stream(device):
    return torch.cuda.Stream(device)
