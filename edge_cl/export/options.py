"""What an export is asked to be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_cl.errors import InputError

KINDS = ("model", "head", "live", "split", "c")
OLDEST_OPSET, NEWEST_OPSET = 13, 20  # DequantizeLinear by rows came with 13; 20 is the last that onnxruntime 1.17 reads
IMAGE_OPSET, OLDEST_IMAGE_OPSET = 18, 15  # of graphs that preprocess: unasked, and the first that can be had
MAX_LOSS = 0.01
_FLAGS = ("int8", "fp16", "preprocess", "features", "cam")


@dataclass(frozen=True)
class Options:
    """What an export is asked to be; its JSON is in the file, so that a delta gives the same file again.

    Attributes:
        kind: `model`: one file, image to answers; `head`: features to answers; `live`: a model whose head an app may
            pass at each run; `split`: a folder of backbone.onnx and head.onnx; `c`: the head as one C file.
        opset: of ONNX; 0: 17, or 18 with `preprocess`, or what a backbone has that cannot be converted.
        int8: rows of the head are int8, and the backbone is quantised where there are images to calibrate it on.
        fp16: the backbone computes in half precision.
        preprocess: resize, crop and normalise in the graph.
        top_k: how many classes `top_indices` and `top_probabilities` name; 0: none.
        features: give the backbone's features, too.
        cam: give class activation maps, too.
        max_loss: of accuracy, by `int8` or `fp16`, that is not refused.
    """

    kind: str = "model"
    opset: int = 0
    int8: bool = False
    fp16: bool = False
    preprocess: bool = False
    top_k: int = 0
    features: bool = False
    cam: bool = False
    max_loss: float = MAX_LOSS

    @property
    def has_images(self) -> bool:
        """Whether images come in, of a state that has a backbone."""
        return self.kind in {"model", "live", "split"}

    def checked(self, *, has_backbone: bool, is_regression: bool, is_linear: bool = True) -> Options:
        """Return the options.

        Args:
            has_backbone: whether samples are images.
            is_regression: whether the head gives values.
            is_linear: whether the answers are linear in the backbone's features, but for a factor of each.

        Raises:
            InputError: one is out of its range, or does not go with another or with the state.
        """
        if self.kind not in KINDS:
            raise InputError(f"kind: expected one of {', '.join(KINDS)}; found {self.kind!r}")
        if not _is_whole(self.opset) or not (self.opset == 0 or OLDEST_OPSET <= self.opset <= NEWEST_OPSET):
            raise InputError(f"opset: expected {OLDEST_OPSET} to {NEWEST_OPSET}; found {self.opset!r}")
        if not _is_whole(self.top_k) or not 0 <= self.top_k <= 1000:
            raise InputError(f"top_k: expected 0 to 1000; found {self.top_k!r}")
        if isinstance(self.max_loss, bool) or not isinstance(self.max_loss, int | float) or not 0 <= self.max_loss <= 1:
            raise InputError(f"max_loss: expected 0 to 1, a share of the answers; found {self.max_loss!r}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: expected True or False; found {getattr(self, name)!r}")
        self._check_together(has_backbone, is_regression)
        if self.cam and not is_linear:
            raise InputError("cam: needs a head that is linear in the backbone's features; leave it out")
        return replace(self, max_loss=float(self.max_loss))

    def _check_together(self, has_backbone: bool, is_regression: bool) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: something does not.
        """
        takes_images = has_backbone and self.has_images
        if self.kind == "split" and not has_backbone:
            raise InputError("kind: split needs a backbone, and samples of this state are features; use kind 'head'")
        for name in ("fp16", "preprocess", "features", "cam"):
            if getattr(self, name) and not takes_images:
                why = f"kind {self.kind!r} has no backbone" if has_backbone else "samples of this state are features"
                raise InputError(f"{name}: {why}; leave it out")
        if self.kind == "split" and self.cam:
            raise InputError("cam: needs head and feature map in one file; use kind 'model' or 'live'")
        if self.kind == "split" and self.features:
            raise InputError("features: are what backbone.onnx gives anyway; leave it out")
        if self.kind == "c" and (self.int8 or self.top_k or self.opset):
            name = next(name for name in ("int8", "top_k", "opset") if getattr(self, name))
            raise InputError(f"{name}: kind 'c' has none; leave it out")
        if is_regression and (self.top_k or self.cam):
            raise InputError(f"{'top_k' if self.top_k else 'cam'}: needs classes, and this head gives values")
        if self.int8 and self.fp16:
            raise InputError("fp16: contradicts int8; choose one")
        if self.preprocess and 0 < self.opset < OLDEST_IMAGE_OPSET:
            raise InputError(f"opset: preprocess needs at least {OLDEST_IMAGE_OPSET}; found {self.opset}")

    def to_json(self) -> str:
        """Return all of it but what is not seen in the file."""
        values = asdict(self)
        del values["max_loss"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Options:
        """Return what `to_json` wrote.

        Raises:
            ValueError: it wrote something else.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            return cls(**values).checked(has_backbone=True, is_regression=False)
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
