"""Nodes of a graph under construction, each reading what the one before it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PREFIX = "edge_cl."  # of every name within
AXES_AS_INPUT = 18  # the opset since which Reduce operators take axes as an input


class Chain:
    """Nodes and constants, with names that no backbone has.

    Attributes:
        opset: that the nodes are of.
        nodes: in order.
        constants: initializers of the graph.
        last: name of what the last node gives.
    """

    def __init__(self, opset: int, start: str) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.last = start

    def add(self, kind: str, name: str, *others: str, output: str = "", **attributes: Any) -> str:
        """Add a node that reads the last result and others, and return the name of what it gives."""
        given = output or PREFIX + name
        node = helper.make_node(kind, [self.last, *others], [given], name=PREFIX + name, **attributes)
        self.nodes.append(node)
        self.last = given
        return given

    def apply(self, kind: str, name: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node that reads these alone, and return the name of what it gives."""
        self.last = inputs[0]
        return self.add(kind, name, *inputs[1:], output=output, **attributes)

    def reduce(self, kind: str, name: str, axis: int, *, keepdims: bool) -> str:
        """Add a Reduce operator over one axis, and return the name of what it gives."""
        if self.opset >= AXES_AS_INPUT:
            return self.add(kind, name, self.integers(f"{name}.axes", [axis]), keepdims=int(keepdims))
        return self.add(kind, name, axes=[axis], keepdims=int(keepdims))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer under that very name, and return it."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, name: str, values: Sequence[int] | int) -> str:
        """Add integers, or one without a shape, and return their name."""
        return self.constant(PREFIX + name, np.array(values, np.int64))
