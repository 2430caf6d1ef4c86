"""From a fingerprint and a few wishes to a plan, with the reason for each choice.

The rules are nnU-Net's; where medseg differs:

* axes stay in RAS order, the coarse axis is named (`Plan.slice_axis`) instead of moved to the front;
* among axes of about equal spacing, 2D slices are axial, as radiologists read them, and single slices are the slices;
* in 2D the distance of slices stays the median, since a finer one would only invent slices;
* the batch is rounded down, never up: a plan stays within its memory budget;
* mirroring across x is off when labels say left or right;
* a wished patch is made to fit the network by enlarging it, never by cutting it.

Notes
-----
Isensee et al., Nature Methods 2021, supplement E; constants from nnunetv2 2.8.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medseg.config import NetworkConfig, PlanConfig
from medseg.errors import PlanError
from medseg.labels import LabelMap
from medseg.plan import Plan
from medseg.planning.choices import SET, choose_mirror, choose_normalisation, choose_slice_axis, choose_spacing
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.patch import Frame, PatchSearch
from medseg.planning.topology import MIN_EDGE, SIMILAR_SPACING, SWIN_MULTIPLE, Architect, Design
from medseg.text import shown_sizes


class Line(NamedTuple):
    """One line of a plan's description: a field, its value and why it is so."""

    field: str
    value: str
    reason: str


def plan_dataset(
    fingerprint: Fingerprint,
    plan: PlanConfig,
    network: NetworkConfig,
    labels: LabelMap,
    channels: Sequence[str],
    modalities: Sequence[str],
) -> Plan:
    """Decide on the network's grid, patch, batch, normalisation and topology.

    Parameters
    ----------
    fingerprint : of the training cases alone, so that nothing is learnt from held-out ones.
    plan, network : wishes; what they leave open follows from the fingerprint.
    labels : what is to be learnt.
    channels, modalities : name and kind ("ct", "mr" or "other") of each input channel.

    Raises
    ------
    PlanError
        If a wish is impossible, or nothing fits the memory.
    """
    _check_channels(fingerprint, channels, modalities)
    spacing, spacing_reason = choose_spacing(fingerprint, plan)
    slice_axis, axis_reason = choose_slice_axis(fingerprint, spacing)
    frame = Frame(spacing, slice_axis, fingerprint.median_content_shape(spacing), len(fingerprint.cases))
    architect = Architect(network, spacing, frame.axes(plan.dimensions), len(channels))
    search = PatchSearch(plan, frame, architect, labels.outputs)
    design, patch_reason = search.choose_patch()
    batch, batch_reason = search.choose_batch(design)
    normalisation, normalisation_reason = choose_normalisation(fingerprint, channels, modalities)
    mirror, mirror_reason = choose_mirror(plan, labels)
    return Plan(
        dimensions=plan.dimensions,
        spacing=spacing,
        slice_axis=slice_axis,
        patch=design.patch,
        batch=batch,
        channels=tuple(channels),
        normalisation=normalisation,
        mirror=mirror,
        network=design.network,
        reasons={
            "dimensions": SET,
            "spacing": spacing_reason,
            "slice_axis": axis_reason,
            "patch": patch_reason,
            "batch": batch_reason,
            "channels": "as the dataset names them",
            "normalisation": normalisation_reason,
            "mirror": mirror_reason,
            "network": _explain_network(design, network),
        },
    )


def describe_plan(plan: Plan) -> list[Line]:
    """Return the plan as lines for a person: field, value, reason."""
    return [Line(field, value, plan.reasons.get(field, "")) for field, value in _values(plan).items()]


def _values(plan: Plan) -> dict[str, str]:
    network = plan.network
    stages = f"{len(network.features)} stages of {', '.join(map(str, network.features))} features"
    return {
        "dimensions": f"{plan.dimensions}D",
        "spacing": f"{shown_sizes(plan.spacing, '.6g')} mm",
        "slice_axis": "xyz"[plan.slice_axis],
        "patch": f"{shown_sizes(plan.patch)} voxels",
        "batch": str(plan.batch),
        "channels": ", ".join(plan.channels),
        "normalisation": ", ".join(channel.kind for channel in plan.normalisation),
        "mirror": ", ".join(axis for axis, on in zip("xyz", plan.mirror, strict=True) if on) or "none",
        "network": f"{network.name}, {stages}",
    }


def _explain_network(design: Design, wishes: NetworkConfig) -> str:
    network = design.network
    if network.name == "unet":
        smallest = shown_sizes([size // d for size, d in zip(design.patch, network.divisor, strict=True)])
        return (
            f"axes are halved while {MIN_EDGE} voxels remain and their spacing is within a factor of "
            f"{SIMILAR_SPACING:g} of the finest, down to {smallest} voxels; features double from {wishes.features} "
            f"up to {wishes.max_features}"
        )
    reason = (
        f"{network.name} always has {len(network.strides)} stages, so sizes are multiples of {max(network.divisor)}"
    )
    if network.features[0] == wishes.features:
        return reason
    if network.name == "vnet":
        return f"{reason}; its {network.features[0]} features are fixed"
    return f"{reason}; {wishes.features} features became {network.features[0]}, a multiple of {SWIN_MULTIPLE}"


def _check_channels(fingerprint: Fingerprint, channels: Sequence[str], modalities: Sequence[str]) -> None:
    odd = [case for case in fingerprint.cases if case.channels != len(channels)]
    if odd:
        raise PlanError(f"{odd[0].id} has {odd[0].channels} channels, the dataset names {len(channels)}")
    if len(modalities) != len(channels):
        raise PlanError(f"{len(channels)} channels need as many modalities, not {len(modalities)}")
