"""How fast `medseg index` reads headers, against pydicom's own header parse on as many processes.

    MEDSEG_DATA=... python benchmarks/index_throughput.py [FILES]

Builds a tree of FILES (10,000) DICOM files with the headers of real CT and MR series and 16x16 pixels, reads
it once to warm the disk cache, then measures both, and the index again when nothing, and when one file in a
hundred, has changed. CPU seconds are printed beside the rates, because they hold on a busy machine too.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian
from scans import real_scans

from medseg.catalog.entries import Catalog
from medseg.catalog.index import index_scans
from medseg.catalog.memory import remembering
from medseg.config import IngestConfig
from medseg.io import dicom_pool

SLICES = 200
WORKERS = 2


def build_tree(root: Path, files: int) -> None:
    """Write series of `SLICES` slices, headers alternating between CT and MR."""
    data = real_scans("ct", "mr")
    models = [
        next(iter(sorted((data / name).glob("**/*"))))
        for name in ("ct/dicom_series", "mr/dicom_study/37830-T2reg-78532")
    ]
    for number in range(files // SLICES):
        slice_ = pydicom.dcmread(models[number % 2])
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.Rows = slice_.Columns = 16
        slice_.PixelData = np.zeros((16, 16), np.uint16).tobytes()
        slice_["PixelData"].VR = "OW"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = f"1.2.{number}", f"1.2.{number}.1"
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        (root / str(number)).mkdir()
        for position in range(SLICES):
            slice_.SOPInstanceUID = f"1.2.{number}.1.{position}"
            slice_.ImagePositionPatient = [0, 0, 2 * position]
            slice_.save_as(root / str(number) / str(position))


def parse(paths: list[str]) -> None:
    """Parse headers as pydicom does by itself."""
    for path in paths:
        pydicom.dcmread(path, stop_before_pixels=True)


def parse_all(shares: list[list[str]]) -> None:
    """Parse each share in a process of its own."""
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(parse, shares))


def measure(work: Callable[[], object], files: int, name: str) -> float:
    """Print rate and CPU seconds of `work`; return the seconds."""

    def cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    started, used = time.perf_counter(), cpu()
    work()
    seconds, used = time.perf_counter() - started, cpu() - used
    print(f"{name:>10}: {files / seconds:7.0f} files/s, {used:5.1f} CPU seconds")
    return seconds


def index_again(root: Path, key: Path, catalog: Path) -> Catalog:
    """Index with a memory beside the catalogue, as `medseg index --output` does."""
    with remembering(catalog, root, IngestConfig()) as memory:
        return index_scans(root, key=key, memory=memory)


def main() -> None:
    """Build, warm, measure three times."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        root, key = Path(folder) / "scans", Path(folder) / "pseudonym.key"
        root.mkdir()
        build_tree(root, wanted)
        paths = [str(path) for path in root.rglob("*") if path.is_file()]
        dicom_pool.MAX_WORKERS = WORKERS
        assert len(index_scans(root, key=key).cases()) == len(paths) // SLICES
        shares = [paths[number::WORKERS] for number in range(WORKERS)]
        for _ in range(3):
            alone = measure(lambda: parse_all(shares), len(paths), "pydicom")
            ours = measure(lambda: index_scans(root, key=key), len(paths), "medseg")
            print(f"     ratio: {alone / ours:.2f}")
        table = Path(folder) / "catalog.parquet"
        first = measure(lambda: index_again(root, key, table), len(paths), "remember")
        again = measure(lambda: index_again(root, key, table), len(paths), "unchanged")
        for path in paths[::100]:
            os.utime(path)
        part = measure(lambda: index_again(root, key, table), len(paths), "1 % new")
        size = table.with_name(f"{table.name}.memory").stat().st_size
        print(f"     times: {first:.2f} s, then {again:.2f} s, then {part:.2f} s; memory on disk {size / 1e6:.1f} MB")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of the main process: {peak:.0f} MB")


if __name__ == "__main__":
    main()
