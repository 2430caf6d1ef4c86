"""What is done to a predicted mask after the network, and how that is chosen."""

from medseg.postprocessing.choice import RulesChoice, RuleTrial, choose_rules
from medseg.postprocessing.clean import apply

__all__ = ["apply", "choose_rules", "RulesChoice", "RuleTrial"]
