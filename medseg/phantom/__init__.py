"""Synthetic CT of the abdomen: bodies that exist in space, and scanners that sample them.

`torso`, `organs` and `lesions` draw an anatomy from a seed; `body` answers "what is at this point (mm)?";
`acquisition` samples a body on any grid with partial volume, blur and noise; `dataset` writes the sample data.
"""
