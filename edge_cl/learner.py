"""The learner: samples and names in, a grown head out, every update a transaction of the state file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_cl.backbones import (
    Backbone,
    BackboneInfo,
    Extraction,
    Progress,
    check_backbone,
    open_backbone,
    reopen_backbone,
)
from edge_cl.codecs import AUTO, DEFAULT_CODEC
from edge_cl.current import Current
from edge_cl.devices import ChosenDevice
from edge_cl.errors import InputError, StateError
from edge_cl.feature_map import FeatureMap, choose_constant
from edge_cl.head import HIDDEN_UNITS
from edge_cl.inputs import Samples, check_samples, check_timeout
from edge_cl.recipes import get_recipe
from edge_cl.state import HISTORY_BYTES, TIMEOUT, Settings, StateFile, check_device
from edge_cl.teaching import Teaching

if TYPE_CHECKING:
    from edge_cl.export import ExportReport
    from edge_cl.export.verify import VerifyReport
    from edge_cl.exporting import Images, Source


class Learner(Teaching):
    """A classifier that learns. Make one with `create` or `open`; a context manager that closes its file."""

    def __init__(self, state: StateFile, backbone: Backbone | None, spec: str | None, device: str | None) -> None:
        current = Current(state)
        settings = current.state.settings
        super().__init__(current, ChosenDevice(device or settings.device))
        self._state = state
        try:
            self._info = BackboneInfo.from_json(settings.backbone) if settings.backbone else None
        except InputError as error:
            raise StateError(f"{state.name}: damaged: {error}; restore a copy of it") from None
        self._backbone = backbone
        self._backbone_spec = spec
        self._map: FeatureMap | None = None

    @classmethod
    def create(  # noqa: PLR0913 - the contract's arguments
        cls,
        path: str | os.PathLike[str],
        *,
        backbone: str | os.PathLike[str] | None = None,
        replay_bytes: int = 1_000_000,
        recipe: str = "edge",
        device: str = "auto",
        precision: int = 32,
        seed: int = 0,
        codec: str = DEFAULT_CODEC,
        selection: str | None = None,
        balance: str | None = None,
        shrinkage: float | None = None,
        penalty: float | None = None,
        head: str = "linear",
        hidden_units: int = HIDDEN_UNITS,
        random_features: int = 0,
        history_bytes: int = HISTORY_BYTES,
        timeout: float = TIMEOUT,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> Learner:
        """Return a learner with a new state file.

        Args:
            path: of the state file; `:memory:` keeps nothing.
            backbone: None (samples are features (N, D), and the first batch fixes D), `tiny`, an .onnx classifier
                (`file.onnx#tensor` cuts at that tensor), or a torchvision name.
            replay_bytes: limit of the stored samples, with all that is needed to decode them; 0 stores none.
            recipe: which memories of the past an update uses: `edge`, or another of `edge_cl.recipes`.
            device: `auto`, `cpu` or `cuda`.
            precision: 16 extracts features in half precision, where that is done on a GPU.
            seed: of every draw.
            codec: of the stored samples: `auto` (`float16` below D = 512, else `sketch`), `sketch`, `eigen`, `pq`,
                `int4`, `int8`, `float16` or `float32`.
            selection: which samples stay: `reservoir` (any) or `herding` (those that stand for their class's mean);
                None: what the recipe says, for most any.
            balance: what a sample counts in training, for recipes that train from the head before: `none` (1), `seen`
                (as many as its class has seen for each at hand), `classes` (all classes the same), `logits` (1, with
                the classes' shares as a prior that only training sees); None: what the recipe says.
            shrinkage: of the covariance, if the least that is allowed is not more; None: chosen by itself.
            penalty: on weights: the weight decay of `edge`, `ridge` and `joint`, None: chosen by itself; a factor on
                what EWC's Fisher or L2 holds in other recipes, None: 1.
            head: `linear`, `cosine` (unit features, unit rows), `mlp` (a hidden layer beside the linear one), or
                `regression` (labels are numbers).
            hidden_units: of an `mlp` head of ten classes; more classes may get up to four times as many.
            random_features: how many random ReLU features a sample becomes, fixed by the seed, and by the size of the
                first samples; 0: it stays as it is.
            history_bytes: limit of what is kept of earlier versions, to roll back to.
            timeout: seconds to wait for another writer.
            preprocessing: `input_size`, `scale`, `mean`, `std`, `crop` of a backbone that does not say its own.

        Raises:
            InputError: an argument is wrong.
            BackboneError: the backbone cannot be used.
            DeviceError: `cuda` was asked for, and cannot be used.
            StateError: the path exists or cannot be written.
        """
        chosen = get_recipe(recipe)
        check_timeout(timeout)
        if codec == AUTO:  # values and features of any units side by side; samples that a hidden layer trains on
            codec = {"regression": "float32", "mlp": "float16"}.get(head, "float32" if chosen.keeps_all else AUTO)
        selection = chosen.selection if selection is None else selection
        numbers = (replay_bytes, seed, device, precision, codec, selection, history_bytes)
        settings = Settings("", recipe, *numbers, head, hidden_units, random_features, balance=balance or "")
        settings = replace(settings, shrinkage=shrinkage, penalty=penalty).checked()
        if preprocessing and backbone is None:
            raise InputError("preprocessing: needs a backbone; pass backbone=... too")
        opened = None
        if backbone is not None:
            opened = open_backbone(os.fspath(backbone), preprocessing, device, precision)
            settings = replace(settings, backbone=opened.info.to_json())
        state = StateFile.create(os.fspath(path), settings, timeout)
        return cls(state, opened, None, device)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        backbone: str | os.PathLike[str] | None = None,
        device: str | None = None,
        timeout: float = TIMEOUT,
        check: bool = True,
    ) -> Learner:
        """Return the learner of a state file.

        Args:
            path: of the state file.
            read_only: `learn` is refused; any number of readers go beside one writer.
            backbone: where the backbone's file is now, if it was moved.
            device: `auto`, `cpu` or `cuda` instead of what the state was made with.
            timeout: seconds to wait for another writer.
            check: compare the backbone's sha256 now, and not only at its first use.

        Raises:
            InputError: there is no such device, or the timeout is none.
            StateError: the file is missing, damaged, or no state.
            BackboneMismatchError: the backbone's file has changed.
        """
        spec = os.fspath(backbone) if backbone is not None else None
        check_device(device or "auto")
        check_timeout(timeout)
        state = StateFile.open(os.fspath(path), read_only=read_only, timeout=timeout)
        try:
            learner = cls(state, None, spec, device)
            if learner._info and check:
                check_backbone(learner._info, learner._folder, spec)
        except BaseException:
            state.close()
            raise
        return learner

    def close(self) -> None:
        """Close the state file."""
        self._state.close()

    def __enter__(self) -> Learner:
        """Return the learner itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the state file."""
        self.close()

    @property
    def version(self) -> int:
        """Number of the last committed change; 0 before the first."""
        return self._current.version

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self._current.recipe.name

    @property
    def settings(self) -> Settings:
        """What `create` fixed, and `change` may change."""
        return self._current.settings

    @property
    def codec(self) -> str:
        """Name of the codec of stored samples."""
        return self._current.settings.codec

    @property
    def backbone_info(self) -> BackboneInfo | None:
        """What the state remembers of its backbone; None where samples are features."""
        return self._info

    @property
    def backbone(self) -> Backbone | None:
        """The backbone, opened at its first use; None where samples are features.

        Raises:
            BackboneError: it is missing, or another one.
        """
        if self._backbone is None and self._info is not None:
            precision = self._current.settings.precision
            self._backbone = reopen_backbone(
                self._info, self._folder, self._backbone_spec, device=self._device.name, precision=precision
            )
        return self._backbone

    def replay_usage(self) -> dict[str, int]:
        """Return bytes, codebook_bytes, limit, samples and bytes_per_sample of the replay."""
        return self._current.memory(self._info.dim if self._info else 1).replay.usage()

    def export(  # noqa: PLR0913 - what can be asked of an export
        self,
        path: str | os.PathLike[str],
        kind: str = "model",
        *,
        opset: int = 0,
        int8: bool = False,
        fp16: bool = False,
        preprocess: bool = False,
        top_k: int = 0,
        features: bool = False,
        cam: bool = False,
        images: Images | None = None,
        max_loss: float = 0.01,
        delta_from: int | None = None,
        card: str | os.PathLike[str] | None = None,
    ) -> ExportReport:
        """Write the learnt classifier, after onnxruntime gave this learner's answers with it.

        Args:
            path: of the file; an older one stays until the new one is proven. Of `split`, of a folder.
            kind: `model` (one ONNX file, image to answers), `head` (features to answers), `live` (a model that takes
                a later head with each call), `split` (backbone.onnx, written once, and head.onnx), or `c` (the head as
                one C99 file).
            opset: of ONNX, 13 to 20; 0: 17, or 18 with `preprocess`.
            int8: rows of the head become int8, each with a scale, and the backbone too if there are `images` to
                calibrate it on.
            fp16: the backbone computes in half precision, for GPUs.
            preprocess: resize, crop and normalise in the graph: the input is `image` (N, H, W, 3) uint8.
            top_k: give the most probable classes, too: `top_indices`, `top_probabilities` (N, k).
            features: give the backbone's features (N, D), too.
            cam: give class activation maps (N, K, h, w), too.
            images: a folder of images, best in class folders, or paths: what int8 and fp16 are calibrated and
                measured on, and what the proof asks.
            max_loss: share of the answers that int8 or fp16 may cost.
            delta_from: write only what changed since that version, for `edge-cl patch` and `Predictor.patch`; 0: all.
            card: where a model card in Markdown goes.

        Raises:
            InputError: an option is wrong, or does not go with another or with the state.
            ExportError: it could not be written, did not agree, or lost too much.
            StateError: nothing was learnt yet.
        """
        from edge_cl.export import Options
        from edge_cl.exporting import Extras, export_version

        head, extras = self.head, Extras(images, delta_from, card)
        options = Options(kind, opset, int8, fp16, preprocess, top_k, features, cam, max_loss)
        is_linear = head.hidden is None and not self._current.settings.random_features
        options = options.checked(
            has_backbone=self._info is not None, is_regression=head.kind == "regression", is_linear=is_linear
        )
        return export_version(
            Path(path),
            self._source(needs_backbone=options.has_images and delta_from is None),
            options,
            extras.checked(options),
        )

    def verify(self, path: str | os.PathLike[str], images: Images | None = None) -> VerifyReport:
        """Return what of an export agrees with the version of this state that it came from, when everything does.

        Args:
            path: of the file, or of the folder of a `split` export.
            images: a folder of images, or paths, that both are asked about.

        Raises:
            ExportError: something differs, it is no export, or its version is not kept any more.
            BackboneError: the backbone is missing, or another one.
        """
        from edge_cl.exporting import verify_export

        return verify_export(Path(path), lambda needed: self._source(needs_backbone=needed), images)

    def _source(self, *, needs_backbone: bool) -> Source:
        """Return what an export is made from."""
        from edge_cl.exporting import Source

        dim = self._info.dim if self._info else self._current.settings.input_dim or self.head.weights.shape[1]
        return Source(self._current, self._info, self.backbone if needs_backbone else None, dim)

    @property
    def _folder(self) -> Path:
        return Path(self._state.name).resolve().parent

    def _extract_inputs(self, samples: Samples, on_progress: Progress) -> tuple[Extraction, FeatureMap]:
        """Return the features of samples as the head sees them, and what made them so; the first samples decide."""
        settings = self._current.settings
        dim = self._info.dim if self._info else settings.input_dim
        if not dim and not settings.random_features:
            dim = self._current.dim
        checked = check_samples(samples, dim, has_backbone=self._info is not None)
        if isinstance(checked, np.ndarray) and checked.ndim == 2:
            extraction = Extraction(checked, np.arange(len(checked)), ())
        else:
            assert self.backbone is not None
            extraction = self.backbone.extract(checked, on_progress)
        n_inputs = extraction.features.shape[1]
        if not self._current.dim and self._current.recipe.raises and self.head_kind != "regression":
            settings = replace(settings, is_raised=not settings.random_features and not (extraction.features < 0).any())
        if settings.random_features and not settings.input_dim:
            settings = replace(settings, random_constant=choose_constant(extraction.features))
        if self._map != settings.feature_map(n_inputs):
            self._map = settings.feature_map(n_inputs)
        return replace(extraction, features=self._map.apply(extraction.features)), self._map
