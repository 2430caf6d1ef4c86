"""Plan and preprocess forty small MRs: medseg against nnU-Net.

    MEDSEG_DATA=FOLDER python benchmarks/performance/prepare.py [--rounds 3] [--without-peers]

Both read one folder in nnU-Net's layout, made of the hippocampi of $MEDSEG_DATA, look at every case, plan and write
what training reads: `medseg prepare` against `nnUNetv2_plan_and_preprocess` with two processes. Writes
results/prepare.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import peers

sys.path.append(str(Path(__file__).parents[1]))

from harness import Run, interleave, peer_arguments, run, save
from scans import real_scans

RESULT = Path(__file__).parent / "results" / "prepare.json"
CASES = 40


def main() -> None:
    arguments = peer_arguments(__doc__, RESULT)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder)
        runs = interleave(contestants(folder, with_peers=not arguments.without_peers), arguments.rounds)
    save(arguments.result, runs, keep=arguments.keep, cases=CASES)


def write_dataset(folder: Path) -> Path:
    """Write the first cases as nnU-Net's raw dataset, where `nnunet_env(folder)` names it; returns its folder."""
    source = real_scans("hippocampus") / "hippocampus"
    dataset = Path(peers.nnunet_env(folder)["nnUNet_raw"]) / peers.DATASET
    (dataset / "imagesTr").mkdir(parents=True)
    (dataset / "labelsTr").mkdir()
    for image in sorted((source / "images").glob("*.nii.gz"))[:CASES]:
        shutil.copy(image, dataset / "imagesTr" / image.name.replace(".nii.gz", "_0000.nii.gz"))
        shutil.copy(source / "labels" / image.name, dataset / "labelsTr")
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return dataset


def contestants(folder: Path, *, with_peers: bool) -> dict[str, Callable[[], Run]]:
    """Return the commands; each starts with nothing prepared."""
    env = peers.nnunet_env(folder)
    ours, theirs = folder / "medseg", Path(env["nnUNet_preprocessed"]) / peers.DATASET
    data = Path(env["nnUNet_raw"]) / peers.DATASET
    names = {"medseg prepare": partial(afresh, ours, peers.medseg("prepare", "--data", data, "--output", ours))}
    if with_peers:
        names["nnUNetv2_plan_and_preprocess"] = partial(afresh, theirs, peers.nnunet_prepare(), env)
    return names


def afresh(output: Path, command: peers.Command, env: dict[str, str] | None = None) -> Run:
    """Run a command whose output folder doesn't exist."""
    shutil.rmtree(output, ignore_errors=True)
    return run(command, env)


if __name__ == "__main__":
    main()
