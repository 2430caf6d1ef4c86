"""One large CT from file to mask: medseg against nnU-Net and MONAI, same weights, same windows.

    python benchmarks/performance/segment_big.py [--others nnunet monai openvino] [--rounds 2] [--keep]
    python benchmarks/performance/segment_big.py --shape 256 256 128          # an eighth of it, minutes

The scan and the model are those of `big_case.py`: 512x512x256 voxels of 0.8x0.8x1.5 mm, 20 classes, 125 windows of
96³, a U-Net of 16 to 256 features. Each contestant is a command with all that it does by default but test-time
mirroring: `medseg segment` with pictures, measures and report, by torch and of the model exported to OpenVINO;
`nnUNetv2_predict` with its default workers; MONAI as in `monai_segment.py`. --keep adds the runs to those measured
before, because a round takes ten minutes. Writes results/segment_big.json, with how many voxels of the masks agree.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import peers
from big_case import add_case_options, case_options, make_case

sys.path.append(str(Path(__file__).parents[1]))

from harness import Run, interleave, run, save

from medseg.inference.window import tile
from medseg.io.nifti import read_mask, read_nifti
from medseg.networks.model import load_model
from medseg.preprocessing.prepare import plan_grid

OTHERS = ["nnunet", "monai", "openvino"]
"""Contestants beside `medseg segment`."""

RESULT = Path(__file__).parent / "results" / "segment_big.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case_options(parser)
    parser.add_argument("--others", nargs="*", choices=OTHERS, default=OTHERS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep scan and model there, and use what is there already")
    parser.add_argument("--keep", action="store_true", help="add to the runs that the result has")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "model").exists():
            make_case(folder, **case_options(arguments))
        runs = interleave(contestants(folder, arguments.others), arguments.rounds)
        facts = {"shape": arguments.shape, "classes": arguments.classes, "windows": count_windows(folder)}
        facts["agreement"] = compare(folder)
    save(arguments.result, runs, keep=arguments.keep, **facts)


def contestants(folder: Path, chosen: list[str]) -> dict[str, Callable[[], Run]]:
    """Return the commands; each finds an empty output folder."""
    scans, model = folder / "scans", folder / "model"
    names: dict[str, Callable[[], Run]] = {
        "medseg segment": partial(anew, folder / "medseg", peers.medseg_segment(scans, model, folder / "medseg"))
    }
    if "openvino" in chosen:
        exported = folder / "exported"
        if not exported.exists():
            run(peers.medseg("export", model, "--to", "openvino", "--output", exported))
        command = peers.medseg_segment(scans, exported, folder / "openvino")
        names["medseg segment (OpenVINO)"] = partial(anew, folder / "openvino", command)
    if "nnunet" in chosen:
        shutil.rmtree(folder / "results", ignore_errors=True)
        peers.to_nnunet(model, folder)
        linked = peers.link_scans(scans, folder / "linked")
        command = peers.nnunet_segment(linked, folder / "nnunet")
        names["nnUNetv2_predict"] = partial(anew, folder / "nnunet", command, peers.nnunet_env(folder))
    if "monai" in chosen:
        command = peers.monai_segment(scans / "big.nii.gz", model, folder / "monai")
        names["MONAI sliding window + Invertd"] = partial(anew, folder / "monai", command, peers.MONAI_ENV)
    return names


def anew(output: Path, command: peers.Command, env: dict[str, str] | None = None) -> Run:
    """Run a command whose output folder is empty."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    return run(command, env)


def count_windows(folder: Path) -> int:
    """Return the windows that cover the scan, empty ones included."""
    plan = load_model(folder / "model").plan
    grid = plan_grid(read_nifti(folder / "scans" / "big.nii.gz").grid, plan)
    return len(tile(grid.shape, plan, 0.5).origins)


def compare(folder: Path) -> dict[str, float]:
    """Return the share of voxels in which each other mask is medseg's; of a stopped round there may be none."""
    ours = folder / "medseg" / "cases" / "big" / "mask.nii.gz"
    others = {name: folder / name / "big.nii.gz" for name in ("nnunet", "monai")}
    others["openvino"] = folder / "openvino" / "cases" / "big" / "mask.nii.gz"
    if not ours.exists():
        return {}
    mask = read_mask(ours).array
    return {
        name: round(float(np.mean(read_mask(path).array == mask)), 6) for name, path in others.items() if path.exists()
    }


if __name__ == "__main__":
    main()
