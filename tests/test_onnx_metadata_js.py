"""onnx_metadata.mjs reads what protobuf reads, and says one line of what is no ONNX file."""

from __future__ import annotations

import base64
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from .javascript_runtimes import SCRIPTS, run_node

METADATA = {
    "edge_cl.classes": json.dumps(["größe 3", "a\nb", "", "日本", "🙂", "x" * 300], ensure_ascii=False),
    "edge_cl.version": "7",
    "": "no key",
    "no value": "",
    "__proto__": "a key as any other",
    "\ufeffmark": "\ufeff",
}


def read(files: list[bytes]) -> list[dict[str, object]]:
    texts = json.dumps([base64.b64encode(file).decode() for file in files])
    found: list[dict[str, object]] = json.loads(run_node(SCRIPTS / "read_metadata.mjs", text=texts))
    return found


def read_by_protobuf(file: bytes) -> dict[str, str] | None:
    """Return the metadata; None of what is no whole model with a graph."""
    try:
        model = onnx.ModelProto.FromString(file)
        if not (model.HasField("graph") and model.HasField("ir_version")):
            return None
        return {pair.key: pair.value for pair in model.metadata_props}
    except Exception:  # protobuf's class, which has no types, and UnicodeDecodeError
        return None


@pytest.fixture(scope="module")
def model() -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], model_version=-1)
    helper.set_model_props(made, METADATA)
    made.metadata_props.add(key="edge_cl.version", value="8")  # twice: the last one counts
    content: bytes = made.SerializeToString()
    return content


def test_every_prefix_of_a_file_is_read_as_protobuf_reads_it(model: bytes) -> None:
    files = [model[:length] for length in range(len(model) + 1)]
    found = read(files)
    assert found[-1]["metadata"] == METADATA | {"edge_cl.version": "8"}
    assert found[-1]["classes"] == json.loads(METADATA["edge_cl.classes"])
    for file, said in zip(files, found, strict=True):
        assert said.get("metadata") == read_by_protobuf(file), len(file)


def test_a_damaged_file_is_read_as_protobuf_reads_it_or_refused_with_one_line(model: bytes) -> None:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(2000):
        damaged = bytearray(model)
        for place in rng.integers(0, len(model), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        files.append(bytes(damaged))
    n_read = 0
    for file, said in zip(files, read(files), strict=True):
        want = read_by_protobuf(file)
        if "metadata" in said and want is not None:  # protobuf looks into the graph, too
            assert said["metadata"] == want
            n_read += 1
        if "error" in said:
            assert str(said["error"]).startswith("cam.onnx: expected ")
            assert "\n" not in str(said["error"])
    assert n_read > 200


def test_what_is_no_onnx_file_is_one_line() -> None:
    files = [
        b"",
        b"\0" * 64,
        b"\xff" * 64,
        b"<!doctype html>\n<p>404",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b'{"a": 1}',
        b"\n" * 9,
    ]
    for file, said in zip(files, read(files), strict=True):
        assert "metadata" not in said, file
        assert str(said["error"]).startswith("cam.onnx: expected "), file
        assert "\n" not in str(said["error"])


@pytest.mark.parametrize("classes", [None, "", "{", "[]", "{}", "[1]", '"a"', "null"])
def test_a_model_without_class_names_says_how_to_get_them(model: bytes, classes: str | None) -> None:
    made = onnx.ModelProto.FromString(model)
    helper.set_model_props(made, {} if classes is None else {"edge_cl.classes": classes})
    (said,) = read([made.SerializeToString()])
    assert said["error"] == (
        "cam.onnx: expected class names in its metadata, edge_cl.classes; found none; export it with edge-cl export"
    )
