from __future__ import annotations

import subprocess
import sys


def test_reading_nifti_imports_no_pydicom_and_dicom_still_works_after():
    script = """
import sys
import medseg.io.nifti
assert "pydicom" not in sys.modules, "nibabel took pydicom along"
import pydicom, medseg.io.dicom
from nibabel.nifti1 import Nifti1Extension, extension_codes
assert extension_codes.handler[2] is Nifti1Extension
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
