"""One run over a folder of scans, whichever engine segments them: index, segment, write down what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

from medseg.batch.audit import Audit
from medseg.batch.engine import Engine
from medseg.batch.formats import write_tables
from medseg.batch.intake import open_catalog, write_selection
from medseg.batch.listing import Listing, list_cases, write_sources
from medseg.batch.places import check_names, check_places, check_writable
from medseg.batch.shards import RUN, mark_of, share_of, tables_folder
from medseg.batch.summary import STATUSES, CaseResult, Failure, RunSummary, case_rows, highest
from medseg.batch.task import Facts, Task
from medseg.catalog.anonymous import without_file_names
from medseg.config import SegmentConfig
from medseg.io.files import remove_leftovers, write_text
from medseg.io.tables import write_csv
from medseg.provenance import machine, package_versions, timestamp

Watcher = Callable[[CaseResult, int, int], None]
"""Called after each case with its result, the number of ended cases and the number of all."""

VALUE_BYTES, LABEL_BYTES = 4, 1
"""Of a voxel in memory: float32 in each channel of the scan, a byte in the mask."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be segmented, where to, and how."""

    scans: Path
    output: Path
    config: SegmentConfig


def run_batch(engine: Engine, request: Request, watcher: Watcher | None = None) -> RunSummary:
    """Segment what is found; see `medseg.batch.segment_folder.segment_folder`."""
    started, began = timestamp(), perf_counter()
    config, tables = request.config, tables_folder(request.output, request.config.shard)
    _prepare(request, tables)
    with open_catalog(request.scans, request.output, config) as catalog:
        facts = engine.facts()
        everything = list_cases(catalog, facts.channels)
        listing = share_of(everything, config.shard) if config.shard else everything
        results = list(listing.rejected)
        total = len(results) + len(listing.cases)
        with Audit(tables, facts, total) as audit:
            for result in results:
                audit.case(result)
            for result in _segmented(engine, listing, request, facts.channels):
                audit.case(result)
                results.append(result)
                if watcher:
                    watcher(result, len(results), total)
        write_selection(catalog, tables)
    _tidy(request, tables)  # a worker whose supervisor was killed may have lived on when this run began
    summary = RunSummary(
        output=request.output,
        tables=tables,
        results=tuple(sorted(results, key=lambda result: result.case)),
        sources=listing.sources,
        left_out=listing.left_out,
        unread=listing.unread,
        seconds=perf_counter() - began,
        elsewhere=len(everything.sources) - len(listing.sources),
    )
    write_summary(summary, facts, started, {"speed": config.speed, **mark_of(everything, config)})
    return summary


def _prepare(request: Request, tables: Path) -> None:
    """Check the folders, and take away what ended runs left half-written."""
    output = request.output
    check_places(request.scans, output)
    check_writable(output / "cases")
    if request.config.shard:
        check_writable(tables)
    _tidy(request, tables)
    if request.config.pseudonymize:
        check_names(output / "cases")
    if request.config.shard:
        (tables / RUN).unlink(missing_ok=True)  # until it is there again, the shard has not ended


def _tidy(request: Request, tables: Path) -> None:
    for folder in {request.output, request.output / "cases", tables}:
        remove_leftovers(folder)


def _segmented(engine: Engine, listing: Listing, request: Request, channels: int) -> Iterator[CaseResult]:
    """Yield what became of each case, as they end; without names of files if that is asked for.

    Raises
    ------
    OutputError
        If a result can't be written and nothing else can either: no case would end better.
    """
    voxel = channels * VALUE_BYTES + LABEL_BYTES
    sizes = {name: voxel * prod(found[0].shape or ()) for name, found in listing.entries.items()}
    for result in engine.run(Task(case, sizes[case.id]) for case in listing.cases):
        if result.reason == Failure.OUTPUT:
            check_writable(request.output / "cases")
        if request.config.pseudonymize:
            files = [file for entry in listing.entries[result.case] for file in entry.files]
            yield replace(result, message=without_file_names(result.message, files, result.case))
        else:
            yield result


def write_summary(summary: RunSummary, facts: Facts, started: str, mark: dict[str, Any]) -> None:
    """Write ``cases.csv``, ``sources.csv``, the tables of the formats, and ``run.json`` of a run.

    Parameters
    ----------
    mark : what ``run.json`` says beside the rest.
    """
    write_csv(summary.tables / "cases.csv", *case_rows(summary.results, [label.name for label in facts.labels.labels]))
    write_tables(summary.tables, facts.labels, summary.results, facts.channels)
    write_sources(summary.tables, sorted(summary.sources.items()))
    record = {
        "started": started,
        "finished": timestamp(),
        "seconds": round(summary.seconds, 3),
        "cases": {status: summary.count(status) for status in STATUSES},
        "done_before": sum(result.was_done for result in summary.results),
        "left_out": summary.left_out,
        "model": {"name": facts.name, "digest": facts.digest},
        "labels": facts.labels.model_dump(mode="json"),
        "reference": facts.reference.model_dump(mode="json") if facts.reference else None,
        "inference": facts.inference.model_dump(mode="json"),
        "settings": facts.settings,
        "runtime": facts.runtime,
        "device": facts.device,
        "device_name": facts.device_name,
        "memory_mb": highest([result.record.memory_mb for result in summary.results if result.record]),
        "machine": machine(),
        "versions": package_versions(),
        **mark,
    }
    write_text(summary.tables / RUN, json.dumps(record, indent=2) + "\n")
