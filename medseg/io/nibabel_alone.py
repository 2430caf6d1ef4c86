"""nibabel, imported so that it does without pydicom.

nibabel imports pydicom where it finds it, for DICOM headers that a NIfTI file may carry as an extension. That
takes 0.3 s, as much as all else that reading a NIfTI file needs, and would have a second parser look at what a
stranger put into the file. Without it such an extension is bytes that nobody looks at.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING


def _import_nibabel() -> ModuleType:
    """Return nibabel; where pydicom is imported already, as it is."""
    if "pydicom" in sys.modules or "nibabel" in sys.modules:
        return import_module("nibabel")
    sys.modules["pydicom"] = None  # type: ignore[assignment]  # what Python takes for "can't be imported"
    try:
        return import_module("nibabel")
    finally:
        del sys.modules["pydicom"]


if TYPE_CHECKING:
    import nibabel as nib
else:
    nib = _import_nibabel()

__all__ = ["nib"]
