"""Twenty small MRs, and one of them, in one command: medseg against nnU-Net, same weights.

    MEDSEG_DATA=FOLDER python benchmarks/performance/segment_small.py [--rounds 3] [--without-peers]

The scans are the hippocampi of $MEDSEG_DATA, the weights those of the model that comes with medseg. Start-up is most of
such a command, so nnU-Net is run with its default worker processes and, as an expert would, without any. Writes
results/segment_small.json, with how many voxels of the masks agree and the Dice of both against people's masks.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import peers
from segment_big import anew

sys.path.append(str(Path(__file__).parents[1]))

from harness import Run, interleave, peer_arguments, save
from scans import real_scans

from medseg.io.nifti import read_mask

RESULT = Path(__file__).parent / "results" / "segment_small.json"
MODEL = peers.ROOT / "sample_data" / "models" / "hippocampus"
COUNTS = (20, 1)


def main() -> None:
    arguments = peer_arguments(__doc__, RESULT)
    data = real_scans("hippocampus") / "hippocampus"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        everyone = contestants(
            folder, sorted((data / "images").glob("*.nii.gz")), with_peers=not arguments.without_peers
        )
        runs = interleave(everyone, arguments.rounds)
        whole = all(len(ones) == arguments.rounds for ones in runs.values()) and not arguments.without_peers
        facts = compare(folder, data / "labels") if whole else {}
    save(arguments.result, runs, keep=arguments.keep, **facts)


def contestants(folder: Path, images: list[Path], *, with_peers: bool) -> dict[str, Callable[[], Run]]:
    """Return the commands for 20 scans and for one."""
    names: dict[str, Callable[[], Run]] = {}
    if with_peers:
        peers.to_nnunet(MODEL, folder)
    for count in COUNTS:
        scans, ours, theirs = (folder / f"{kind}_{count}" for kind in ("scans", "medseg", "nnunet"))
        scans.mkdir()
        for image in images[:count]:
            shutil.copy(image, scans)
        names[f"medseg segment, {count}"] = partial(anew, ours, peers.medseg_segment(scans, MODEL, ours))
        if with_peers:
            linked = peers.link_scans(scans, folder / f"linked_{count}")
            for words, options in (("", ()), (" -npp 0 -nps 0", ("-npp", "0", "-nps", "0"))):
                command = peers.nnunet_segment(linked, theirs, *options)
                names[f"nnUNetv2_predict{words}, {count}"] = partial(anew, theirs, command, peers.nnunet_env(folder))
    return names


def compare(folder: Path, truth: Path) -> dict[str, object]:
    """Return the share of voxels that both masks agree in, and the mean Dice of each (foreground of all cases)."""
    agree: list[float] = []
    dice: dict[str, list[float]] = {"medseg": [], "nnunet": []}
    for case in sorted((folder / f"medseg_{COUNTS[0]}" / "cases").iterdir()):
        masks = {
            "medseg": read_mask(case / "mask.nii.gz").array,
            "nnunet": read_mask(folder / f"nnunet_{COUNTS[0]}" / f"{case.name}.nii.gz").array,
        }
        labels = read_mask(truth / f"{case.name}.nii.gz").array
        agree.append(np.mean(masks["medseg"] == masks["nnunet"]))
        for name, mask in masks.items():
            shared = sum(np.sum((mask == value) & (labels == value)) for value in (1, 2))
            dice[name].append(2 * shared / (np.count_nonzero(mask) + np.count_nonzero(labels)))
    means = {name: round(float(np.mean(values)), 4) for name, values in dice.items()}
    return {"agreement": round(float(np.mean(agree)), 6), "dice": means}


if __name__ == "__main__":
    main()
