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

A case's folder appears whole or not at all. The same command again skips the cases whose source, model
and settings are unchanged, so a killed run is continued by repeating it.

Paths may hold patients' names: they are in ``sources.csv`` and nowhere else, so that everything else
can be passed on. A NIfTI scan's own file name is its case id, unless `SegmentConfig.pseudonymize` is set.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

from medseg.batch.formats import Formats, write_tables
from medseg.batch.listing import list_cases
from medseg.batch.places import check_links, check_names, check_places, check_writable
from medseg.batch.summary import STATUSES, CaseResult, RunSummary, case_rows
from medseg.batch.worker import Picture, Worker
from medseg.catalog.anonymous import without_file_names, without_names
from medseg.catalog.index import index_scans
from medseg.config import SegmentConfig
from medseg.io.files import atomic_file
from medseg.io.tables import OWNER_ONLY, write_csv
from medseg.provenance import digest_json, machine, package_versions, timestamp

Watcher = Callable[[CaseResult, int, int], None]
"""Called after each case with its result, the number of ended cases and the number of all."""


def segment_folder(
    scans: Path,
    model: Path,
    output: Path,
    config: SegmentConfig | None = None,
    *,
    picture: Picture | None = None,
    watcher: Watcher | None = None,
) -> RunSummary:
    """Segment every scan below `scans` and return what became of each.

    Parameters
    ----------
    scans : a NIfTI file, a folder of one DICOM series, or any tree of both; never written to.
    model : model folder.
    output : made if needed; must not lie inside `scans`.
    config : device and application; default: as the model was validated.
    picture : draws scan and mask; default: no pictures.
    watcher : told of each case as it ends.

    Raises
    ------
    OutputError
        If `output` lies inside `scans` or a link leads there, or nothing can be written there (any more).
    ModelError
        If the model folder can't be used.
    ConfigError
        If `scans` is missing or the device isn't there.
    """
    config = config or SegmentConfig()
    started, began = timestamp(), perf_counter()
    check_places(scans, output)
    worker = open_worker(model, output / "cases", config, picture)
    catalog = index_scans(scans, key=config.key)
    check_links((path for entry in catalog.entries for path in entry.files), output)
    if config.pseudonymize:
        check_names(output / "cases")
        catalog = without_names(catalog, config.key)
    listing = list_cases(catalog, len(worker.predictor.model.plan.channels))
    results = list(listing.rejected)
    total = len(results) + len(listing.cases)
    files = {entry.source: entry.files for entry in catalog.entries}
    named = {case.id: [file for source in case.images for file in files[source]] for case in listing.cases}
    for ended in worker.run(listing.cases):
        result = _without_names(ended, named[ended.case]) if config.pseudonymize else ended
        results.append(result)
        if watcher:
            watcher(result, len(results), total)
    summary = RunSummary(
        output=output,
        results=tuple(sorted(results, key=lambda result: result.case)),
        sources=listing.sources,
        left_out=listing.left_out,
        seconds=perf_counter() - began,
    )
    write_summary(summary, worker, config, started)
    return summary


def _without_names(result: CaseResult, files: list[Path]) -> CaseResult:
    return replace(result, message=without_file_names(result.message, files, result.case))


def open_worker(model: Path, folder: Path, config: SegmentConfig, picture: Picture | None = None) -> Worker:
    """Load a model and make its worker; everything wrong with model, device or output shows here."""
    # torch loads late: wrong arguments answer at once
    from medseg.inference.hardware import choose_device, fit_threads, keep_memory
    from medseg.inference.predictor import Predictor
    from medseg.networks.model import load_model, model_digest

    keep_memory()
    fit_threads()
    device = choose_device(config.device)
    loaded = load_model(model, device)
    settings, formats = config.inference(loaded.inference), Formats.of(config)
    formats.labels(loaded.labels)  # a lesion that is no label ends the run here
    check_writable(folder)
    return Worker(
        predictor=Predictor(loaded, settings, device),
        folder=folder,
        model_digest=model_digest(model),
        settings_digest=digest_json([settings.model_dump(mode="json"), asdict(formats), package_versions(["medseg"])]),
        picture=picture,
        redo=config.redo,
        formats=formats,
    )


def write_summary(summary: RunSummary, worker: Worker, config: SegmentConfig, started: str) -> None:
    """Write ``cases.csv``, ``sources.csv`` and ``run.json`` of a run."""
    model = worker.predictor.model
    labels = [label.name for label in model.labels.labels]
    write_csv(summary.output / "cases.csv", *case_rows(summary.results, labels))
    sources = [(case, str(path)) for case, path in sorted(summary.sources.items())]
    write_tables(summary.output, worker.labels, summary.results, len(model.plan.channels))
    write_csv(summary.output / "sources.csv", ["case", "source"], sources, mode=OWNER_ONLY)
    record = {
        "started": started,
        "finished": timestamp(),
        "seconds": round(summary.seconds, 3),
        "cases": {status: summary.count(status) for status in STATUSES},
        "done_before": sum(result.was_done for result in summary.results),
        "left_out": summary.left_out,
        "model": {"name": model.name, "digest": worker.model_digest},
        "labels": model.labels.model_dump(mode="json"),
        "reference": model.reference.model_dump(mode="json") if model.reference else None,
        "inference": config.inference(model.inference).model_dump(mode="json"),
        "device": str(worker.predictor.device),
        "machine": machine(),
        "versions": package_versions(),
    }
    with atomic_file(summary.output / "run.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
