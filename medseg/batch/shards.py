"""Several commands do one batch, each its own share of the cases, wherever they run; their tables are united at last.

    OUT/cases/                  of all shards: no two ever write the same case
    OUT/shards/3-of-8/run.json  and the other tables and the log of one shard, as OUT has them of a whole run;
                                run.json is written last and says that the shard has ended

Whose a case is, its id alone decides, so the shards agree without a word between them. Nothing is appended to by
two of them: network file systems don't keep such lines apart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.batch.listing import Listing
from medseg.batch.summary import STATUSES, highest
from medseg.config import SegmentConfig
from medseg.errors import OutputError
from medseg.io.files import atomic_file, write_text
from medseg.io.tables import OWNER_ONLY, merge_csv
from medseg.provenance import digest_bytes, digest_json

Shard = tuple[int, int]
"""Number, from 1, and count."""

SHARDS = "shards"
RUN = "run.json"
FOLDER_NAME = re.compile(r"(\d+)-of-(\d+)")

MERGED = {"cases.csv": 0o644, "measures.csv": 0o644, "sources.csv": OWNER_ONLY}
"""Tables of which each shard has its rows, and their permissions."""

COMMON = ("labels.csv", "labels.ctbl", "selection.csv")
"""Tables that are the same in all shards, where they are there."""

OWN = ("started", "finished", "seconds", "runtime", "device", "device_name", "machine", "versions")
"""What of ``run.json`` is true of one shard only."""

DECISIVE = {"backend", "formats", "ingest", "per_class"}
"""Fields of a batch's configuration that decide its results, beside those that labels and inference show."""


def is_of(case: str, shard: Shard) -> bool:
    """Return whether a case is a shard's own.

    Examples
    --------
    >>> [number for number in (1, 2, 3) if is_of("liver_07", (number, 3))]
    [1]
    """
    number, count = shard
    return int(digest_bytes(os.fsencode(case)), 16) % count == number - 1


def share_of(listing: Listing, shard: Shard) -> Listing:
    """Return what a shard has to do; files that are no scan are counted by each."""
    return replace(
        listing,
        cases=tuple(case for case in listing.cases if is_of(case.id, shard)),
        rejected=tuple(result for result in listing.rejected if is_of(result.case, shard)),
        sources={case: path for case, path in listing.sources.items() if is_of(case, shard)},
    )


def tables_folder(output: Path, shard: Shard | None) -> Path:
    """Return where the tables of a run go: into the output folder, or a shard's own."""
    return output / SHARDS / f"{shard[0]}-of-{shard[1]}" if shard else output


def mark_of(listing: Listing, config: SegmentConfig) -> dict[str, Any]:
    """Return what ``run.json`` says of a shard: which it is, of which cases, done how; nothing of a whole run."""
    if config.shard is None:
        return {}
    number, count = config.shard
    wishes = digest_json(config.model_dump(mode="json", include=DECISIVE))
    return {
        "shard": {"number": number, "count": count, "cases": digest_json(sorted(listing.sources)), "wishes": wishes}
    }


class ShardRun(BaseModel):
    """What uniting must know of ``run.json`` of a shard; the rest of it goes along."""

    model_config = ConfigDict(frozen=True, extra="allow")

    shard: dict[str, int | str]
    model: dict[str, str]
    labels: dict[str, Any]
    inference: dict[str, Any]
    versions: dict[str, str]
    started: str
    finished: str
    seconds: float
    cases: dict[str, int]
    done_before: int
    memory_mb: dict[str, float]

    @property
    def settings(self) -> list[Any]:
        """All that makes two runs alike."""
        return [
            self.model.get("digest"),
            self.labels,
            self.inference,
            self.shard.get("wishes"),
            self.versions.get("medseg"),
        ]


def unite_shards(output: Path) -> dict[str, Any]:
    """Write the tables of a whole run from those of its shards, and return what its ``run.json`` says.

    Neither scans nor model nor masks are looked at.

    Raises
    ------
    OutputError
        If there are no shards, one has not ended, they don't belong together, or nothing can be written.
    """
    folders = _find_shards(output)
    runs = [_read_run(folder) for folder in folders]
    _check_alike(folders, runs)
    for name in COMMON:
        if (folders[0] / name).exists():
            with atomic_file(output / name) as path:
                shutil.copyfile(folders[0] / name, path)
        else:
            (output / name).unlink(missing_ok=True)  # an earlier run's
    for name, mode in MERGED.items():
        merge_csv([folder / name for folder in folders], output / name, mode=mode)
    whole = _united(runs)
    write_text(output / RUN, json.dumps(whole, indent=2) + "\n")
    return whole


def _find_shards(output: Path) -> list[Path]:
    """Return the folders of all shards, the first one first; each has ended."""
    found = {}
    for folder in (output / SHARDS).glob("*-of-*"):
        if match := FOLDER_NAME.fullmatch(folder.name):
            found[int(match[1]), int(match[2])] = folder
    counts = sorted({count for _, count in found})
    if not counts:
        raise OutputError(f"{output / SHARDS} has no shards; run medseg segment with --shard first")
    if len(counts) > 1:
        numbers = " and of ".join(map(str, counts))
        raise OutputError(f"{output / SHARDS} has shards of {numbers}; delete the folders of those not wanted")
    wanted = [(number, counts[0]) for number in range(1, counts[0] + 1)]
    lacking = [shard for shard in wanted if shard not in found or not (found[shard] / RUN).exists()]
    if lacking:
        names = ", ".join(f"{number}/{count}" for number, count in lacking)
        raise OutputError(f"{output}: not ended: --shard {names}; repeat the command with it, then this one")
    return [found[shard] for shard in wanted]


def _read_run(folder: Path) -> ShardRun:
    try:
        return ShardRun.model_validate_json((folder / RUN).read_bytes())
    except (OSError, ValidationError):
        raise OutputError(f"{folder / RUN}: not what medseg segment --shard writes; repeat that shard") from None


def _check_alike(folders: Sequence[Path], runs: Sequence[ShardRun]) -> None:
    """Refuse shards of different scans, models or settings: some cases would be done by none, or otherwise."""
    for folder, run in zip(folders, runs, strict=True):
        if run.shard.get("cases") != runs[0].shard.get("cases"):
            raise OutputError(
                f"{folder} and {folders[0]} found different cases: scans came or went in between, or --key differs; "
                "repeat the commands of all shards"
            )
        if run.settings != runs[0].settings:
            raise OutputError(
                f"{folder} and {folders[0]} differ in model, settings or version of medseg; repeat one of them"
            )


def _united(runs: Sequence[ShardRun]) -> dict[str, Any]:
    """Return the record of the whole run: times and counts summed, machines listed by shard."""
    records = [run.model_dump() for run in runs]
    return {
        **{name: value for name, value in records[0].items() if name not in ("shard", *OWN)},
        "started": min(run.started for run in runs),
        "finished": max(run.finished for run in runs),
        "seconds": round(sum(run.seconds for run in runs), 3),
        "cases": {status: sum(run.cases.get(status, 0) for run in runs) for status in STATUSES},
        "done_before": sum(run.done_before for run in runs),
        "memory_mb": highest([run.memory_mb for run in runs]),
        "shards": [{name: record.get(name) for name in OWN} for record in records],
    }
