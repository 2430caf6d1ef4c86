"""MONAI's networks behind medseg's contract.

Imported only when one of them is asked for: ``import monai`` takes 2 to 3 seconds. Each builder checks
what its architecture asks of the patch, because MONAI answers a wrong size with an error from deep
inside a layer, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.vnet import VNet
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.networks.base import SegmentationNetwork
from medseg.outputs import NetworkOutput
from medseg.plan import Plan
from medseg.text import shown_sizes

VNET_DIVISOR = 16
"""VNet halves its input four times."""

VNET_FEATURES = 16
"""VNet repeats the image's channels up to this number, so they must divide it."""

SWIN_DIVISOR = 32
"""SwinUNETR embeds patches of 2 voxels and merges them four times."""

SWIN_FEATURE_STEP = 12
"""SwinUNETR's features must be a multiple of this: its attention heads divide them."""


class MonaiNetwork(SegmentationNetwork):
    """A network of MONAI whose answer is brought to a `NetworkOutput`.

    Parameters
    ----------
    network : answers with a tensor, or in training with a list of them, finest first.
    encoder : names of those of its modules that lead down.
    """

    def __init__(self, network: nn.Module, encoder: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._encoder = tuple(encoder)

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return logits (B, K, *spatial); the coarser ones too while training, where the network has them."""
        answer = self.network(image)
        if isinstance(answer, Tensor):
            return NetworkOutput(answer)
        finest, *coarser = answer
        return NetworkOutput(finest, tuple(coarser))

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the modules that lead down."""
        for name in self._encoder:
            yield from self.network.get_submodule(name).parameters()


def build_monai_network(plan: Plan, outputs: int, axes: Sequence[int]) -> MonaiNetwork:
    """Build the plan's network; see `medseg.networks.build.build_network`."""
    return BUILDERS[plan.network.name](plan, outputs, axes)


def _segresnet(plan: Plan, outputs: int, axes: Sequence[int]) -> MonaiNetwork:
    """Build SegResNetDS with instance norm; it halves every axis at each stage, whatever the plan's strides."""
    stages = len(plan.network.features)
    _check_patch(plan, axes, 2 ** (stages - 1))
    _check_no_dropout(plan)
    network = SegResNetDS(
        spatial_dims=len(axes),
        init_filters=plan.network.features[0],
        in_channels=len(plan.channels),
        out_channels=outputs,
        norm="instance",
        blocks_down=(1, *(min(2 * i, 4) for i in range(1, stages))),
        dsdepth=max(1, stages - 2) if plan.network.deep_supervision else 1,
    )
    return MonaiNetwork(network, ("encoder",))


def _vnet(plan: Plan, outputs: int, axes: Sequence[int]) -> MonaiNetwork:
    """Build VNet in its published size (Milletari 2016): the plan's features and depth don't change it."""
    _check_patch(plan, axes, VNET_DIVISOR)
    channels, dropout = len(plan.channels), plan.network.dropout
    if VNET_FEATURES % channels:
        raise PlanError(f"vnet takes 1, 2, 4, 8 or 16 image channels, not {channels}; use network.name=unet")
    network = VNet(
        spatial_dims=len(axes),
        in_channels=channels,
        out_channels=outputs,
        dropout_prob_down=dropout,
        dropout_prob_up=(dropout, dropout),
        dropout_dim=len(axes),
    )
    return MonaiNetwork(network, ("in_tr", "down_tr32", "down_tr64", "down_tr128", "down_tr256"))


def _swinunetr(plan: Plan, outputs: int, axes: Sequence[int]) -> MonaiNetwork:
    """Build SwinUNETR; its features are the plan's, rounded to a multiple of 12."""
    _check_patch(plan, axes, SWIN_DIVISOR)
    network = SwinUNETR(
        spatial_dims=len(axes),
        in_channels=len(plan.channels),
        out_channels=outputs,
        feature_size=SWIN_FEATURE_STEP * max(1, round(plan.network.features[0] / SWIN_FEATURE_STEP)),
        drop_rate=plan.network.dropout,
    )
    return MonaiNetwork(network, ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"))


Builder = Callable[[Plan, int, Sequence[int]], MonaiNetwork]

BUILDERS: dict[str, Builder] = {"segresnet": _segresnet, "vnet": _vnet, "swinunetr": _swinunetr}


def _check_patch(plan: Plan, axes: Sequence[int], divisor: int) -> None:
    sizes = [plan.patch[axis] for axis in axes]
    if any(size % divisor for size in sizes) or max(sizes) < 2 * divisor:
        fitting = [max(1, round(size / divisor)) * divisor for size in sizes]
        if max(fitting) == divisor:  # instance norm can't tell a single voxel at the bottom from its mean
            fitting[0] *= 2
        raise PlanError(
            f"{plan.network.name} needs a patch of multiples of {divisor}, at least one of them {2 * divisor}, "
            f"not {shown_sizes(sizes)}; set plan.patch to a size such as {shown_sizes(fitting)}"
        )


def _check_no_dropout(plan: Plan) -> None:
    if plan.network.dropout:
        raise PlanError(
            f"segresnet has no dropout between its stages: network.dropout must be 0, not {plan.network.dropout:g}"
        )
