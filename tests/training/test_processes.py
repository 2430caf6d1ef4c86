from __future__ import annotations

from datetime import timedelta

from medseg.config import ExperimentConfig
from medseg.training import processes


def test_processes_wait_for_the_first_one_longer_than_it_takes_to_prepare_a_dataset(monkeypatch):
    told = {}

    class Recorder:
        def __init__(self, **settings):
            told.update(settings)

        def launch(self):
            pass

    monkeypatch.setattr(processes, "Fabric", Recorder)
    monkeypatch.setattr(processes, "DDPStrategy", dict)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes.launch("cpu", ExperimentConfig())
    assert told["num_nodes"] == 2
    assert told["devices"] == 2
    assert told["strategy"]["timeout"] > timedelta(days=1)
