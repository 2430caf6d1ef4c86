"""Read every hostile folder with medseg and with the libraries that others use, and judge what came out.

    pip install itk dcm2niix dicom2nifti         (into an environment that has medseg; optional)
    python benchmarks/ingest/compare.py

Writes `results.json` and the tables of `results.md` beside this file. Each reader has a process of its
own: some crash.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import warnings
from collections import Counter
from datetime import datetime, timezone
from math import isfinite
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "sample_data" / "hostile"))
from make_hostile import PITFALLS
from pitfalls.judge import judge
from pitfalls.registry import Truth
from readers import DICOM_READERS, NIFTI_READERS, Reader, missing, preload, versions

CONTEXT = multiprocessing.get_context("fork")
PATIENCE_SECONDS = 120
MEMORY_BYTES = 8 << 30
HERE = Path(__file__).parent
SIGNS = {"right": "✓", "part": "◐", "refused": "–"}


def main() -> None:
    """Read, judge, write the tables."""
    warnings.simplefilter("ignore")
    absent = {name: lacks for name in (*DICOM_READERS, *NIFTI_READERS) if (lacks := missing(name))}
    for name, lacks in absent.items():
        print(f"{name} is left out: {', '.join(lacks)} missing")
    preload()
    dicom = {name: Apart(reader) for name, reader in DICOM_READERS.items() if name not in absent}
    nifti = {name: Apart(reader) for name, reader in NIFTI_READERS.items() if name not in absent}
    results: dict[str, dict[str, dict]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, pitfall in PITFALLS.items():
            folder = Path(scratch) / name
            folder.mkdir()
            truths = pitfall.write(folder)
            readers = nifti if name.startswith("nifti_") else dicom
            results[name] = {each: reader.judge(folder, truths) for each, reader in readers.items()}
            print(name, {each: row["verdict"] for each, row in results[name].items()}, flush=True)
    record = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "python": platform.python_version(),
        "versions": versions(), "results": results,
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (HERE / "results.md").write_text(page(record))


class Apart:
    """A reader in a process of its own, which is started again when it crashes or hangs."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.start()

    def start(self) -> None:
        self.pipe, other = CONTEXT.Pipe()
        self.child = CONTEXT.Process(target=serve, args=(self.reader, other), daemon=True)
        self.child.start()
        other.close()

    def judge(self, folder: Path, truths: list[Truth]) -> dict:
        """Return the verdict about a folder; a crash or a hang counts as refused."""
        self.pipe.send(folder)
        try:
            answer = self.pipe.recv() if self.pipe.poll(PATIENCE_SECONDS) else "hangs"
        except EOFError:
            answer = "crashes"
        if answer in ("hangs", "crashes"):
            self.child.kill()
            self.child.join()
            self.start()
        if isinstance(answer, str):
            return {"verdict": "refused", "how": answer}
        verdict = judge(answer, truths)
        return {"verdict": verdict.word, "error_hu": round(verdict.error, 3) if isfinite(verdict.error) else None}


def serve(reader: Reader, pipe: Connection) -> None:
    """Answer each folder with its volumes, or with what was raised."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while True:
        folder = pipe.recv()
        try:
            answer = reader(folder)
        except Exception as error:
            answer = type(error).__name__
        pipe.send(answer)


def page(record: dict) -> str:
    """Return the tables as Markdown."""
    used = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    groups = {
        "DICOM, the studied folders": [name for name, each in PITFALLS.items() if each.studied],
        "DICOM, further folders": [
            name for name, each in PITFALLS.items() if not each.studied and not name.startswith("nifti_")
        ],
        "NIfTI": [name for name in PITFALLS if name.startswith("nifti_")],
    }
    parts = [
        "# Who reads hostile folders right",
        f"Written by `compare.py` on {record['date']} with Python {record['python']}, {used}.",
        "✓ every volume, whole, right to the voxel · ◐ nothing false, but volumes cut, left out or added · "
        "✗ silently wrong, with the largest error in HU (1 mm along x, y, z is 2, 3, 5) · – refused, crashed or hung.",
    ]
    for title, names in groups.items():
        parts += [f"## {title}: {len(names)}", totals(record["results"], names), details(record["results"], names)]
    return "\n\n".join(parts) + "\n"


def totals(results: dict, names: list[str]) -> str:
    """Return how often each reader was right."""
    rows = ["| reader | right | part | silently wrong | refused |", "| --- | --- | --- | --- | --- |"]
    for reader in results[names[0]]:
        counts = Counter(results[name][reader]["verdict"] for name in names)
        wrong = f"**{counts['wrong']}**"
        rows.append(f"| {reader} | {counts['right']} | {counts['part']} | {wrong} | {counts['refused']} |")
    return "\n".join(rows)


def details(results: dict, names: list[str]) -> str:
    """Return what each reader made of each folder."""
    readers = list(results[names[0]])
    rows = ["| folder | " + " | ".join(readers) + " |", "| --- |" + " --- |" * len(readers)]
    for name in names:
        cells = " | ".join(sign(results[name][reader]) for reader in readers)
        rows.append(f"| {name.removeprefix('nifti_').replace('_', ' ')}: {PITFALLS[name].wrong} | {cells} |")
    return "\n".join(rows)


def sign(result: dict) -> str:
    """Return a verdict as a sign."""
    error = result.get("error_hu")
    return SIGNS.get(result["verdict"]) or ("✗ ∞" if error is None else f"✗ {error:.3g}")


if __name__ == "__main__":
    main()
