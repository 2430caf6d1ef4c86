"""Segment every scan of a folder with one model.

    OUT/cases/<case>/mask.nii.gz  on exactly the scan's grid
                     overlay.png  if a picture function is given
                     case.json    written last: the record that the case is done
                     ...          other formats, see `medseg.batch.formats`
    OUT/cases.csv                 every case with status, reason, volumes
    OUT/measures.csv              every structure and lesion, measured
    OUT/labels.csv, labels.ctbl   names and colours of the labels
    OUT/sources.csv               which case is which file, readable by its owner only
    OUT/run.json                  versions, machine, model, settings, counts
    OUT/audit.jsonl               who did what, when; a line a case, only ever added to

A case's folder appears whole or not at all. The same command again skips the cases whose source, model
and settings are unchanged, so a killed run is continued by repeating it. Cases are segmented in worker
processes (`medseg.batch.processes`), or actors of Ray: one that crashes or hangs costs only itself. Of a shard, only
the cases go into OUT itself (`medseg.batch.shards`).

Paths may hold patients' names: they are in ``sources.csv`` and nowhere else, so that everything else
can be passed on. A NIfTI scan's own file name is its case id, unless `SegmentConfig.pseudonymize` is set.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.batch.engine import open_engine
from medseg.batch.job import Job
from medseg.config import SegmentConfig

if TYPE_CHECKING:
    from medseg.batch.job import Picture
    from medseg.batch.run import Watcher
    from medseg.batch.summary import RunSummary


def segment_folder(
    scans: str | PathLike[str],
    model: str | PathLike[str],
    output: str | PathLike[str],
    config: SegmentConfig | None = None,
    *,
    picture: Picture | str | None = None,
    watcher: Watcher | None = None,
) -> RunSummary:
    """Segment every scan below `scans` and return what became of each.

    Parameters
    ----------
    scans : a NIfTI file, a zip archive, a folder of one DICOM series, or any tree of these; never written to.
    model : model folder.
    output : made if needed; must not lie inside `scans`.
    config : device, application, workers; default: as the model was validated, one worker a GPU.
    picture : draws scan and mask: a function, or its name as "module:function", which is imported where
        it is needed; default: no pictures.
    watcher : told of each case as it ends.

    Raises
    ------
    OutputError
        If `output` lies inside `scans` or a link leads there, or nothing can be written there (any more).
    ModelError
        If the model folder can't be used.
    ConfigError
        If `scans` is missing, the device isn't there, or worker processes can't import `picture`.
    DatasetError
        If `scans` has too many files.
    LabelError
        If a lesion is not a label of the model.
    WorkerError
        If worker processes can't work, or no Ray cluster can be reached.
    """
    config = config or SegmentConfig()
    scans, model, output = Path(scans), Path(model), Path(output)
    if config.engine == "ray":  # other machines have no working folder of ours
        scans, model, output = scans.absolute(), model.absolute(), output.absolute()
    with open_engine(Job(model=model, folder=output / "cases", config=config), picture) as engine:
        from medseg.batch.run import Request, run_batch  # it loads while the workers load torch

        return run_batch(engine, Request(scans, output, config), watcher)
