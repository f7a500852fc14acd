"""onnxruntime's sessions: on which device, in which precision, and what it says when memory runs out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edge_cl.backbones import cache
from edge_cl.errors import MissingPackageError, SessionError, first_line

CUDA = "CUDAExecutionProvider"
# TF32 would leave 10 bits of each factor, and features that differ from a CPU's in the third digit
CUDA_OPTIONS = {"use_tf32": "0"}


def open_session(model: Path | bytes, device: str, precision: int = 32) -> Any:
    """Return an onnxruntime session.

    Args:
        model: the ONNX model, a path or its bytes.
        device: `auto`, `cpu` or `cuda`.
        precision: 16 computes in half precision where the session is on the GPU.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        SessionError: onnxruntime cannot open the model, or has no GPU where `cuda` was asked for.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingPackageError(
            "onnxruntime is not installed; type: pip install onnxruntime (on a Jetson: its own onnxruntime-gpu wheel)"
        ) from None
    available = onnxruntime.get_available_providers()
    if device == "cuda" and CUDA not in available:
        raise SessionError(
            f"device cuda: onnxruntime has only {', '.join(available)}; install onnxruntime-gpu, or use --device cpu"
        )
    if device == "cpu" or CUDA not in available:
        return _open(model, ["CPUExecutionProvider"])
    try:
        return _open(halve(model) if precision == 16 else model, [(CUDA, CUDA_OPTIONS), "CPUExecutionProvider"])
    except SessionError as error:
        if device == "auto":
            return _open(model, ["CPUExecutionProvider"])
        raise SessionError(
            f"device cuda: onnxruntime found no GPU, or no CUDA and cuDNN libraries of its version ({error}); install "
            "those, or use --device cpu"
        ) from error


def _open(model: Path | bytes, providers: list[Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take the update's processors
    source = str(model) if isinstance(model, Path) else model
    try:
        # its own fallback prints to stdout, and goes on where an error was asked for
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions derive from Exception alone
        raise SessionError(f"backbone: onnxruntime cannot open it: {first_line(error)}") from None
    if len(providers) > 1 and not is_on_gpu(session):  # it goes on without a GPU, and says so in a log
        raise SessionError("it opened the model on the CPU only")
    return session


def halve(model: Path | bytes) -> Path | bytes:
    """Return the model with weights and arithmetic in float16, its inputs and outputs still float32.

    Raises:
        SessionError: it cannot be converted.
    """
    data = model if isinstance(model, bytes) else model.read_bytes()

    def build() -> bytes:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        try:
            halved = convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True)
        except Exception as error:  # whatever onnxruntime's conversion trips over
            raise SessionError(f"precision 16: the backbone cannot be converted: {first_line(error)}") from error
        serialized: bytes = halved.SerializeToString()
        return serialized

    return cache.store(f"half-{hashlib.sha256(data).hexdigest()[:32]}", build)


def has_cuda() -> bool:
    """Return whether onnxruntime was built for CUDA."""
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def is_on_gpu(session: Any) -> bool:
    """Return whether a session computes on the GPU."""
    return CUDA in session.get_providers()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception of onnxruntime's says that an allocation failed; it has no type of its own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation")
    )
