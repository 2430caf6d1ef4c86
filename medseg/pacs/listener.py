"""`medseg listen`: receive, wait until a study is complete, segment, send; nothing that was acknowledged gets lost.

One thread answers callers, one sends, and this one segments; they meet in the folders of the queue alone. When the
process ends, however it does, the next one goes on from these folders.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from time import time

from medseg.batch.faults import place_of
from medseg.catalog.identity import load_key
from medseg.catalog.series_rules import read_series_rules
from medseg.errors import MedsegError
from medseg.io.dicom_headers import quiet_pydicom
from medseg.pacs.journal import Journal, Tell
from medseg.pacs.node import listening
from medseg.pacs.segmenting import Segmenter
from medseg.pacs.sending import Destination, open_destinations
from medseg.pacs.settings import ListenConfig
from medseg.pacs.spool import Spool
from medseg.pacs.study import State, Study

SEGMENT_TRIES = 3
"""How often a study is begun that ends the process, the worker or its disk each time."""

LONGEST_PAUSE = 3600.0
"""Seconds; pauses between tries double up to this."""

TICK = 0.2
"""Seconds between two looks at the queue."""

logger = logging.getLogger(__name__)


def run_listener(config: ListenConfig, tell: Tell, stop: Event, ready: Callable[[int], None] = lambda _: None) -> None:
    """Receive, segment and send until `stop` is set, or an exception such as KeyboardInterrupt comes.

    Parameters
    ----------
    tell : shown each thing that happens, a line without a patient's name or number.
    ready : told the port, once callers are answered.

    Raises
    ------
    ConfigError, ModelError, OutputError
        If queue, model, port, destinations or TLS files can't be used.
    """
    key = load_key(config.segment.key)
    with _quiet_libraries():
        destinations = open_destinations(config)
        if config.segment.series_rule:
            read_series_rules(config.segment.series_rule)  # what is wrong with them is told now, not at the first study
        spool = Spool(config.queue, key, config.limits)
        try:
            journal = Journal(config.queue, tell)
            work = Work(config, spool, journal, destinations)
            with Segmenter(config, spool.work) as segmenter:
                work.recover()
                with listening(config, spool, journal) as port, work.sending():
                    ready(port)
                    while not stop.wait(TICK):
                        work.surely(partial(work.step, segmenter, stop), stop)
        finally:
            spool.close()


@dataclass(frozen=True, slots=True)
class Work:
    """The steps that studies take."""

    config: ListenConfig
    spool: Spool
    journal: Journal
    destinations: tuple[Destination, ...]

    def recover(self) -> None:
        """Take up what another process left: a study that was being segmented is segmented again."""
        self._take_back()
        if self.config.retry_failed:
            for study in self.spool.listed("failed"):
                again: State = study.record.failed_in or "complete"
                study.note(tries=0, next_try=0.0, reason="", message="", failed_in="", ended=0.0)
                self.spool.move(study, again)
        states: tuple[State, ...] = ("complete", "sending")
        for state in states:
            waiting = self.spool.listed(state)
            for study in waiting:
                study.note(next_try=0.0)  # whoever starts the node again may have mended what was in the way
            if waiting:
                self.journal.write("recovered", f"{len(waiting)} studies wait, {state} in an earlier run", state=state)

    def surely(self, step: Callable[[], None], stop: Event) -> None:
        """Do a step; if the disk lets it down, tell so and wait: room may be made, and nothing is lost meanwhile."""
        try:
            step()
        except (MedsegError, OSError) as error:
            logger.debug("step", exc_info=error)
            message = str(error) if isinstance(error, MedsegError) else error.strerror or type(error).__name__
            self.journal.write("halted", f"the queue can't be worked on for now: {message}", reason=message)
            stop.wait(self.config.retry_seconds)

    def step(self, segmenter: Segmenter, stop: Event) -> None:
        """Do once what is to be done, except sending."""
        self._take_back()  # where the disk was full, the last step may have left a study behind
        for study in self.spool.complete(self.config.quiet_seconds):
            count = len(list(study.scans.iterdir()))
            self.journal.write(
                "complete", f"{study.name} is complete, {count} instances", study=study.name, instances=count
            )
        for study in self.spool.listed("complete"):
            if stop.is_set():
                return
            if study.is_due():
                self.segment(segmenter, study)
                break  # others may have become complete, or have grown, meanwhile
        keep: dict[State, float] = {"done": self.config.keep_hours, "failed": self.config.keep_failed_hours}
        for state, hours in keep.items():
            for study in self.spool.expired(state, hours):
                self.journal.write(
                    "removed", f"{study.name} was removed, {state} long ago", study=study.name, state=state
                )

    # ---- segmenting

    def _take_back(self) -> None:
        """Let a study wait again that was begun and is in nobody's hands."""
        for study in self.spool.listed("segmenting"):
            self.spool.move(study, "complete")

    def segment(self, segmenter: Segmenter, study: Study) -> None:
        """Segment a study; it is tried again where the fault may pass."""
        tries = study.record.tries + 1
        if tries > SEGMENT_TRIES:
            self.fail(study, "complete", "CRASHED", f"it was begun {SEGMENT_TRIES} times and never ended")
            return
        study.note(tries=tries)
        study = self.spool.move(study, "segmenting")
        try:
            record = segmenter.segment(study, is_last_try=tries >= SEGMENT_TRIES)
        except Exception as error:
            self._put_back(study, tries, error)
            return
        except BaseException:  # somebody stopped the node: no fault of the study
            study.note(tries=tries - 1)
            raise
        self.spool.measure()
        if record.send:
            self.spool.move(study, "sending")
            problems = f", {len(record.problems)} problems" if record.problems else ""
            self._tell(study, "segmented", f"{len(record.send)} results{problems}")
        elif record.failed_in:
            self.fail(study, record.failed_in, record.reason, record.message)
        else:
            self.spool.end(study, "done")
            self._tell(study, "done", f"nothing to send: {record.message}", reason=record.reason)

    def _put_back(self, study: Study, tries: int, error: Exception) -> None:
        logger.debug("segmenting", exc_info=error)
        message = _sentence(error)
        reason = type(error).__name__
        if tries >= SEGMENT_TRIES:
            self.fail(study, "complete", reason, message)
            return
        study.note(next_try=time() + self._pause(tries))
        self.spool.move(study, "complete")
        self._tell(study, "postponed", f"segmenting it failed, it will be tried again: {message}", reason=reason)

    # ---- sending

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send in a thread of its own as long as the block lasts."""
        stop = Event()

        def work() -> None:
            while not stop.wait(TICK):
                for study in self.spool.listed("sending"):
                    if stop.is_set():
                        return
                    if study.is_due():
                        self.surely(partial(self.send, study), stop)

        thread = Thread(target=work, name="medseg-sending", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(self.config.limits.idle_seconds)

    def send(self, study: Study) -> None:
        """Send a study's results to each destination that lacks them; what fails is tried again, with longer pauses."""
        record = study.record
        if not record.send:
            self.spool.move(study, "complete")
            self._tell(study, "recovered", "what is to be sent is not known any more, it is segmented again")
            return
        failures = []
        for destination in self.destinations:
            if destination.name not in record.sent:
                try:
                    destination.send([study.results / name for name in record.send])
                except Exception as error:  # the others may take them all the same
                    failures.append(error)
                else:
                    record = study.note(sent=(*record.sent, destination.name))
        if failures:
            self._postpone(study, record.tries + 1, failures[0])
            return
        self.spool.end(study, "done")
        self._tell(study, "done", f"{len(record.send)} results sent", results=len(record.send))

    def _postpone(self, study: Study, tries: int, error: Exception) -> None:
        logger.debug("sending", exc_info=error)
        message = _sentence(error)
        if tries >= self.config.send_tries:
            self.fail(study, "sending", "NOT_SENT", message)
            return
        study.note(tries=tries, next_try=time() + self._pause(tries), message=message)
        self._tell(study, "not sent", f"will be tried again: {message}", tries=tries)

    # ---- both

    def fail(self, study: Study, failed_in: State, reason: str, message: str) -> None:
        """Bring a study to where failures are kept, with the reason."""
        self.spool.end(study, "failed", reason=reason, message=message, failed_in=failed_in)
        self._tell(study, "failed", f"{reason}: {message}", reason=reason)

    def _pause(self, tries: int) -> float:
        return min(self.config.retry_seconds * 2.0 ** (tries - 1), LONGEST_PAUSE)

    def _tell(self, study: Study, event: str, sentence: str, **details: object) -> None:
        self.journal.write(event, f"{study.name} {event}: {sentence}", study=study.name, **details)


def _sentence(error: Exception) -> str:
    """Return what went wrong; of an unexpected error type and place alone, because its text could quote a header."""
    return str(error) if isinstance(error, MedsegError) else f"unexpected error, {place_of(error)}"


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep warnings and tracebacks of libraries off the screen: they quote headers. `--debug` shows them."""

    def told(arguments: threading.ExceptHookArgs) -> None:
        logger.debug("thread", exc_info=arguments.exc_value)

    before, threading.excepthook = threading.excepthook, told
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet_pydicom()
            yield
    finally:
        threading.excepthook = before
