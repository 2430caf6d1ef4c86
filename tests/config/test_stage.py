from __future__ import annotations

import json

import pytest

from medseg.config import load_config
from medseg.errors import ConfigError, PlanError
from medseg.plan import load_plan


@pytest.mark.parametrize(
    "override", ["plan.memory_gb=.inf", "plan.spacing=[.nan, 1, 1]", "augmentation.scaling=[1, .inf]"]
)
def test_numbers_that_are_none_are_refused_by_name(override):
    with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]}.*: Input should be a finite number"):
        load_config(None, [override])


def test_an_edited_plan_holds_finite_numbers(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("spacing: [.nan, 1, 1]")
    with pytest.raises(PlanError, match=r"spacing\.0: Input should be a finite number"):
        load_plan(path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("network", {"features": (4, 0)}, "features and strides must be at least 1"),
        ("network", {"strides": ((1, 1, 1), (2, 0, 2))}, "features and strides must be at least 1"),
        ("network", {"strides": ((1, 1, 1), (2, -2, 2))}, "features and strides must be at least 1"),
        ("network", {"kernels": ((3, 3, 3), (3, 2, 3))}, "kernels must be odd"),
        ("network", {"kernels": ((3, 3, 3), (3, -1, 3))}, "kernels must be odd"),
        ("normalisation", {"low": 240, "high": -160}, "low must not be above high"),
    ],
)
def test_an_edited_plan_is_one_that_a_network_can_be_built_from(small_plan, tmp_path, part, change, message):
    """Each ended in an error from deep inside, and exchanged bounds made a mask of a scan of equal voxels."""
    values = small_plan().model_dump(mode="json")
    (values[part] if part == "network" else values[part][0]).update(change)
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(values))
    with pytest.raises(PlanError, match=message):
        load_plan(path)


def test_a_dataset_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "own.yaml"
    path.write_text("dataset: {folder: ~/my data}")
    assert load_config(path).dataset.folder == tmp_path / "my data"
