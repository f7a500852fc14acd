"""The kinds of export: each built, proven, and only then put in its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from edge_cl.backbones import Backbone
from edge_cl.errors import ExportError
from edge_cl.export.base import backbone_base, features_base
from edge_cl.export.build import build, set_metadata
from edge_cl.export.c_source import to_c
from edge_cl.export.cam import find_maps
from edge_cl.export.delta import build_delta, rows_of
from edge_cl.export.learnt import Learnt
from edge_cl.export.losses import Loss, backbone_loss, head_loss, split_images
from edge_cl.export.metadata import CHECKSUM, describe_backbone, describe_export, describe_head, to_json
from edge_cl.export.options import Options
from edge_cl.export.preprocess import add_preprocessing
from edge_cl.export.proof import probes_of, prove, prove_base
from edge_cl.export.read import check_backbone_file, load_onnx, metadata_of, seal_backbone, stable
from edge_cl.export.target import check_target, make_folder, write_target
from edge_cl.export.tensors import Tensors, checksum_of, round_rows, tensors_of
from edge_cl.head import Head
from edge_cl.origin import BACKBONE, HEAD


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: of the file or, of `split`, the folder.
        kind: see `Options`; or `delta`.
        version: of the state.
        n_bytes: of what was written.
        n_classes: or outputs.
        head_loss: what int8 rows cost; None if they are float32.
        backbone_loss: what int8 or float16 cost; None if the backbone is float32.
        n_rows: of a delta, that changed.
    """

    path: str
    kind: str
    version: int
    n_bytes: int
    n_classes: int
    head_loss: Loss | None = None
    backbone_loss: Loss | None = None
    n_rows: int | None = None


def export(path: Path, learnt: Learnt, options: Options) -> ExportReport:
    """Write an export, after onnxruntime gave the learner's answers with it.

    Args:
        path: of the file; of `split`, of a folder.
        learnt: what is exported.
        options: checked.

    Raises:
        ExportError: it cannot be written or made, or its answers differ; older files stay.
    """
    try:
        return _WRITERS[options.kind](path, learnt, options)
    except ExportError as error:
        text = str(error)
        raise ExportError(text if text.startswith(str(path)) else f"{path}: not written: {text}") from None


def export_delta(path: Path, learnt: Learnt, options: Options, before: Head | None, version: int) -> ExportReport:
    """Write what changed since an earlier version.

    Args:
        path: of the file.
        learnt: what is exported.
        options: of the exports that the delta is for.
        before: the head of the earlier version; None of version 0.
        version: the earlier one.

    Raises:
        ExportError: it cannot be written, or onnxruntime gives other tensors with it.
    """
    check_target(path, learnt.info)
    loss = head_loss(learnt).checked("int8: the head", options.max_loss) if options.int8 else None
    after = tensors_of(learnt.head, is_int8=options.int8)
    earlier = tensors_of(before, is_int8=options.int8) if before else {}
    model = build_delta(earlier, after, _metadata(learnt, options, after, (loss, None)), version)
    data = model.SerializeToString()
    write_target(path, data)
    n_classes = len(learnt.head.classes)
    return ExportReport(str(path), "delta", learnt.version, len(data), n_classes, loss, None, rows_of(model))


def _one_file(path: Path, learnt: Learnt, options: Options) -> ExportReport:
    check_target(path, learnt.info)
    loss = None
    if learnt.backbone is None or options.kind == "head":
        base = features_base(learnt.feature_map.n_inputs, options.opset)
    else:
        base, loss = _images_base(learnt.backbone, learnt, options)
    return _write_head(path, base, learnt, options, loss)


def _split(path: Path, learnt: Learnt, options: Options) -> ExportReport:
    """Write backbone.onnx if it is not there yet, and head.onnx."""
    assert learnt.backbone is not None
    make_folder(path)
    check_target(path / HEAD, learnt.info)
    loss, n_bytes = None, 0
    if (path / BACKBONE).exists():
        _check_backbone(path, learnt, options)
    else:
        base, loss = _images_base(learnt.backbone, learnt, options)
        prove_base(base, probes_of(base, learnt, options), options)
        described = describe_backbone(options, learnt.backbone.info, has_images=bool(learnt.images))
        data = seal_backbone(base, described)
        write_target(path / BACKBONE, data)
        n_bytes = len(data)
    base = features_base(learnt.feature_map.n_inputs, options.opset)
    report = _write_head(path / HEAD, base, learnt, options, None)
    return replace(report, path=str(path), n_bytes=report.n_bytes + n_bytes, backbone_loss=loss)


def _check_backbone(path: Path, learnt: Learnt, options: Options) -> None:
    """Refuse a folder whose backbone.onnx is not what would be written there.

    Raises:
        ExportError: it is not.
    """
    assert learnt.backbone is not None
    model = load_onnx(path / BACKBONE)
    found = metadata_of(model)
    has_images = bool(learnt.images) or found.get("edge_cl.precision") == "int8"
    wanted = describe_backbone(options, learnt.backbone.info, has_images=has_images)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise ExportError(
                f"{path / BACKBONE}: expected {key} {value[:60]}; found {found.get(key, 'none')[:60]}; "
                "export into another folder"
            )
    check_backbone_file(str(path / BACKBONE), model, found)


def _c_file(path: Path, learnt: Learnt, options: Options) -> ExportReport:
    check_target(path, learnt.info)
    data = to_c(learnt.head, learnt.feature_map, learnt.version).encode()
    write_target(path, data)
    return ExportReport(str(path), options.kind, learnt.version, len(data), len(learnt.head.classes))


_WRITERS = {"model": _one_file, "head": _one_file, "live": _one_file, "split": _split, "c": _c_file}


def _images_base(backbone: Backbone, learnt: Learnt, options: Options) -> tuple[onnx.ModelProto, Loss | None]:
    """Return what makes features of images, and what its format costs."""
    calibrating, asked = split_images(learnt) if options.int8 else ([], list(range(len(learnt.images))))
    base, loss = backbone_base(backbone, options, calibrating), None
    if options.fp16 or calibrating:
        what = f"{'fp16' if options.fp16 else 'int8'}: the backbone"
        loss = backbone_loss(learnt, base, asked, options).checked(what, options.max_loss)
    if options.preprocess:
        base = add_preprocessing(base, backbone.info.preprocessing)
    return base, loss


def _write_head(
    path: Path, base: onnx.ModelProto, learnt: Learnt, options: Options, of_backbone: Loss | None
) -> ExportReport:
    """Write a base with the head after it, when it has been proven."""
    of_head, head = None, learnt.head
    if options.int8:
        of_head, head = head_loss(learnt).checked("int8: the head", options.max_loss), round_rows(learnt.head)
    probes = probes_of(base, learnt, options)
    maps = find_maps(base, probes[0][0], learnt.backbone.info.name, options) if options.cam and learnt.backbone else ""
    tensors = tensors_of(learnt.head, is_int8=options.int8)
    model = build(base, tensors, (head, learnt.feature_map), options, maps)
    set_metadata(model, _metadata(learnt, options, tensors, (of_head, of_backbone)))
    data = prove(model, probes, (head, learnt.feature_map), options)
    write_target(path, data)
    return ExportReport(str(path), options.kind, learnt.version, len(data), len(head.classes), of_head, of_backbone)


def _metadata(
    learnt: Learnt, options: Options, tensors: Tensors, losses: tuple[Loss | None, Loss | None]
) -> dict[str, str]:
    metadata = describe_head(learnt.head, learnt.feature_map)
    metadata |= describe_export(options, (learnt.version, learnt.parent), learnt.info, learnt.feature_map.n_inputs)
    metadata["edge_cl.training"] = to_json(learnt.training)
    for name, loss in zip(("head", "backbone"), losses, strict=True):
        if loss is not None:
            metadata[f"edge_cl.{name}_loss"] = to_json(loss.to_json())
    metadata[CHECKSUM] = checksum_of(tensors, stable(metadata))
    return metadata
