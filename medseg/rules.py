"""What is done to a predicted mask after the network: the rules, as data that travel in the model.

`medseg.postprocessing` applies and chooses them. They lie on the ground floor because the model
folder stores them.
"""

from __future__ import annotations

from pydantic import Field

from medseg.records import Record


class StructureRule(Record):
    """Clean-up of one structure, in this order: largest component, smallest volume, holes."""

    keep_largest: bool = Field(False, description="Keep only the largest connected component")
    min_ml: float = Field(0.0, ge=0, description="Remove connected components smaller than this, ml")
    fill_holes: bool = Field(False, description="Fill background that the structure encloses; never another label")

    @property
    def is_active(self) -> bool:
        """Whether the rule changes anything at all."""
        return self.keep_largest or self.min_ml > 0 or self.fill_holes

    def describe(self) -> str:
        """Return the rule in words, such as 'largest component, holes filled'."""
        parts = [
            "largest component" if self.keep_largest else "",
            f"components of at least {self.min_ml:g} ml" if self.min_ml > 0 else "",
            "holes filled" if self.fill_holes else "",
        ]
        return ", ".join(part for part in parts if part) or "unchanged"


class PostprocessingRules(Record):
    """The rules of a model, by the name of the label or region they act on.

    Examples
    --------
    >>> rules = PostprocessingRules(structures={"liver": StructureRule(keep_largest=True)})
    >>> rules.structures["liver"].describe()
    'largest component'
    """

    structures: dict[str, StructureRule] = Field(
        default_factory=dict, description="Rule of each structure; a structure that is not named stays unchanged"
    )
