"""Every error a user can cause: one line that says where, what was expected, what was found and what to type next."""

from __future__ import annotations


class EdgeClError(Exception):
    """Base of all errors that edge_cl raises on purpose."""


class InputError(EdgeClError, ValueError):
    """Samples, labels, class names or options cannot be used as they are."""


class StateError(EdgeClError, ValueError):
    """A state file is damaged, is no state file, or cannot do what was asked."""


class StateMissingError(StateError, FileNotFoundError):
    """There is no state file at the path."""


class StateReadOnlyError(StateError, PermissionError):
    """The state file may be read and not written."""


class StateBusyError(StateError, TimeoutError):
    """Another process holds the right to write."""


class BackboneError(EdgeClError, ValueError):
    """A backbone cannot be opened, cut or run."""


class BackboneMissingError(BackboneError, FileNotFoundError):
    """The backbone's file is not where the state says."""


class BackboneMismatchError(BackboneError):
    """The backbone is not the one that the state was made with."""


class SessionError(BackboneError):
    """onnxruntime cannot open a model, or cannot run it."""


class MissingPackageError(EdgeClError, ImportError):
    """An optional package is needed and not installed."""


class ExportError(EdgeClError, RuntimeError):
    """The exported file was not written, or did not agree with the learner."""


class BundleError(EdgeClError, ValueError):
    """A signed bundle or a head blob is damaged, not signed by the key, or not for this device."""


class SlotError(EdgeClError, RuntimeError):
    """No head can be put into a slot, or started from one."""


class LinkError(EdgeClError, ConnectionError):
    """A device does not answer, or refuses what it is sent."""


class DeviceError(EdgeClError, RuntimeError):
    """The device that was asked for is not there, failed, or has too little memory."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, cut short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def reason_of(error: Exception) -> str:
    """Return what the system says of a file or a device, without its name; of other exceptions the first line."""
    return getattr(error, "strerror", None) or first_line(error)
