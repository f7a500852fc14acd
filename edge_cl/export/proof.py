"""The proof of an export: onnxruntime gives the learner's answers with it, or no file appears."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from edge_kernels.arrays import Floats

from edge_cl.backbones import UnreadableImageError, read_rgb
from edge_cl.backbones.cut import FEATURES, PIXELS
from edge_cl.errors import ExportError, InputError, SessionError, first_line
from edge_cl.export.base import open_base
from edge_cl.export.cam import CAM, bias_of_best
from edge_cl.export.graph import LOGITS, PROBABILITIES, TOP, VALUES
from edge_cl.export.learnt import N_PROBES, Learnt
from edge_cl.export.options import Options
from edge_cl.export.preprocess import IMAGE
from edge_cl.export.tensors import Tensors, head_from, tensors_of
from edge_cl.feature_map import FeatureMap
from edge_cl.head import Head

MAX_DIFFERENCE = 1e-4  # of probabilities, and of others in units of the largest value
# of features of one image, in units of their length: what resizing in the graph, float16 and int8 may move them by
RESIZED, HALVED, QUANTISED = 0.01, 0.1, 0.7

Probe = tuple[dict[str, Any], Floats]  # inputs of N samples, and their features (N, d)


def probes_of(base: onnx.ModelProto, learnt: Learnt, options: Options) -> list[Probe]:
    """Return probe samples as the model takes them, with the features that it should find.

    Args:
        base: what gives the export's features.
        learnt: what is exported.
        options: of the export.

    Raises:
        ExportError: features are not the learner's.
    """
    name = base.graph.input[0].name
    if name == FEATURES:
        features = learnt.probe_features()
        return [({FEATURES: features}, features)]
    backbone = learnt.backbone
    assert backbone is not None
    sources = learnt.probe_images()
    if name == IMAGE:  # whole: the learner would have a large JPEG decoded at a half or less
        sources = [_whole(source) for source in sources]
    is_same = not (options.preprocess or options.fp16 or options.int8)
    session = backbone.session if is_same else open_base(base, options)
    pixels = backbone.pixels(sources)
    wanted = backbone.session.run([FEATURES], {PIXELS: pixels})[0]
    if name == PIXELS:
        found = wanted if is_same else session.run([FEATURES], {PIXELS: pixels})[0]
        probes: list[Probe] = [({PIXELS: pixels}, found)]
    else:
        probes = [({IMAGE: image[None]}, session.run([FEATURES], {IMAGE: image[None]})[0]) for image in sources]
        found = np.concatenate([features for _, features in probes])
    lengths = np.maximum(np.linalg.norm(wanted, axis=1), np.finfo(np.float32).tiny)
    difference, limit = float((np.linalg.norm(found - wanted, axis=1) / lengths).max()), _limit(options)
    if not difference <= limit:
        raise ExportError(f"features differ from the backbone's by {difference:.2g} of their length, more than {limit}")
    return probes


def _whole(source: Any) -> Any:
    """Return an image (H', W', 3) uint8.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_rgb(source)
    except UnreadableImageError as error:
        raise InputError(f"{source}: {error}") from None


def _limit(options: Options) -> float:
    return QUANTISED if options.int8 else HALVED if options.fp16 else RESIZED


def random_probes(base: onnx.ModelProto, feature_map: FeatureMap, options: Options) -> list[Probe]:
    """Return generated samples as a base takes them, with the features that it makes of them."""
    value = base.graph.input[0]
    rng = np.random.default_rng(0)
    if value.name == FEATURES:
        features = rng.normal(size=(N_PROBES, feature_map.n_inputs)).astype(np.float32)
        return [({FEATURES: features}, features)]
    if value.name == IMAGE:
        samples: Any = rng.integers(0, 256, (1, 40, 60, 3)).astype(np.uint8)
    else:
        sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        samples = rng.uniform(-1, 1, (N_PROBES, *sides)).astype(np.float32)
    inputs = {value.name: samples}
    return [(inputs, open_base(base, options).run([FEATURES], inputs)[0])]


def prove_base(base: onnx.ModelProto, probes: list[Probe], options: Options) -> None:
    """Refuse a backbone whose features are not the learner's.

    Raises:
        ExportError: they are not.
    """
    session = open_base(base, options)
    for inputs, features in probes:
        _check(FEATURES, session.run([FEATURES], inputs)[0], features, float(np.abs(features).max()))


def prove(model: onnx.ModelProto, probes: list[Probe], answering: tuple[Head, FeatureMap], options: Options) -> bytes:
    """Return the bytes of a model whose answers are the head's, in a batch and one by one.

    Args:
        model: the export.
        probes: of `probes_of`.
        answering: the head whose answers are wanted, and the feature map before it.
        options: of the export.

    Raises:
        ExportError: it is no valid ONNX, or its answers are others; it says which, and by how much.
    """
    head, feature_map = answering
    data: bytes = model.SerializeToString()
    _check_onnx(data)
    try:
        session = open_base(data, options)
        names = [output.name for output in session.get_outputs()]
        for inputs, features in probes:
            alone = {name: value[:1] for name, value in inputs.items()}
            first = dict(zip(names, session.run(names, alone), strict=True))
            _compare(first, _answers(head, feature_map, features[:1]), options, tensors_of(head))
            if len(features) > 1:
                found = dict(zip(names, session.run(names, inputs), strict=True))
                _compare(found, _answers(head, feature_map, features), options, tensors_of(head))
        if options.kind == "live" and head.kind != "regression":
            _prove_growth(session, (alone, first[LOGITS]), head, options)
    except SessionError as error:
        raise ExportError(str(error).replace("backbone: ", "")) from None
    except ExportError:
        raise
    except Exception as error:  # onnxruntime's exceptions derive from Exception alone
        raise ExportError(f"onnxruntime cannot run it: {first_line(error)}") from None
    return data


def _check_onnx(data: bytes) -> None:
    """Refuse what is no valid ONNX.

    Raises:
        ExportError: it is none.
    """
    try:
        onnx.checker.check_model(data)
    except Exception as error:  # the checker's class, and protobuf's of a model that is too large
        raise ExportError(f"no valid model can be made: {first_line(error)}") from None


def _answers(head: Head, feature_map: FeatureMap, features: Floats) -> dict[str, Any]:
    mapped = feature_map.apply(features)
    logits = head.logits(mapped)
    if head.kind == "regression":  # what is added up may be larger than its sum
        terms = np.abs(mapped) @ np.abs(head.weights).T + np.abs(head.bias)
        return {VALUES: logits, FEATURES: features, "terms": 1e-2 * float(terms.max())}
    return {LOGITS: logits, PROBABILITIES: head.predict(mapped), FEATURES: features, "mapped": mapped}


def _compare(found: dict[str, Any], wanted: dict[str, Any], options: Options, tensors: Tensors) -> None:
    """Compare what a model gives with what is wanted.

    Raises:
        ExportError: they differ.
    """
    for name in (LOGITS, PROBABILITIES, VALUES, FEATURES):
        if name in found:
            want = wanted[name]
            scale = {PROBABILITIES: 1.0, LOGITS: _largest(want)}.get(name, float(np.abs(want).max()))
            _check(name, found[name], want, max(scale, wanted.get("terms", 0.0)))
    if options.top_k:
        best, rows = (found[name] for name in TOP)
        order = -np.sort(-found[PROBABILITIES], axis=1)[:, : options.top_k]
        _check(TOP[0], best, order, 1.0)
        _check(TOP[1], np.take_along_axis(found[PROBABILITIES], rows, axis=1), order, 1.0)
    if options.cam:
        means = found[CAM].mean(axis=(2, 3), dtype=np.float64)
        _check(CAM, means + bias_of_best(tensors, wanted["mapped"]), wanted[LOGITS], _largest(wanted[LOGITS]))


def _check(name: str, found: Floats, want: Floats, scale: float) -> None:
    """Compare one output.

    Raises:
        ExportError: it differs.
    """
    difference, limit = float(np.abs(found - want).max()), MAX_DIFFERENCE * scale
    if not difference <= limit:
        raise ExportError(f"{name} in onnxruntime differ by {difference:.2g} from the learner's, more than {limit:.2g}")


def _largest(values: Floats) -> float:
    return max(1.0, float(np.abs(values).max()))


def _prove_growth(session: Any, asked: Probe, head: Head, options: Options) -> None:
    """Refuse a live model that does not take a head of one more class.

    Raises:
        ExportError: it does not.
    """
    inputs, logits = asked
    answering = head_from(tensors_of(head), head.classes, head.kind)  # a cosine head's own rows depend on each other
    grown = session.run([LOGITS], {**inputs, **tensors_of(answering.grow(["one more"]), is_int8=options.int8)})[0]
    if grown.shape[1] != logits.shape[1] + 1:
        raise ExportError(f"a head of one class more gives {grown.shape[1]} logits instead of {logits.shape[1] + 1}")
    _check(LOGITS, grown[:, :-1], logits, _largest(logits))
