"""Structured pruning: a plain U-Net with the feature maps of a larger one that matter most.

Each convolution keeps the same share of its maps, so that what is left is a U-Net like any other, faster on every
machine without sparse kernels. A map's importance is its scale times the sum of the absolute weights with which later
convolutions read it. The scale is that of the norm that follows (Liu et al., Learning Efficient Convolutional Networks
through Network Slimming, ICCV 2017) or, after a transposed convolution, which has none, the sum of the absolute weights
that make the map (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017). Weights before an instance norm say
nothing: whatever their size, the norm takes it away.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.networks.unet import ConvBlock, DecoderStage, UNet
from medseg.plan import NetworkPlan, Plan

FEATURE_STEP = 4
"""Feature maps come in multiples of this: processors multiply four or more at a time anyway."""


@dataclass(slots=True, eq=False)
class _Layer:
    """A convolution among the others.

    Attributes
    ----------
    name : of the convolution in the network's state.
    sources : the layers whose maps it reads, in the order they are joined; none: the image.
    norm : name of the norm that follows, and its scale; None: there is none.
    stage : of its resolution.
    kept : which of its maps stay, ascending.
    """

    name: str
    conv: nn.Module
    sources: tuple[_Layer, ...]
    norm: tuple[str, nn.Module] | None = None
    stage: int = 0
    kept: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @property
    def weight(self) -> Tensor:
        """Weights (outputs, inputs, *kernel), float32; a transposed convolution stores them the other way round."""
        weight = self.conv.weight.detach().float()  # type: ignore[operator]
        return weight.transpose(0, 1) if self.is_transposed else weight

    @property
    def is_head(self) -> bool:
        return self.name.startswith("heads.")

    def named(self, skipped: int) -> str:
        """Return its name in a network without so many of the finest stages."""
        part, number, *rest = self.name.split(".")
        stage = number if part == "decoder" else str(int(number) - skipped)  # decoders count from the coarsest
        return ".".join((part, stage, *rest))

    @property
    def is_transposed(self) -> bool:
        return isinstance(self.conv, nn.ConvTranspose2d | nn.ConvTranspose3d)

    @property
    def scale(self) -> Tensor:
        """How large each of its maps is (outputs,)."""
        if self.norm is not None:
            return self.norm[1].weight.detach().float().abs()  # type: ignore[operator]
        return self.weight.abs().flatten(1).sum(1)


def narrowed(network: NetworkPlan, share: float) -> NetworkPlan:
    """Return a topology with a share of the feature maps of each stage.

    Examples
    --------
    >>> sizes = {"kernels": ((3, 3, 3),) * 2, "strides": ((1, 1, 1), (2, 2, 2))}
    >>> narrowed(NetworkPlan(features=(24, 48), **sizes), 0.5).features
    (12, 24)

    Raises
    ------
    PlanError
        If the network's width is not the plan's to choose, or the share is not in (0, 1].
    """
    if network.name != "unet":
        raise PlanError(
            f"only a unet can be made narrower, not a {network.name}; train one with network.name=unet first"
        )
    if not 0 < share <= 1:
        raise PlanError(f"{share:g} is no share of the feature maps; give one above 0 and at most 1, such as 0.5")
    counts = tuple(max(1, round(count * share / FEATURE_STEP)) * FEATURE_STEP for count in network.features)
    return network.model_copy(
        update={"features": tuple(min(pair) for pair in zip(counts, network.features, strict=True))}
    )


def without_finest(network: NetworkPlan) -> NetworkPlan:
    """Return a topology without its finest stage: the first convolution strides over it, and the head undoes that.

    Most of a U-Net's work is at full resolution: a window takes a quarter to a sixth of the time without.

    Examples
    --------
    >>> sizes = {"kernels": ((3, 3, 3),) * 3, "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2))}
    >>> without_finest(NetworkPlan(features=(24, 48, 96), **sizes)).strides
    ((2, 2, 2), (2, 2, 2))

    Raises
    ------
    PlanError
        If the network is no plain U-Net of at least three stages, or strides at once already.
    """
    if network.name != "unet" or network.residual or len(network.features) < 3 or max(network.strides[0]) > 1:
        raise PlanError("only a plain unet of three stages or more can do without its finest; set coarse to false")
    parts = {name: getattr(network, name)[1:] for name in ("features", "kernels", "strides")}
    return network.model_copy(update=parts)


def narrowed_plan(plan: Plan, share: float, *, coarse: bool = False) -> Plan:
    """Return a plan whose network has a share of the feature maps, and no finest stage if it is to be `coarse`.

    Raises
    ------
    PlanError
        As `narrowed` and `without_finest`.
    """
    topology = narrowed(without_finest(plan.network) if coarse else plan.network, share)
    reasons = {**plan.reasons, "network": f"{share:g} of the feature maps {list(plan.network.features)}"}
    return plan.model_copy(update={"network": topology, "reasons": reasons})


def prune(network: nn.Module, topology: NetworkPlan) -> dict[str, Tensor]:
    """Return the state of a narrower U-Net that has the most important feature maps of this one.

    Parameters
    ----------
    network : plain `UNet`.
    topology : its topology, with as many or fewer features; without the finest stage, the state lacks the first
        convolution and the finest head, which are others.

    Raises
    ------
    PlanError
        If the network is another one, or has residual blocks, whose sums tie maps of different layers together.
    """
    if not isinstance(network, UNet) or topology.residual:
        raise PlanError(
            "only a plain unet can be pruned, without residual blocks; distil others, with distillation.start=random"
        )
    layers = _layers(network)
    skipped = len(network.encoder) - len(topology.features)
    kept = [layer for layer in layers if layer.stage >= skipped]
    for layer in kept:
        count = len(layer.weight) if layer.is_head else topology.features[layer.stage - skipped]
        layer.kept = _importance(layer, layers).topk(count).indices.sort().values
    return _cut(network.state_dict(), kept, skipped)


def _layers(network: UNet) -> list[_Layer]:
    """Return all convolutions in the order of the forward pass."""
    layers: list[_Layer] = []
    skipped: list[_Layer] = []
    last: tuple[_Layer, ...] = ()
    for stage, blocks in enumerate(network.encoder):
        last = _blocks(f"encoder.{stage}", blocks, last, stage, layers)
        skipped += last
    skipped.pop()
    for number, decoder in enumerate(network.decoder):
        assert isinstance(decoder, DecoderStage)
        stage = len(skipped) - 1
        up = _Layer(f"decoder.{number}.up", decoder.up, last, None, stage)
        layers.append(up)
        last = _blocks(f"decoder.{number}.convs", decoder.convs, (up, skipped.pop()), stage, layers)
        if stage < len(network.heads):
            layers.append(_Layer(f"heads.{stage}", network.heads[stage], last, stage=stage))
    return layers


def _blocks(
    prefix: str, blocks: nn.Module, sources: tuple[_Layer, ...], stage: int, layers: list[_Layer]
) -> tuple[_Layer]:
    """Add the blocks of one stage, and return the last one."""
    for number, block in enumerate(blocks.children()):
        assert isinstance(block, ConvBlock)
        name, norm = f"{prefix}.{number}", len(block) - 2
        layers.append(_Layer(f"{name}.0", block[0], sources, (f"{name}.{norm}", block[norm]), stage))
        sources = (layers[-1],)
    return (layers[-1],)


def _importance(layer: _Layer, layers: list[_Layer]) -> Tensor:
    """Return the importance (outputs,) of each map; of logits, all the same."""
    read = torch.zeros(len(layer.weight))
    for reader in layers:
        first = 0
        for source in reader.sources:
            count = len(source.weight)
            if source is layer:
                read += reader.weight[:, first : first + count].abs().transpose(0, 1).flatten(1).sum(1)
            first += count
    return layer.scale * read


def _cut(state: dict[str, Tensor], layers: list[_Layer], skipped: int) -> dict[str, Tensor]:
    """Return the weights of these layers with only the kept maps on both sides of every convolution."""
    cut = {}
    for layer in layers:
        if skipped and layer.stage == skipped and not _continues(layer, layers):
            continue
        weight = layer.weight[layer.kept]
        if layer.sources:
            sizes = [0, *(len(source.weight) for source in layer.sources)]
            inputs = [source.kept + sum(sizes[: i + 1]) for i, source in enumerate(layer.sources)]
            weight = weight[:, torch.cat(inputs)]
        name = layer.named(skipped)
        cut[f"{name}.weight"] = weight.transpose(0, 1) if layer.is_transposed else weight
        cut[f"{name}.bias"] = state[f"{layer.name}.bias"][layer.kept]
        if layer.norm is not None:
            norm = name.rpartition(".")[0] + "." + layer.norm[0].rpartition(".")[2]
            for part in ("weight", "bias"):
                cut[f"{norm}.{part}"] = state[f"{layer.norm[0]}.{part}"][layer.kept]
    return cut


def _continues(layer: _Layer, layers: list[_Layer]) -> bool:
    """Whether a layer of the finest stage that is left is the same without those above: not the first, not the head."""
    return not layer.is_head and all(source in layers for source in layer.sources)
