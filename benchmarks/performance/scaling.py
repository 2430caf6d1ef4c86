"""How time and memory of `medseg segment` grow: with the volume, with the classes, with the number of cases.

    MEDSEG_DATA=FOLDER python benchmarks/performance/scaling.py [--folder KEPT] [--only volume classes cases]

volume: cubes of 128³ to 512³ voxels of 0.8x0.8x1.5 mm, 5 classes. classes: 2 to 118 of them on 256x256x128. Both with a
small U-Net (8 to 32 features, windows of 64³), so that what isn't the network shows. cases: 1 to 200 hippocampi of
$MEDSEG_DATA with the model that comes with medseg. Each is one run of the whole command, pictures and report included.
Scans and models are kept in KEPT, where it is given, and used again. Writes results/scaling.json; --only replaces a
part of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import peers
from big_case import make_case
from segment_big import anew

sys.path.append(str(Path(__file__).parents[1]))

from harness import Run, interleave, save
from scans import real_scans

RESULT = Path(__file__).parent / "results" / "scaling.json"
MODEL = peers.ROOT / "sample_data" / "models" / "hippocampus"
SIZES = {"volume": (128, 192, 256, 384, 512), "classes": (2, 8, 20, 50, 118), "cases": (1, 5, 20, 60, 200)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), help="leave the rest of the result as it is")
    parser.add_argument("--largest", type=int, default=sys.maxsize, help="leave out larger sizes")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        contestants = {
            f"{what} {size}": partial(measure, folder / f"{what}_{size}", what, size)
            for what in arguments.only or SIZES
            for size in SIZES[what]
            if size <= arguments.largest
        }
        save(arguments.result, interleave(contestants, 1), replace=bool(arguments.only))


def measure(folder: Path, what: str, size: int) -> Run:
    """Return the run of one size, for which scans and model are made unless they are there."""
    if what == "cases":
        images = sorted((real_scans("hippocampus") / "hippocampus" / "images").glob("*.nii.gz"))[:size]
        (folder / "scans").mkdir(parents=True, exist_ok=True)
        for image in images:
            shutil.copy(image, folder / "scans")
        model = MODEL
    else:
        shape, classes = ((size,) * 3, 5) if what == "volume" else ((256, 256, 128), size)
        if not (folder / "model").exists():
            make_case(folder, shape=shape, classes=classes, features=(8, 16, 32), window=64)
        model = folder / "model"
    return anew(folder / "results", peers.medseg_segment(folder / "scans", model, folder / "results"))


if __name__ == "__main__":
    main()
