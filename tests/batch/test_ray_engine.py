"""Ray as the engine: what a case does to its actor costs only itself, and the output is that of processes.

The cluster is a real one on this machine; what the actors run instead of a network is in ``faulty.py``.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from medseg.batch.ray_engine import Actors, connected, plan_actors
from medseg.batch.segment_folder import segment_folder
from medseg.config import SegmentConfig, make_segment_config
from medseg.errors import ConfigError

from .conftest import write_scan
from .test_resume import contents

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own

GPU_NODE = {"CPU": 64.0, "GPU": 8.0}
CPU_NODE = {"CPU": 16.0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray cluster on this machine, whose workers find ``faulty.py``."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed; pip install 'medseg[ray]'")
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.syspath_prepend(str(Path(__file__).parent))
    patch.chdir(tmp_path_factory.mktemp("here"))
    with connected(None) as ray:
        yield ray
    patch.undo()


def test_a_killed_or_hanging_actor_costs_the_culprit_alone(cluster, tmp_path):
    for name in ("a", "b", "c", "kill_infer_once", "hang_infer"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", -1)
    summaries = {}
    for engine in ("ray", "processes"):
        config = SegmentConfig(engine=engine, case_timeout=1, workers=1)
        summaries[engine] = segment_folder(
            tmp_path / "scans", Path("m"), tmp_path / engine / "out", config, picture="faulty:draw"
        )
    results = {result.case: result for result in summaries["ray"].results}
    assert results.pop("hang_infer").reason == "TIMEOUT"
    assert all(result.is_done for result in results.values())
    assert results["kill_infer_once"].record.attempts == 2
    assert contents(tmp_path / "ray" / "out") == contents(tmp_path / "processes" / "out")
    assert not list((tmp_path / "ray" / "out" / "cases").glob(".*"))


def test_a_case_that_ends_its_actor_twice_is_named(cluster, tmp_path):
    write_scan(tmp_path / "scans" / "segv_read.nii.gz", -1)
    config = SegmentConfig(engine="ray")
    (result,) = segment_folder(tmp_path / "scans", Path("m"), tmp_path / "out", config, picture="faulty:draw").results
    assert (result.status, result.reason) == ("crashed", "ACTOR_DIED")
    assert "segv_read: the worker process ended (ACTOR_DIED) while reading it" in result.message


def test_the_cluster_reports_to_nobody_and_lets_nobody_in(cluster):
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_actors_look_for_no_module_among_the_scans(cluster):
    path, folder = cluster.get(cluster.remote(lambda: (sys.path, os.getcwd())).remote())
    assert os.getcwd() not in {*path, folder}


@pytest.mark.parametrize(
    ("nodes", "config", "actors"),
    [
        ([GPU_NODE, GPU_NODE], {}, Actors(16, 8, 8, 1)),
        ([GPU_NODE, CPU_NODE], {}, Actors(8, 8, 8, 1)),
        ([GPU_NODE, GPU_NODE], {"workers": 2}, Actors(2, 1, 64, 1)),
        ([GPU_NODE, CPU_NODE], {"device": "cpu"}, Actors(2, 1, 16, 0)),
        ([CPU_NODE], {"workers": 4}, Actors(4, 4, 4, 0)),
        ([{"CPU": 2.0}, {"memory": 1e9}], {}, Actors(1, 1, 2, 0)),
        ([GPU_NODE, {"CPU": 16.0, "GPU": 1.0}], {}, Actors(9, 8, 8, 1)),
        ([{"CPU": 4.0, "GPU": 8.0}], {}, Actors(4, 4, 1, 1)),
        ([{"CPU": 2.0}, {"CPU": 64.0}], {"workers": 10}, Actors(10, 8, 1, 0)),
    ],
)
def test_actors_fill_the_cluster(nodes, config, actors):
    assert plan_actors(nodes, SegmentConfig(**config)) == actors
    fitting = [node.get("CPU", 0) // actors.cores for node in nodes]
    if actors.gpus:
        fitting = [min(free, node.get("GPU", 0)) for free, node in zip(fitting, nodes, strict=True)]
    assert sum(fitting) >= actors.count, "one without room would wait for ever"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"device": "cuda:1"}, "write auto, cpu or cuda"),
        ({"device": "cuda"}, "the Ray cluster has no GPU"),
        ({"workers": 17}, "17 workers: the Ray cluster has 16 CPUs; write --workers 16 or fewer"),
    ],
)
def test_what_the_cluster_has_not_is_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        plan_actors([CPU_NODE], SegmentConfig(**config))


def test_without_ray_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")
    write_scan(tmp_path / "scans" / "a.nii.gz")
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'medseg\[ray\]'"):
        segment_folder(tmp_path / "scans", Path("m"), tmp_path / "out", SegmentConfig(engine="ray"))


def test_no_workers_on_a_cluster_are_refused():
    with pytest.raises(ConfigError, match="workers 0 means all in this process"):
        make_segment_config(engine="ray", workers=0)
