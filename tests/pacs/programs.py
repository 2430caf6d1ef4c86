"""Programs that the tests start: `medseg listen` as a process of its own, Orthanc, and dcmtk's commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
READY = re.compile(r"listens on \S+, port (\d+)")


class Listening:
    """`medseg listen` as a process."""

    def __init__(self, queue: Path, model: Path, *words: object) -> None:
        command = [
            "listen",
            queue,
            "--model",
            model,
            "--device",
            "cpu",
            "--allow",
            "ORTHANC",
            "--allow",
            "SCANNER",
            *words,
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medseg", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
            text=True,
        )
        self.lines: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := READY.search(line):
                self.port = int(found[1])
                self._ready.set()
        self._ready.set()

    def wait(self) -> Listening:
        assert self._ready.wait(90)
        assert self.port, self.lines
        return self

    def end(self, kill: bool = False) -> int:
        """Kill the process, or ask it to end; returns its exit code."""
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        code = self.process.wait(60)
        self._reader.join(10)
        self.process.stdout.close()
        return code


class Orthanc:
    """A PACS with an empty archive."""

    def __init__(self, folder: Path, dicom_port: int, http_port: int, medseg_port: int) -> None:
        self.dicom_port, self.url = dicom_port, f"http://127.0.0.1:{http_port}"
        settings = {
            "StorageDirectory": str(folder / "archive"),
            "IndexDirectory": str(folder / "archive"),
            "HttpPort": http_port,
            "DicomPort": dicom_port,
            "DicomAet": "ORTHANC",
            "DicomModalities": {
                "medseg": ["MEDSEG", "127.0.0.1", medseg_port],
                "finder": ["FINDSCU", "127.0.0.1", 104],
            },
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            [need("Orthanc"), folder / "orthanc.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < end
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("/system"))
        except URLError:
            return False

    def ask(self, path: str, body: Any = None) -> Any:
        """GET, or POST of JSON; returns the answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60) as answer:
            return json.loads(answer.read())

    def find(self, modality: str) -> list[str]:
        """Return the instances of a modality."""
        return self.ask("/tools/find", {"Level": "Instance", "Query": {"Modality": modality}})

    def fetch(self, instance: str, path: Path) -> Path:
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=60) as answer:
            path.write_bytes(answer.read())
        return path

    def end(self) -> None:
        self.process.kill()  # it takes three seconds to close an archive that nobody needs any more
        self.process.wait(30)


def need(program: str) -> str:
    """Return where a program is, or skip the test."""
    # the system's first: pynetdicom brings commands of dcmtk's names
    path = shutil.which(program, path=f"/usr/bin:/usr/sbin:{os.environ['PATH']}:{Path(sys.executable).parent}")
    if path is None:
        packages = {"Orthanc": "orthanc orthanc-dicomweb", "segimage2itkimage": "dcmqi (pip)"}
        pytest.skip(f"{program} is not installed: apt-get install {packages.get(program, 'dcmtk')}")
    return path


def dcmtk(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run one of dcmtk's commands."""
    return subprocess.run([need(program), *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
