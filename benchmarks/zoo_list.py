"""Writes zoo_models.json: the smallest member of every classification CNN family of pytorchcv, torchvision and timm,
one member of timm's and torchvision's attention families, and pytorchcv's segmentation networks.

    python benchmarks/zoo_list.py

The list is committed; run this again only to move to other versions of the three packages. "Smallest" counts
parameters on the meta device. Nothing is left out for how it fares: the list was made before the first run.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

import _torchvision_stub  # noqa: F401
import torch

HERE = Path(__file__).parent
# pytorchcv: modules after the last classification network are segmentation, pose, speech, flow …
CV_SEGMENTATION = """deeplabv3 fastscnn cgnet dabnet sinet bisenet fpenet contextnet lednet esnet edanet enet erfnet
linknet segnet unet sqnet fcn8sd pspnet icnet espcnet danet""".split()
CV_OTHER = """alphapose_coco simplepose_coco simpleposemobile_coco lwopenpose_cmupan ibppose_coco prnet centernet lffd
pfpcnet voca nvpattexp visemenet superpointnet jasper jasperdr quartznet raft propainter_rfc propainter_ip propainter
resnet_cub seresnet_cub mobilenet_cub proxylessnas_cub""".split()
CV_SPLIT = {"squeezenet": ["squeezenet_*", "squeezeresnet_*"], "regnet": ["regnetx*", "regnety*"]}

TV_CNN = """alexnet convnext_* densenet* efficientnet_b* efficientnet_v2_* googlenet inception_v3 mnasnet* mobilenet_v2
mobilenet_v3_* regnet_x_* regnet_y_* resnet* resnext* shufflenet_v2_* squeezenet* vgg??_bn vgg?? wide_resnet*""".split()
TV_ATTENTION = "vit_b_32 swin_t swin_v2_t maxvit_t".split()

TIMM_SPLIT = {
    "efficientnet": """efficientnet_b[0-9] efficientnetv2_* efficientnet_lite* efficientnet_e? efficientnet_cc* fbnetc*
        efficientnet_x_* mixnet_* mnasnet_* mobilenet_edgetpu* mobilenetv1* mobilenetv2* semnasnet* spnasnet* tinynet*
        gc_efficientnetv2*""".split(),
    "byobnet": """bat_resnext* eca_resnet* eca_resnext* gcresnet[0-9]* gcresnext* gernet* mobileone* regnetz_* repvgg*
        resnet[0-9]*ts resnext* seresnet[0-9]*ts resnet*_clip""".split(),
    "mobilenetv3": "fbnetv3* lcnet* mobilenetv3_* mobilenetv4_conv_* mobilenetv4_hybrid_*".split(),
    "nfnet": "dm_nfnet* eca_nfnet* nf_ecaresnet* nf_regnet* nf_resnet* nf_seresnet* nfnet_*".split(),
    "resnet": """ecaresnet[0-9]* ecaresnext* resnet[0-9]* resnetaa* resnetblur* resnetrs* resnext* seresnet[0-9]*
        seresnext[0-9]* wide_resnet*""".split(),
    "cspnet": """cs3darknet_focus* cs3darknet_? cs3edgenet* cs3se_edgenet* cs3sedarknet* cspdarknet* cspresnet[0-9]*
        cspresnext* darknet[0-9]* darknetaa* sedarknet*""".split(),
    "vovnet": "eca_vovnet* ese_vovnet* vovnet*".split(),
    "senet": "legacy_senet* legacy_seresnet[0-9]* legacy_seresnext*".split(),
    "hgnet": "hgnet_* hgnetv2_*".split(),
    "metaformer": "caformer* convformer* poolformer_* poolformerv2_*".split(),
    "mlp_mixer": "gmixer* gmlp* mixer_* resmlp*".split(),
    "maxxvit": "coatnet_* maxvit_* maxxvit_* coatnext_*".split(),
    "fastvit": "fastvit_t* fastvit_sa*".split(),
    "ghostnet": "ghostnet_* ghostnetv2* ghostnetv3*".split(),
    "byoanet": "botnet* halonet* lambda_resnet* sebotnet*".split(),
    "densenet": "densenet[0-9]* densenetblur*".split(),
    "regnet": "regnetv* regnetx* regnety* regnetz*".split(),
    "res2net": "res2net50* res2next*".split(),
    "rexnet": "rexnet_* rexnetr*".split(),
    "sknet": "skresnet* skresnext*".split(),
    "convnext": "convnext_* convnextv2_*".split(),
    "tresnet": "tresnet_[mlx]* tresnet_v2*".split(),
    "resnetv2": "resnetv2_[0-9][0-9]* resnetv2_*gn*".split(),
    "dla": "dla34* dla60_res2net dla60_res2next dla46x*".split(),
    "hrnet": "hrnet_w*".split(),
    "levit": "levit_[0-9]* levit_conv*".split(),
    "xcit": ["xcit_nano*"],
    "vision_transformer": ["vit_tiny_patch16_224", "vit_small_patch32_224"],
}
TIMM_CNN = """byobnet convmixer convnext cspnet cspnext densenet dla dpn efficientnet fasternet focalnet ghostnet
hardcorenas hgnet hrnet inception_next inception_resnet_v2 inception_v3 inception_v4 lcnetv2 mambaout nasnet nfnet
pnasnet rdnet regnet repghost repvit res2net resnest resnet resnetv2 rexnet selecsls senet sknet starnet tresnet vgg
vovnet xception xception_aligned mobilenetv3""".split()
CNN_PATTERNS = ("convformer*", "poolformer*", "fastvit_t*")
NOT_CNN_PATTERNS = ("mobilenetv4_hybrid*", "resnet*_clip", "bat_resnext*")
LARGEST = 140_000_000  # parameters: a family whose smallest member is larger does not fit the time limit


def count(make: object) -> int | None:
    """Parameters of what make() builds, on the meta device where it can be built there."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                return sum(p.numel() for p in make().parameters())  # type: ignore[operator]
        except Exception:  # noqa: BLE001 - some builders read values, others need an option
            continue
    return None


def smallest(names: list[str], build: object) -> tuple[str, int] | None:
    """(name, parameters) of the smallest that can be built; names in doubt are ordered by the alphabet."""
    sizes = {n: c for n in names if (c := count(lambda n=n: build(n))) is not None}  # type: ignore[operator]
    return min(sizes.items(), key=lambda item: (item[1], item[0])) if sizes else None


def plain(pattern: str) -> str:
    """The pattern without its wild cards, as a family's name."""
    return re.sub(r"\[.*?\]|[*?]", "", pattern).strip("_")


def pytorchcv() -> list[dict]:
    import pytorchcv.model_provider as provider

    modules: dict[str, list[str]] = defaultdict(list)
    for name, factory in provider._models.items():
        modules[inspect.getmodule(factory).__name__.rpartition(".")[2]].append(name)
    entries = []
    for module, names in modules.items():
        if module in CV_OTHER:
            continue
        for pattern in CV_SPLIT.get(module, ["*"]):
            found = smallest([n for n in names if fnmatchcase(n, pattern)], provider.get_model)
            assert found is not None, module
            segments = module in CV_SEGMENTATION
            with torch.device("meta"):
                model = provider._models[found[0]]()
            size = [256, 256] if segments else list(model.in_size)
            kwargs = (
                {"in_size": [480, 480] if module in ("pspnet", "fcn8sd", "deeplabv3") else size} if segments else {}
            )
            size = kwargs.get("in_size", size)
            family = module if pattern == "*" else plain(pattern)
            entries.append(
                entry("pytorchcv", found, family, "cnn", [1, getattr(model, "in_channels", 3), *size], kwargs)
            )
            entries[-1]["task"] = "segmentation" if segments else "classification"
    return entries


def torchvision_models() -> list[dict]:
    import torchvision

    names = [n for n in torchvision.models.list_models() if not n.startswith("quantized")]
    entries = []
    for pattern in (*TV_CNN, *TV_ATTENTION):
        kind = "attention" if pattern in TV_ATTENTION else "cnn"
        found = smallest(
            [n for n in names if fnmatchcase(n, pattern)], lambda n: torchvision.models.get_model(n, weights=None)
        )
        assert found is not None, pattern
        size = 299 if found[0] == "inception_v3" else 224
        kwargs = {"init_weights": False} if found[0] in ("googlenet", "inception_v3") else {}
        entries.append(entry("torchvision", found, plain(pattern), kind, [1, 3, size, size], kwargs))
    return entries


def timm_models() -> list[dict]:
    import timm

    entries = []
    for module in timm.list_modules():
        listed = [n for n in timm.list_models(module=module) if not n.startswith("test_") and not n.endswith("_enc")]
        for pattern in TIMM_SPLIT.get(module, ["*"]):
            names = [n for n in listed if fnmatchcase(n, pattern)]
            if not names:
                print(f"timm {module} {pattern}: no model", file=sys.stderr)
                continue
            found = smallest(names, timm.create_model)
            if found is None or found[1] > LARGEST:
                print(f"timm {module} {pattern}: none fits ({found})", file=sys.stderr)
                continue
            cnn = (module in TIMM_CNN or any(fnmatchcase(found[0], p) for p in CNN_PATTERNS)) and not any(
                fnmatchcase(found[0], p) for p in NOT_CNN_PATTERNS
            )
            family = module if pattern == "*" else f"{module}/{plain(pattern)}"
            entries.append(entry("timm", found, family, "cnn" if cnn else "attention", timm_input(found[0]), {}))
    return entries


def timm_input(name: str) -> list[int]:
    """224 x 224, or the model's own size where it is fixed."""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    channels, *size = config.input_size if config else (3, 224, 224)
    return [1, channels, *(size if config and config.fixed_input_size else [224, 224])]


def entry(source: str, found: tuple[str, int], family: str, kind: str, shape: list[int], kwargs: dict) -> dict:
    print(source, family, *found, shape, kind, file=sys.stderr)
    return {
        "name": f"{source}:{found[0]}",
        "family": f"{source}:{family}",
        "kind": kind,
        "task": "classification",
        "input": shape,
        "kwargs": kwargs,
        "params": found[1],
    }


if __name__ == "__main__":
    models = [*pytorchcv(), *torchvision_models(), *timm_models()]
    lines = ",\n  ".join(json.dumps(m) for m in models)
    (HERE / "zoo_models.json").write_text(f"[\n  {lines}\n]\n")
    print(len(models), "models", file=sys.stderr)
