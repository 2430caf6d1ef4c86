"""From a dataset to a plan: look at every case once, then decide what the network sees and how deep it is."""

from medseg.planning.checks import Finding, check_training_data, check_unstated, refuse_errors
from medseg.planning.examine import fingerprint_cases
from medseg.planning.fingerprint import Fingerprint, load_fingerprint, save_fingerprint
from medseg.planning.planner import describe_plan, plan_dataset

__all__ = [
    "Finding",
    "Fingerprint",
    "check_training_data",
    "check_unstated",
    "describe_plan",
    "fingerprint_cases",
    "load_fingerprint",
    "plan_dataset",
    "refuse_errors",
    "save_fingerprint",
]
