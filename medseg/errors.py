"""Every failure that medseg raises on purpose, and the reason codes of refused scans.

A message is one sentence or two: the case or file, the value found, the value expected, what to do.
It never holds a patient's name or identifier. Errors are raised where the fact is first known and
caught per case by the batch layer alone.
"""

from __future__ import annotations

from medseg.text import Word


class MedsegError(Exception):
    """Base of all errors a user can cause; the command line prints it without a traceback."""


class ConfigError(MedsegError, ValueError):
    """A configuration file, an override or a command-line value is wrong."""


class ScanError(MedsegError):
    """A scan can't be used; `code` is its reason code."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[ScanError], tuple[ReasonCode, str]]:
        return type(self), (self.code, str(self))


class SeriesError(ScanError):
    """A DICOM series is not one sound volume."""


class GeometryError(ScanError):
    """An image can't be placed in space, or two images that must share a grid don't."""


class UnsupportedScanError(ScanError):
    """A file's kind or encoding is outside what medseg reads."""


class LabelError(MedsegError, ValueError):
    """A label map is inconsistent, or a mask holds values that it doesn't know."""


class DatasetError(MedsegError, ValueError):
    """A dataset folder is empty, incomplete, or mixes training and held-out cases."""


class PlanError(MedsegError, ValueError):
    """No plan fits the data and the memory budget, or an edited plan is inconsistent."""


class CacheError(MedsegError):
    """A cache entry can't be written or read."""


class ModelError(MedsegError):
    """A model folder is missing, incomplete, or does not fit the scan."""


class OutputError(MedsegError):
    """A result can't be written."""


class WorkerError(MedsegError):
    """A worker process can't be started, or ends again and again without a case to blame."""


class ReasonCode(Word):
    """Why a file or scan was refused, skipped or flagged; stable words for tables and scripts."""

    NOT_A_SCAN = "NOT_A_SCAN"
    NOT_DICOM = "NOT_DICOM"
    UNREADABLE = "UNREADABLE"
    SKIPPED_SOP_CLASS = "SKIPPED_SOP_CLASS"
    LOCALIZER = "LOCALIZER"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"
    MISSING_SLICE = "MISSING_SLICE"
    VARIABLE_SPACING = "VARIABLE_SPACING"
    GANTRY_TILT = "GANTRY_TILT"
    PHASES = "PHASES"
    TRUNCATED = "TRUNCATED"
    DECODE_FAILED = "DECODE_FAILED"
    MIXED_MATRIX = "MIXED_MATRIX"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    AMBIGUOUS_SERIES = "AMBIGUOUS_SERIES"
    BAD_ORIENTATION = "BAD_ORIENTATION"
    NO_POSITION = "NO_POSITION"
    NO_RESCALE = "NO_RESCALE"
    HU_SUSPECT = "HU_SUSPECT"
    PIXEL_PADDING = "PIXEL_PADDING"
    SPACING_SUSPECT = "SPACING_SUSPECT"
    FOV_TRUNCATED = "FOV_TRUNCATED"
    NONORTHONORMAL_AFFINE = "NONORTHONORMAL_AFFINE"
    QFORM_SFORM_DISAGREE = "QFORM_SFORM_DISAGREE"
    NO_SPATIAL_CODES = "NO_SPATIAL_CODES"
    NOT_3D = "NOT_3D"
    UNSUPPORTED_PIXELS = "UNSUPPORTED_PIXELS"
    MONOCHROME1 = "MONOCHROME1"
    NOT_FINITE = "NOT_FINITE"
    EMPTY = "EMPTY"
    GRID_MISMATCH = "GRID_MISMATCH"
    CHANNELS_MISMATCH = "CHANNELS_MISMATCH"
    MODALITY_MISMATCH = "MODALITY_MISMATCH"
    NO_IDENTITY = "NO_IDENTITY"
    NOT_SELECTED = "NOT_SELECTED"
    ARCHIVE_UNSAFE = "ARCHIVE_UNSAFE"
    ARCHIVE_TOO_LARGE = "ARCHIVE_TOO_LARGE"
    ARCHIVE_ENCRYPTED = "ARCHIVE_ENCRYPTED"
    ARCHIVE_NESTED = "ARCHIVE_NESTED"
