"""A step on the GPU as one launch: captured once per batch length as a CUDA graph, then replayed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

WARM_UP = 3  # runs before a capture, in which libraries set themselves up


class Replayed:
    """A function of index tensors, replayed from a CUDA graph for each combination of their shapes.

    Args:
        function: launches GPU work only; returns a tensor. It must not wait for the device or copy from the host.
        untouched: context in which the function may run without lasting effect, for the runs before the first capture.
    """

    def __init__(self, function: Callable[..., Tensor], untouched: Callable[[], AbstractContextManager]) -> None:
        self.function, self.untouched = function, untouched
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result on these inputs; the next call overwrites it."""
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self.graphs:
            self.graphs[key] = self.capture([tensor.clone() for tensor in inputs])
        graph, fixed, result = self.graphs[key]
        for place, tensor in zip(fixed, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return result

    def capture(self, fixed: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        """The graph that reads these tensors, and the tensor that it leaves its result in."""
        if not self.graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side), self.untouched():
                for _ in range(WARM_UP):
                    self.function(*fixed)
            torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.function(*fixed)
        return graph, fixed, result
