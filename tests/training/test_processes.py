from __future__ import annotations

from datetime import timedelta

import pytest

from medseg.config import ExperimentConfig
from medseg.errors import ConfigError
from medseg.pseudo.rounds import self_train
from medseg.review.round import review_round
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


def test_what_one_process_does_is_refused_under_torchrun(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"self-training .* one process, and torchrun started 2"):
        self_train(ExperimentConfig(), tmp_path / "out")
    with pytest.raises(ConfigError, match="start it without torchrun"):
        review_round(tmp_path, ExperimentConfig(), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
