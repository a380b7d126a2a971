"""The fingerprint of a torch model: its architecture family and size.

Modules are identified by their class names, so this file needs no torch.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["fingerprint"]

_KINDS = {
    "convolution": ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    "recurrent": ("RNN", "LSTM", "GRU"),
    "linear": ("Linear", "Bilinear", "NonDynamicallyQuantizableLinear"),
    "embedding": ("Embedding", "EmbeddingBag"),
    "batch_norm": ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
    "layer_norm": ("LayerNorm", "RMSNorm"),
    "group_norm": ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_MOST = 0.5


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return family, parameter count, and the share of parameters per kind of layer.

    The family is `recurrent` or `cnn` if most weights are in such layers, `transformer` if there are layer norms
    between linear layers (attention counts as linear layers), `unknown` if most are in unknown layers, else `mlp`.
    Embeddings, and layers that lead back to their vocabulary, are ignored, because they may outweigh the rest.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    seen: set[int] = set()  # shared weights count for the first of their layers
    vocabularies = {m.num_embeddings for m in model.modules() if _kind(m) == "embedding"}
    between = total
    for module in model.modules():
        own = {id(parameter): parameter.numel() for parameter in module.parameters(recurse=False)}
        kind = _kind(module)
        if own:
            size = sum(size for key, size in own.items() if key not in seen)
            sizes[kind] += size
            layers[kind] += 1
            seen |= own.keys()
            if kind == "embedding" or getattr(module, "out_features", None) in vocabularies:
                between -= size
    share = {kind: round(size / total, 4) for kind, size in sorted(sizes.items())} if total else {}
    if sizes["recurrent"] > _MOST * between:
        family = "recurrent"
    elif sizes["convolution"] > _MOST * between:
        family = "cnn"
    elif layers["layer_norm"] and layers["linear"]:
        family = "transformer"
    elif share.get("other", 0) > _MOST:
        family = "unknown"
    else:
        family = "mlp"
    return {"family": family, "parameters": total, "layers": dict(sorted(layers.items())), "share": share}


def _kind(module: nn.Module) -> str:
    return _KIND_OF.get(type(module).__name__, "other")
