"""What one run of the index works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.catalog.entries import Places
from medseg.catalog.memory import Memory
from medseg.catalog.unpack import Archives
from medseg.config import IngestConfig

if TYPE_CHECKING:
    from medseg.catalog.series_rules import SeriesRules


@dataclass(frozen=True, slots=True)
class IndexRun:
    """What one run of the index works with.

    Attributes
    ----------
    places : where a person finds the files.
    key : key file of the pseudonyms; None: the user's own.
    policy : what is done about faults.
    rules : how one series of each study is chosen; None: every sound one is a scan.
    archives : unpacks archives; None: they are left out.
    memory : what the last run read.
    """

    places: Places
    key: Path | None = None
    policy: IngestConfig = field(default_factory=IngestConfig)
    rules: SeriesRules | None = None
    archives: Archives | None = None
    memory: Memory = field(default_factory=Memory)

    def fetch(self, file: Path) -> None:
        """Make sure that a file of an archive is unpacked; raises as `Archives.fetch`."""
        if self.archives is not None:
            self.archives.fetch(file)
