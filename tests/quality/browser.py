"""Chromium without a window, driven over its debugging pipe: no driver, no further package."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HIGH = 20
"""File descriptors from here on, so that the numbers 3 and 4 that Chromium wants are free."""


MOVED = "navigated or closed"
"""What Chromium says of a script whose page gave way to another one meanwhile."""


class PageMoved(Exception):
    """The page gave way to another one before it answered."""


class Browser:
    """One page. Requests, script errors and console messages are kept as they come."""

    def __init__(self, profile: Path, *more_flags: str) -> None:
        to_browser, from_browser = self._pipes()
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", *more_flags, "about:blank",
        ]  # fmt: skip
        redirected = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", CHROMIUM, *flags],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self.to_browser, self.from_browser = to_browser[1], from_browser[0]
        self.buffer, self.number, self.session = b"", 0, None
        self.requests: list[str] = []
        self.problems: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    @staticmethod
    def _pipes() -> list[tuple[int, int]]:
        pairs = []
        for _ in range(2):
            low = os.pipe()
            pairs.append(tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, HIGH) for end in low))
            for end in low:
                os.close(end)
        return pairs

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if MOVED in answer.get("error", {}).get("message", ""):
                    raise PageMoved
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def receive(self, seconds: float = 60) -> dict[str, Any]:
        """Return the next message, and note what it says of requests and errors."""
        until = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, until - time.monotonic()))
            assert ready, "Chromium doesn't answer"
            received = os.read(self.from_browser, 1 << 20)
            assert received, "Chromium has ended"
            self.buffer += received
        message, _, self.buffer = self.buffer.partition(b"\0")
        answer = json.loads(message)
        self._note(answer)
        return answer

    def _note(self, answer: dict[str, Any]) -> None:
        parameters = answer.get("params", {})
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.problems.append(json.dumps(parameters))

    def open(self, page: Path) -> None:
        """Load a file and wait until it is there."""
        self.send("Page.navigate", url=page.as_uri())
        wait_until(self, "document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def close(self) -> None:
        os.close(self.to_browser)
        self.process.terminate()
        self.process.wait(20)
        os.close(self.from_browser)


NAMES = "[...document.querySelectorAll('#cases > details')].filter(r => !r.hidden).map(r => r.dataset.name)"
"""Script: the names of the rows that a page of medseg shows, in order."""


def choose(browser: Browser, selector: str, value: str, event: str) -> None:
    """Set a field of the page as a person would."""
    browser.run(
        f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('{event}')); }})"
        f"(document.querySelector('{selector}'))"
    )


def wait_until(browser: Browser, condition: str, seconds: float = 20) -> None:
    """Wait until a condition holds in the page, which may be on its way to another one."""
    until = time.monotonic() + seconds
    while True:
        with suppress(PageMoved):
            if browser.run(condition):
                return
        assert time.monotonic() < until, condition
        time.sleep(0.05)
