"""How each library reads a folder of scans, called as its documentation shows and with no help."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pitfalls.judge import Placed
from pitfalls.registry import PITFALLS

Reader = Callable[[Path], list[Placed]]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def monai_itk(folder: Path) -> list[Placed]:
    return _monai(folder, "ITKReader")


def monai_pydicom(folder: Path) -> list[Placed]:
    return _monai(folder, "PydicomReader")


def monai_nibabel(folder: Path) -> list[Placed]:
    return _monai(_nifti_file(folder), "NibabelReader")


def _monai(path: Path, reader: str) -> list[Placed]:
    from monai.transforms import LoadImage

    image = LoadImage(reader=reader, image_only=True)(str(path))
    return _volumes(np.asarray(image), np.asarray(image.affine))


def simpleitk(folder: Path) -> list[Placed]:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return _from_itk(reader.Execute())


def simpleitk_file(folder: Path) -> list[Placed]:
    import SimpleITK

    return _from_itk(SimpleITK.ReadImage(str(_nifti_file(folder))))


def _from_itk(image) -> list[Placed]:
    import SimpleITK

    size = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(size, size) * image.GetSpacing())[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return _volumes(SimpleITK.GetArrayFromImage(image).T, LPS_TO_RAS @ affine)


def highdicom(folder: Path) -> list[Placed]:
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    slices = []
    for path in sorted(folder.iterdir()):
        try:
            slices.append(dcmread(path))
        except InvalidDicomError:
            continue
    if len(slices) == 1 and "NumberOfFrames" in slices[0]:
        volume = hd.image.Image.from_dataset(slices[0]).get_volume()
    else:
        volume = hd.get_volume_from_series(slices)
    return _volumes(volume.array, LPS_TO_RAS @ volume.affine)


def dicom2nifti(folder: Path) -> list[Placed]:
    from dicom2nifti.convert_dicom import dicom_series_to_nifti

    with tempfile.TemporaryDirectory() as out:
        dicom_series_to_nifti(str(folder), f"{out}/scan.nii", reorient_nifti=False)
        return _from_nifti(Path(out))


def dcm2niix(folder: Path) -> list[Placed]:
    with tempfile.TemporaryDirectory() as out:
        words = [_dcm2niix(), "-z", "n", "-b", "n", "-o", out, "-f", "scan_%s", str(folder)]
        subprocess.run(words, capture_output=True, check=False)
        for path in [*Path(out).glob("*_Eq*"), *Path(out).glob("*_Tilt*")]:
            path.unlink()  # the resampled twin of a file that is there as well, and is what a user opens first
        return _from_nifti(Path(out))


def nibabel(folder: Path) -> list[Placed]:
    import nibabel

    image = nibabel.load(_nifti_file(folder))
    return _volumes(np.asarray(image.dataobj), image.affine)


def medseg(folder: Path) -> list[Placed]:
    return _medseg(folder, "")


def medseg_repairing(folder: Path) -> list[Placed]:
    return _medseg(folder, PITFALLS[folder.name].repair)


def _medseg(folder: Path, repair: str) -> list[Placed]:
    from medseg.catalog.index import index_scans
    from medseg.config import IngestConfig
    from medseg.errors import ScanError
    from medseg.io.scan import read_scan

    policy = IngestConfig.model_validate({repair.lower(): "repair"} if repair else {})
    volumes = []
    with tempfile.TemporaryDirectory() as own:
        for case in index_scans(folder, key=Path(own) / "key", policy=policy).cases():
            try:
                volume = read_scan(case.images[0])
            except ScanError:
                continue
            volumes.append(Placed(volume.array[0], volume.grid.affine))
    return volumes


def _nifti_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if not path.name.endswith(".img"))


def _from_nifti(folder: Path) -> list[Placed]:
    import nibabel

    images = [nibabel.load(path) for path in sorted(folder.glob("*.nii*"))]
    return [volume for image in images for volume in _volumes(np.asarray(image.dataobj), image.affine)]


def _volumes(array: np.ndarray, affine: np.ndarray) -> list[Placed]:
    """Return (X, Y, Z) volumes: a plane has one slice, a fourth axis holds volumes."""
    if array.dtype.names:
        raise TypeError("colours are no volume")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3:
        return [Placed(array, affine)]
    return [Placed(array[..., number], affine) for number in range(array.shape[3])]


def _dcm2niix() -> str:
    return shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or ""


MEDSEG = {"medseg": medseg, "medseg, repairing": medseg_repairing}
DICOM_READERS: dict[str, Reader] = {
    "MONAI ITKReader": monai_itk, "MONAI PydicomReader": monai_pydicom, "SimpleITK": simpleitk,
    "dicom2nifti": dicom2nifti, "dcm2niix": dcm2niix, "highdicom": highdicom, **MEDSEG,
}  # fmt: skip
NIFTI_READERS: dict[str, Reader] = {
    "MONAI NibabelReader": monai_nibabel, "SimpleITK": simpleitk_file, "nibabel": nibabel, **MEDSEG,
}  # fmt: skip
NEEDS = {
    "MONAI ITKReader": ("monai", "itk"), "MONAI PydicomReader": ("monai", "pydicom"), "SimpleITK": ("SimpleITK",),
    "dicom2nifti": ("dicom2nifti",), "dcm2niix": ("dcm2niix",), "highdicom": ("highdicom",), "nibabel": ("nibabel",),
    "MONAI NibabelReader": ("monai", "nibabel"),
}  # fmt: skip
"""Packages of each reader; it is left out where one is missing."""


def missing(reader: str) -> list[str]:
    """Return the packages that a reader lacks here."""
    return [name for name in NEEDS.get(reader, ()) if not find_spec(name)]


def preload() -> None:
    """Import what reads, once, before a process is forked for each reader."""
    names = {name for reader, needed in NEEDS.items() if not missing(reader) for name in needed}
    for name in sorted(names | {"medseg.catalog.dicom_index"}):
        import_module("monai.transforms" if name == "monai" else name)


def versions() -> dict[str, str]:
    """Return the versions of every package that reads."""
    names = sorted({name for needed in NEEDS.values() for name in needed} | {"medseg", "numpy", "python-gdcm"})
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
