"""Make the sample data: synthetic patients, scanned as a hospital would.

    python sample_data/make_sample_data.py my_data
    python sample_data/make_sample_data.py my_data --seed 5 --labelled 30 --unlabelled 30 --test 10

The same as `medseg demo --data-only my_data`. Every patient is drawn from the seed: first the trunk, then
the organs in it, then vessels, cysts and tumours in the organs; a pose and a smooth bend make each one
different. A scanner then asks what lies at the sample points of each of its voxels, blurs, and adds noise.
So a patient has no voxels, and a scan can lie in any way: oblique, flipped, coronal, with thick slices.
The anatomy is in `medseg/phantom/organs.py` and `torso.py`, the scanners in `acquisition.py` and `protocols.py`.

The cases committed beside this script were made by it:

    python sample_data/make_sample_data.py sample_data/abdomen --labelled 2 --unlabelled 1 --test 2
"""

import argparse
import sys
from pathlib import Path

from medseg.errors import MedsegError
from medseg.phantom.dataset import CUT_SHORT, SampleCounts, make_sample_data


def main() -> int:
    """Read the command line, make the data, say what was made and what to do with it."""
    usual = SampleCounts()
    parser = argparse.ArgumentParser(description="Make synthetic CT scans of the abdomen with true masks.")
    parser.add_argument("folder", type=Path, help="new folder for the data")
    parser.add_argument("--seed", type=int, default=0, help="other patients for another seed (default: 0)")
    parser.add_argument("--labelled", type=int, default=usual.labelled, help="training scans with a mask")
    parser.add_argument("--unlabelled", type=int, default=usual.unlabelled, help="training scans without one")
    parser.add_argument("--test", type=int, default=usual.test, help="unseen scans, every second one DICOM")
    wish = parser.parse_args()

    counts = SampleCounts(wish.labelled, wish.unlabelled, wish.test)
    try:
        unseen = make_sample_data(wish.folder, wish.seed, counts)
    except MedsegError as error:
        sys.exit(f"make_sample_data: {error}")

    print(f"{wish.folder / 'train'}: {counts.labelled} scans with masks, {counts.unlabelled} without")
    print(f"{wish.folder / 'scans'}: {len(unseen)} unseen scans, and {Path(CUT_SHORT).name}, which can't be read")
    print(f"{wish.folder / 'truth.csv'}: their true masks, to evaluate with")
    return 0


if __name__ == "__main__":
    sys.exit(main())
