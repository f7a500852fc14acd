"""`kind="model"`: one ONNX file, backbone and head: pixels (N, 3, H, W) in, logits and probabilities (N, K) out.

Where samples are features, the input is `features` (N, D), as they are before the state's feature map, which is in the
graph. Of a regression, `values` (N, M) come out. In `metadata_props`:

| key                     | value |
|-------------------------|-------|
| edge_cl.classes         | JSON list; the index is the column of the outputs; not of a regression |
| names                   | JSON object from index to name, as Ultralytics' readers expect; not of a regression |
| edge_cl.tasks           | if there are tasks: JSON object from each to the columns of its classes |
| edge_cl.outputs         | of a regression: JSON list of its outputs |
| edge_cl.head            | `linear`, `cosine`, `mlp` or `regression` |
| edge_cl.version         | of the state |
| edge_cl.parent          | the version before it |
| edge_cl.format          | of this table, 1 |
| edge_cl.backbone        | its name |
| edge_cl.backbone_sha256 | of the file it was cut from |
| edge_cl.preprocessing   | JSON, see `edge_cl.backbones.preprocessing` |
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from edge_kernels.arrays import Floats
from onnx import TensorProto, helper

from edge_cl.backbones import Backbone
from edge_cl.backbones.cut import FEATURES, IR_VERSION, OPSET, PIXELS
from edge_cl.backbones.preprocessing import METADATA_KEY
from edge_cl.backbones.session import open_session
from edge_cl.errors import ExportError
from edge_cl.export.graph import Chain, outputs_of
from edge_cl.feature_map import FeatureMap
from edge_cl.files import write_whole
from edge_cl.head import Head

MAX_DIFFERENCE = 1e-4  # of probabilities, and of logits in units of the largest one
N_PROBES = 3


def export_model(path: Path, head: Head, backbone: Backbone | None, feature_map: FeatureMap, version: int) -> None:
    """Write the model, after onnxruntime gave the learner's answers with it.

    Args:
        path: of the ONNX file.
        head: K classes, or M outputs.
        backbone: None where samples are features.
        feature_map: what becomes of features before the head.
        version: of the state.

    Raises:
        ExportError: the file cannot be written, or the answers differ; an older file stays.
    """
    if path.is_dir():
        raise ExportError(f"{path}: expected the name of a file to write; found a folder")
    if _is_source(path, backbone):
        raise ExportError(f"{path}: is a state file or the backbone itself; choose another name, such as NAME.onnx")
    model = build_model(head, backbone, feature_map, version).SerializeToString()
    _check(model, head, backbone, feature_map, path)
    try:
        write_whole(path, model)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}; an older file was left as it is") from None


def _is_source(path: Path, backbone: Backbone | None) -> bool:
    """Return whether the file at the path is a state, or the backbone of this one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        is_database = file.read(16) == b"SQLite format 3\0"
    sources = [Path(backbone.info.path)] if backbone and backbone.info.path else []
    return is_database or any(source.exists() and source.samefile(path) for source in sources)


def build_model(head: Head, backbone: Backbone | None, feature_map: FeatureMap, version: int) -> onnx.ModelProto:
    """Return the model; its head's weights are initializers (K, D) and (K,), with the rows of further looks below."""
    metadata = {"edge_cl.format": "1", "edge_cl.head": head.kind}
    metadata |= {"edge_cl.version": str(version), "edge_cl.parent": str(version - 1)}
    if head.kind == "regression":
        metadata["edge_cl.outputs"] = json.dumps(head.classes, ensure_ascii=False)
    else:
        metadata["edge_cl.classes"] = json.dumps(head.classes, ensure_ascii=False)
        metadata["names"] = json.dumps(dict(enumerate(head.classes)), ensure_ascii=False)
    if head.has_tasks:
        columns = {task: np.flatnonzero(head.groups() == place).tolist() for place, task in enumerate(head.tasks)}
        metadata["edge_cl.tasks"] = json.dumps(columns, ensure_ascii=False)
    if backbone is None:
        features = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", feature_map.n_inputs])
        chain = Chain(feature_map, head)
        graph = helper.make_graph(chain.nodes, "edge_cl", [features], chain.outputs(head), chain.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edge_cl")
        model.ir_version = IR_VERSION
    else:
        model = onnx.load_from_string(_bytes_of(backbone))
        graph = model.graph
        graph.name = "edge_cl"
        outputs = {name for node in graph.node for name in node.output}
        chain = Chain(feature_map, head, frozenset(outputs | {constant.name for constant in graph.initializer}))
        graph.node.extend(chain.nodes)
        graph.initializer.extend(chain.constants)
        del graph.output[:]
        graph.output.extend(chain.outputs(head))
        metadata["edge_cl.backbone"] = backbone.info.name
        metadata["edge_cl.backbone_sha256"] = backbone.info.sha256
        metadata[METADATA_KEY] = backbone.info.preprocessing.to_json()
        height, width = backbone.info.preprocessing.input_size
        for place, side in ((2, height), (3, width)):
            graph.input[0].type.tensor_type.shape.dim[place].dim_value = side
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def _bytes_of(backbone: Backbone) -> bytes:
    return backbone.model if isinstance(backbone.model, bytes) else backbone.model.read_bytes()


def _check(model: bytes, head: Head, backbone: Backbone | None, feature_map: FeatureMap, path: Path) -> None:
    """Refuse a model whose answers are not the learner's, one sample at a time and in a batch.

    Raises:
        ExportError: they are not.
    """
    session = open_session(model, "cpu")
    name, samples, features = _probes(backbone, feature_map)
    for rows in (slice(0, N_PROBES), slice(0, 1)):
        logits = head.logits(features[rows])
        largest = max(1.0, float(np.abs(logits).max()))
        wanted = [logits] if head.kind == "regression" else [logits, head.predict(features[rows])]
        found = session.run(list(outputs_of(head)), {name: samples[rows]})
        for what, got, want, scale in zip(outputs_of(head), found, wanted, (largest, 1.0), strict=False):
            difference, limit = float(np.abs(got - want).max()), MAX_DIFFERENCE * scale
            if not difference <= limit:
                raise ExportError(
                    f"{path}: not written: {what} in onnxruntime differ by {difference:.2g} from the learner's, "
                    f"more than {limit:.2g}"
                )


def _probes(backbone: Backbone | None, feature_map: FeatureMap) -> tuple[str, Floats, Floats]:
    """Return the input's name, probe samples, and their features (3, D): smooth random images, as photos are."""
    rng = np.random.default_rng(0)
    if backbone is None:
        features = rng.normal(size=(N_PROBES, feature_map.n_inputs)).astype(np.float32)
        return FEATURES, features, feature_map.apply(features)
    height, width = backbone.info.preprocessing.input_size
    coarse = rng.integers(0, 256, (N_PROBES, 8, 8, 3)).astype(np.uint8)
    images = coarse[:, np.arange(height) * 8 // height][:, :, np.arange(width) * 8 // width]
    pixels = backbone.info.preprocessing.normalise(images)
    return PIXELS, pixels, feature_map.apply(backbone.extract(list(images)).features)
