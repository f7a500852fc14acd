"""The nodes of a head and of the state's feature map before it, in opset 17.

```
features (N, d) -> [raised] -> [random features] -> [unit length] -> head -> logits, probabilities (N, K)
                                                                         or values (N, M)
```
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from edge_kernels.arrays import Floats, Ints
from onnx import TensorProto, helper, numpy_helper

from edge_cl.backbones.cut import FEATURES
from edge_cl.feature_map import SHORTEST, FeatureMap
from edge_cl.head import Head

ANSWERS, VALUES = ("logits", "probabilities"), ("values",)


def outputs_of(head: Head) -> tuple[str, ...]:
    """Return the names of the graph's outputs."""
    return VALUES if head.kind == "regression" else ANSWERS


def prefix_of(count: int) -> str:
    """Return what names begin with; a backbone that was such an export itself has those of lower counts."""
    return "edge_cl." if count == 1 else f"edge_cl{count}."


class Chain:
    """Nodes, each of which reads what the one before it gives, and constants.

    Attributes:
        nodes: in order.
        constants: initializers of the graph.
        last: name of what the last node gives.
    """

    def __init__(self, feature_map: FeatureMap, head: Head, taken: frozenset[str] = frozenset()) -> None:
        count = 1
        while any(name.startswith(prefix_of(count)) for name in taken):
            count += 1
        self._prefix, self._taken = prefix_of(count), taken
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = FEATURES
        if feature_map.is_raised:
            self._add("Sign", "sign")
            signs, self.last = self.last, FEATURES
            self._add("Abs", "size")
            root = self._add("Sqrt", "root")
            self._add("Sqrt", "root.root")
            self._add("Mul", "raised.size", root)
            self._add("Mul", "raised", signs)
        if feature_map.n_random:
            self._add("MatMul", "random", self._constant("map.projection", feature_map.projection))
            if feature_map.constant:
                self._add("Add", "random.offset", self._constant("map.offsets", feature_map.offsets))
            self._add("Relu", "random.relu")
        if feature_map.is_unit:
            vectors = self.last
            self._add("ReduceL2", "length", axes=[1], keepdims=1)
            lengths = self._add("Max", "length.max", self._constant("map.shortest", np.array([SHORTEST])))
            self.last = vectors
            self._add("Div", "unit", lengths)
        self._head(head)

    def outputs(self, head: Head) -> list[onnx.ValueInfoProto]:
        """Return what the graph gives: (N, K) each."""
        shape: list[str | int | None] = ["N", len(head.classes)]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs_of(head)]

    def _head(self, head: Head) -> None:
        features, logits = self.last, outputs_of(head)[0]
        weights, bias = head.rows
        if head.looks is not None:
            weights, bias = np.concatenate([weights, head.looks.weights]), np.concatenate([bias, head.looks.bias])
        row, level = self._constant("head.weights", weights), self._constant("head.bias", bias)
        if head.looks is not None:
            rows = self._add("Gemm", "head", row, level, transB=1)
            looks = []
            for n, which in enumerate(head.looks.table(len(head.classes)).T):
                self.last = rows
                looks.append(self._add("Gather", f"look{n}", self._indices(f"head.look{n}", which), axis=1))
            self.last = looks[0]
            self._add("Max", "looks", *looks[1:], output=logits)  # the same in every opset, unlike ReduceMax
        elif head.hidden is None:
            self._add("Gemm", "head", row, level, output=logits, transB=1)
        else:
            units = head.hidden.units
            unit, start = self._constant("head.units", units[:, :-1]), self._constant("head.units.bias", units[:, -1])
            self._add("Gemm", "hidden", unit, start, transB=1)
            self._add("Relu", "hidden.relu")
            added = self._add("MatMul", "hidden.rows", self._constant("head.units.rows", head.hidden.rows.T))
            self.last = features
            self._add("Gemm", "head", row, level, transB=1)
            self._add("Add", "sum", added, output=logits)
        if head.kind != "regression":
            self._add("Softmax", "softmax", output="probabilities", axis=1)

    def _add(self, kind: str, name: str, *others: str, output: str = "", **attributes: Any) -> str:
        """Add a node that reads the last result and others, and return the name of what it gives."""
        node = helper.make_node(kind, [self.last, *others], [output or self._prefix + name], name=name, **attributes)
        self.nodes.append(node)
        self.last = node.output[0]
        return self.last

    def _constant(self, name: str, value: Floats) -> str:
        return self._keep(name, np.ascontiguousarray(value, dtype=np.float32))

    def _indices(self, name: str, value: Ints) -> str:
        return self._keep(name, np.ascontiguousarray(value, dtype=np.int64))

    def _keep(self, name: str, value: Floats | Ints) -> str:
        name = self._prefix + name if name in self._taken else name
        self.constants.append(numpy_helper.from_array(value, name))
        return name
