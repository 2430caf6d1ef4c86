"""Ray as the engine: each worker is an actor on a cluster, with a GPU of its own where the cluster has some.

The supervisor is that of worker processes (`medseg.batch.processes`): it hands an actor a few cases, ends one
that hangs, and repeats the cases of one that died, each alone. Actors read scans and write results themselves, so
scans, model and output must have the same paths on all nodes.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from medseg.batch.child import Child, Crew, Heard, stop_children
from medseg.batch.job import Job
from medseg.batch.processes import Processes
from medseg.batch.ray_worker import CALLS, RayWorker
from medseg.config import SegmentConfig
from medseg.errors import ConfigError, WorkerError
from medseg.provenance import usable_cores

ADDRESS = "RAY_ADDRESS"
LOCAL = "local"

STORE_BYTES = 100 << 20
"""Memory of a local cluster's object store, near the least that Ray takes: nothing is put there."""

EXIT_SECONDS = 30.0
"""Time after which an actor that was ended is not waited for: its node may be gone."""


@dataclass(frozen=True, slots=True)
class Actors:
    """How many actors there are to be, and what each takes.

    Attributes
    ----------
    on_node : how many share a machine, at most, where they are spread as evenly as they fit.
    cores, gpus : of each.
    """

    count: int
    on_node: int
    cores: int
    gpus: int


@contextmanager
def open_ray(job: Job) -> Iterator[Processes]:
    """Give an engine on a Ray cluster; its actors, and a cluster begun for it, end when the block ends.

    Raises
    ------
    ConfigError
        If Ray is not installed, or the cluster has not what the configuration wants.
    WorkerError
        If the cluster can't be reached.
    """
    with connected(job.config.ray_address, shows_logs=job.debug) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        actors = plan_actors(nodes, job.config)
        config = job.config.model_copy(update={"workers": actors.count})
        crew = RayCrew(job.model_copy(update={"config": config, "workers": actors.on_node}), actors=actors)
        try:
            for number in range(actors.count):
                crew.start(number)
            yield Processes(crew)
        finally:
            stop_children(crew)


@contextmanager
def connected(address: str | None, *, shows_logs: bool = False) -> Iterator[Any]:
    """Give the module of Ray, connected to a cluster: the caller's if there is one, else for the time of the block.

    Raises
    ------
    ConfigError
        If Ray is not installed.
    WorkerError
        If the cluster can't be reached.
    """
    place = address or os.environ.get(ADDRESS) or LOCAL
    ray = _import_ray(place)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": place, "log_to_driver": shows_logs, "logging_level": "ERROR"}
    if place == LOCAL:
        options |= {"num_cpus": usable_cores(), "object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        with _away_from_scans():
            ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise WorkerError(f"no Ray cluster at {place} ({type(error).__name__}); check --ray-address") from None
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _away_from_scans() -> Iterator[None]:
    """Work in a folder of Python's own: Ray lets its workers look for modules in the one that it is begun from."""
    before = Path.cwd()
    os.chdir(sys.prefix)
    try:
        yield
    finally:
        os.chdir(before)


def _import_ray(place: str) -> Any:
    """Return the module, told before it is loaded to report to nobody and to let nobody else into a local cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a local cluster; by default all else would go first
    if place == LOCAL and "ray" not in sys.modules:
        # its ports run code for whoever reaches them; Ray's own token would lie in a file that others may read
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise ConfigError("engine ray: Ray is not installed; pip install 'medseg[ray]'") from None
    return ray


def plan_actors(nodes: Sequence[dict[str, float]], config: SegmentConfig) -> Actors:
    """Return which actors to start: by default one a GPU or, where there is none, one a machine.

    Parameters
    ----------
    nodes : "CPU" and "GPU" of each machine.

    Raises
    ------
    ConfigError
        If the cluster has not so much, or a certain GPU is wanted, which Ray hands out itself.
    """
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {config.device!r}: Ray hands out the GPUs itself; write auto, cpu or cuda")
    if config.device == "cuda" and not any(node.get("GPU", 0) >= 1 for node in nodes):
        raise ConfigError("device 'cuda' was asked for, but the Ray cluster has no GPU; use auto or cpu")
    useful = [node for node in nodes if node.get("CPU", 0) >= 1]
    with_gpus = [node for node in useful if node.get("GPU", 0) >= 1 and config.device != "cpu"]
    places, kind = (with_gpus, "GPU") if with_gpus else (useful, "CPU")
    room = [int(min(node[kind], node["CPU"])) for node in places]  # an actor takes a core at least
    most = sum(room)
    count = config.workers or (most if with_gpus else len(places))
    if not 0 < count <= most:
        raise ConfigError(f"{count} workers: the Ray cluster has {most} {kind}s; write --workers {most} or fewer")
    on_node = next(share for share in range(1, count + 1) if sum(min(share, free) for free in room) >= count)
    cores = min(int(node["CPU"]) // min(on_node, free) for node, free in zip(places, room, strict=True))
    return Actors(count, on_node, cores, gpus=1 if with_gpus else 0)


class RayChild:
    """One actor as the supervisor sees it.

    Parameters
    ----------
    job : what it is told first.
    actors : what it takes.
    inbox : where its lines go.
    """

    def __init__(self, job: Job, actors: Actors, inbox: SimpleQueue[Heard]) -> None:
        import ray

        self.job = job
        self._ray = ray
        self._ending = ""
        self._has_ended = Event()
        wanted = {"num_cpus": actors.cores, "num_gpus": actors.gpus, "max_concurrency": CALLS}
        kind = ray.remote(max_restarts=0, max_task_retries=0, **wanted)(RayWorker)  # the supervisor repeats cases
        self._actor = kind.remote(job.to_line(), actors.cores, sys.path)
        Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def send(self, line: bytes) -> None:
        """Give the actor a line to read."""
        self._actor.send.remote(line)

    def kill(self) -> None:
        """End the actor at once, whatever it does."""
        with suppress(self._ray.exceptions.RayError):  # it may be gone already
            self._ray.kill(self._actor)

    def ending(self) -> str:
        """Wait for the end of the actor and return how Ray calls it, such as "ACTOR_DIED"."""
        return self._ending if self._has_ended.wait(EXIT_SECONDS) else "STUCK"

    def _listen(self, inbox: SimpleQueue[Heard]) -> None:
        try:
            while not self._ending:
                for line in self._ray.get(self._actor.hear.remote()):
                    if line:
                        inbox.put((self, line))
                    else:
                        self._ending = "EXIT"
        except self._ray.exceptions.RayError as error:
            self._ending = _code_of(error)
        self.kill()  # one that can't be reached may still be there
        self._has_ended.set()
        inbox.put((self, b""))


@dataclass(slots=True, kw_only=True)
class RayCrew(Crew):
    """The actors at work."""

    actors: Actors

    def start(self, number: int) -> Child:
        """Start the actor of this number; it waits until the cluster has room."""
        child = RayChild(self.job.model_copy(update={"number": number}), self.actors, self.inbox)
        self.children.append(child)
        return child


def _code_of(error: Exception) -> str:
    """Return the kind of an error as a code.

    Examples
    --------
    >>> class ActorDiedError(Exception): pass
    >>> _code_of(ActorDiedError())
    'ACTOR_DIED'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).upper()
