from __future__ import annotations

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


def test_a_dataset_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "own.yaml"
    path.write_text("dataset: {folder: ~/my data}")
    assert load_config(path).dataset.folder == tmp_path / "my data"
