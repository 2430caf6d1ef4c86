"""The peers that medseg is measured against: their environments, medseg's models as theirs, their commands.

A plain U-Net of medseg and nnU-Net's PlainConvUNet are the same network, layer by layer: `to_nnunet` writes a model
folder as one of nnU-Net's, so that both apply the same weights to the same windows. nnU-Net sees arrays as (Z, Y, X),
so kernels, strides and patch are turned round; its scans must lie in RAS order, because it doesn't reorient.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from medseg.networks.model import Model, load_model
from medseg.plan import ChannelNormalisation, Plan

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = Path(os.environ.get("MEDSEG_PEERS", ROOT / "build" / "peers")).absolute()
VERSIONS = {"nnunetv2": "2.8.1", "monai": "1.6.1"}
DATASET = "Dataset500_Benchmark"
TRAINER = "nnUNetTrainer__nnUNetPlans__3d_fullres"

Command = list[str | Path]


def executable(peer: str, name: str = "python") -> Path:
    """Return a program of a peer's environment; ends with how to build it if there is none."""
    path = ENVIRONMENTS / peer / "bin" / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: run sh benchmarks/performance/peers.sh (MEDSEG_PEERS names its folder)")
    return path


def medseg(*words: str | Path) -> Command:
    """Return a command of this medseg."""
    return [sys.executable, "-m", "medseg", *words]


def medseg_segment(scans: Path, model: Path, output: Path) -> Command:
    """Return what segments a folder as by default, in a worker process, with pictures and report; all anew."""
    return medseg("segment", scans, "--model", model, "--output", output, "--redo")


def nnunet_segment(scans: Path, output: Path, *options: str) -> Command:
    """Return nnU-Net's own command, without test-time mirroring; `nnunet_env` names the model."""
    words = ["-d", "500", "-c", "3d_fullres", "-f", "0", "-device", "cpu", "--disable_tta", *options]
    return [executable("nnunet", "nnUNetv2_predict"), "-i", scans, "-o", output, *words]


def nnunet_prepare() -> Command:
    """Return what plans and preprocesses the dataset, with two processes."""
    words = ["-d", "500", "-c", "3d_fullres", "-np", "2", "-npfp", "2", "--verify_dataset_integrity"]
    return [executable("nnunet", "nnUNetv2_plan_and_preprocess"), *words]


def monai_segment(scan: Path, model: Path, output: Path) -> Command:
    """Return MONAI's recipe for the same network (`monai_segment.py`)."""
    return [executable("monai"), HERE / "monai_segment.py", scan, model, output]


MONAI_ENV = {"PYTHONPATH": str(ROOT)}
"""Lets MONAI's environment import medseg's network."""


def nnunet_env(folder: Path) -> dict[str, str]:
    """Return nnU-Net's three folders, below one."""
    places = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    for name in places.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {variable: str(folder / name) for variable, name in places.items()}


def to_nnunet(model_folder: Path, folder: Path) -> None:
    """Write a model folder as a trained model of nnU-Net, where `nnunet_env(folder)` lets it be found."""
    model = load_model(model_folder)
    place = Path(nnunet_env(folder)["nnUNet_results"]) / DATASET / TRAINER
    (place / "fold_0").mkdir(parents=True)
    labels = {"background": 0} | {label.name: label.value for label in model.labels.labels}
    channels = {str(n): _scheme(rule) for n, rule in enumerate(model.plan.normalisation)}
    described = {"channel_names": channels, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (place / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    (place / "plans.json").write_text(json.dumps(nnunet_plans(model.plan)), encoding="utf-8")
    torch.save(
        {
            "network_weights": dict(nnunet_weights(model)),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        place / "fold_0" / "checkpoint_final.pth",
    )


def link_scans(scans: Path, folder: Path) -> Path:
    """Link NIfTI scans under nnU-Net's names, and return the new folder."""
    folder.mkdir(exist_ok=True)
    for scan in sorted(scans.glob("*.nii.gz")):
        link = folder / scan.name.replace(".nii.gz", "_0000.nii.gz")
        link.unlink(missing_ok=True)
        link.symlink_to(scan.resolve())
    return folder


def nnunet_weights(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Yield a U-Net's weights under every name that nnU-Net keeps them by: some stand in three places.

    The head of the coarsest decoder stage, whose loss nnU-Net weighs with 0, is all zeros.
    """
    stages = len(model.plan.network.features)
    kinds = {"0": ("conv", "all_modules.0"), "1": ("norm", "all_modules.1")}
    for name, ours in model.networks[0].state_dict().items():
        values = ours.permute(0, 1, 4, 3, 2).contiguous() if ours.ndim == 5 else ours
        if head := re.fullmatch(r"heads\.(\d+)\.(\w+)", name):
            yield f"decoder.seg_layers.{stages - 2 - int(head[1])}.{head[2]}", values
        elif up := re.fullmatch(r"decoder\.(\d+)\.up\.(\w+)", name):
            yield f"decoder.transpconvs.{up[1]}.{up[2]}", values
        elif conv := re.fullmatch(r"decoder\.(\d+)\.convs\.(\d+)\.(\d)\.(\w+)", name):
            for kind in kinds[conv[3]]:
                yield f"decoder.stages.{conv[1]}.convs.{conv[2]}.{kind}.{conv[4]}", values
        elif conv := re.fullmatch(r"encoder\.(\d+)\.(\d+)\.(\d)\.(\w+)", name):
            for kind in kinds[conv[3]]:
                for owner in ("", "decoder."):
                    yield f"{owner}encoder.stages.{conv[1]}.0.convs.{conv[2]}.{kind}.{conv[4]}", values
        else:
            raise SystemExit(f"{name}: nnU-Net's plain U-Net has no such weights")
    yield "decoder.seg_layers.0.weight", torch.zeros(model.labels.outputs, model.plan.network.features[-2], 1, 1, 1)
    yield "decoder.seg_layers.0.bias", torch.zeros(model.labels.outputs)


def nnunet_plans(plan: Plan) -> dict[str, object]:
    """Return a plan in nnU-Net's terms, with its default functions for resampling."""

    def resampling(order: int, *, labels: bool = False) -> dict[str, object]:
        return {"is_seg": labels, "order": order, "order_z": 0, "force_separate_z": None}

    name = "resample_data_or_seg_to_shape"
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": plan.spacing[::-1],
        "original_median_shape_after_transp": plan.patch[::-1],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(n): _intensities(rule) for n, rule in enumerate(plan.normalisation)
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": plan.batch,
                "patch_size": plan.patch[::-1],
                "median_image_size_in_voxels": plan.patch[::-1],
                "spacing": plan.spacing[::-1],
                "normalization_schemes": [_scheme(rule) + "Normalization" for rule in plan.normalisation],
                "use_mask_for_norm": [False] * len(plan.channels),
                "resampling_fn_data": name,
                "resampling_fn_data_kwargs": resampling(3),
                "resampling_fn_seg": name,
                "resampling_fn_seg_kwargs": resampling(1, labels=True),
                "resampling_fn_probabilities": name,
                "resampling_fn_probabilities_kwargs": resampling(1),
                "architecture": _architecture(plan),
                "batch_dice": False,
            }
        },
    }


def _architecture(plan: Plan) -> dict[str, object]:
    network = plan.network
    stages = len(network.features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": network.features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [kernel[::-1] for kernel in network.kernels],
            "strides": [stride[::-1] for stride in network.strides],
            "n_conv_per_stage": [network.convolutions] * stages,
            "n_conv_per_stage_decoder": [network.convolutions] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _scheme(rule: ChannelNormalisation) -> str:
    return "CT" if rule.kind == "clip" else "ZScore"


def _intensities(rule: ChannelNormalisation) -> Mapping[str, float]:
    bounds = {"percentile_00_5": rule.low, "percentile_99_5": rule.high, "min": rule.low, "max": rule.high}
    return {"mean": rule.mean, "median": rule.mean, "std": rule.std, **bounds}
