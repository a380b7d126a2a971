"""The fingerprint of a torch model: its architecture family and size.

Modules are identified by their class names, so this file needs no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Computation", "fingerprint"]

_KINDS = {
    "convolution": ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    "recurrent": ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"),
    "linear": ("Linear", "Bilinear", "NonDynamicallyQuantizableLinear"),
    "embedding": ("Embedding", "EmbeddingBag"),
    "batch_norm": ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
    "layer_norm": ("LayerNorm", "RMSNorm"),
    "group_norm": ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_MATRIX = {"mm", "addmm", "_scaled_mm"}
_BATCHED = {"bmm", "baddbmm"}
_MOST = 0.5


@dataclass(frozen=True)
class Computation:
    """Multiplications of forward passes; `anon_tune.workers.trial.operations.counted` measures them.

    Attributes:
        operations: Number of multiplications by torch's name of the operation, by the innermost module that ran it.
            `softmax` counts calls, since it tells attention from other products. The operations of a recurrent layer
            are `recurrent`.
    """

    operations: dict[nn.Module, Counter[str]] = field(default_factory=dict)


def fingerprint(model: nn.Module | Iterable[Any], computation: Computation | None = None) -> dict[str, Any]:
    """Return family, parameter count, and the share of parameters per kind of layer.

    With a computation, the family is what most multiplications are: `recurrent`, `cnn`, `mlp` (linear layers without
    attention), or `unknown`. It is `transformer` if there is attention and most are neither convolutions nor in
    recurrent layers.

    Without one, the family is `recurrent` or `cnn` if most weights are in such layers, `transformer` if there are
    layer norms between linear layers (attention counts as linear layers), `unknown` if most are in unknown layers,
    else `mlp`.

    Embeddings, and layers that lead back to their vocabulary, are ignored, because they may outweigh the rest.

    Args:
        model: A model; or the parameters, or param groups, of an optimizer. The layers of parameters are known if
            their modules are in the computation.
        computation: Multiplications of the model's forward passes. Modules without any of the parameters are
            ignored, such as a frozen model that serves as a loss.

    Returns:
        Values for JSON: `family`, `parameters`, `layers` (number of layers by kind), `share` (of the parameters by
        kind of layer), and with a computation `multiplications` (share of them by kind).
    """
    parameters = {id(parameter): parameter for parameter in _parameters(model)}
    modules = _modules(model, parameters, computation)
    sizes, layers, outside = _weights(modules, parameters)
    total = sum(parameter.numel() for parameter in parameters.values())
    found = {
        "parameters": total,
        "layers": dict(sorted(layers.items())),
        "share": _shares(sizes),
    }
    done = _multiplications(modules, parameters, computation or Computation())
    if sum(done.values()):
        return {"family": _family_of(done), **found, "multiplications": _shares(done)}
    return {"family": _family_of_weights(sizes, layers, total - outside), **found}


def _parameters(given: Any) -> Iterator[nn.Parameter]:
    """Yield the parameters of a model, or of what an optimizer takes: parameters, named ones, or param groups."""
    if hasattr(given, "parameters"):
        yield from given.parameters()
    elif hasattr(given, "numel"):
        yield given
    else:
        for each in given:
            yield from _parameters(
                each["params"] if isinstance(each, dict) else each[1] if isinstance(each, tuple) else each
            )


def _modules(
    model: Any, parameters: dict[int, nn.Parameter], computation: Computation | None
) -> list[nn.Module]:
    """Return the modules of a model; of parameters, those that ran, and their children."""
    if hasattr(model, "modules"):
        return list(model.modules())
    ran = computation.operations if computation is not None else {}
    family = dict.fromkeys(child for module in ran for child in module.modules())
    return [module for module in family if any(id(p) in parameters for p in module.parameters())]


def _weights(
    modules: Iterable[nn.Module], parameters: dict[int, nn.Parameter]
) -> tuple[Counter[str], Counter[str], int]:
    """Return the parameters by kind, the layers by kind, and how many parameters are about a vocabulary."""
    sizes: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    seen: set[int] = set()  # shared weights count for the first of their layers
    modules = list(modules)
    vocabularies, outside = _vocabularies(modules), 0
    for module in modules:
        own = {id(p) for p in module.parameters(recurse=False)} & parameters.keys()
        if own:
            kind = _kind(module)
            size = sum(parameters[key].numel() for key in own - seen)
            sizes[kind] += size
            layers[kind] += 1
            seen |= own
            if _is_of_vocabulary(module, vocabularies):
                outside += size
    for key in parameters.keys() - seen:  # of no module: kernels alone are known by their shape
        sizes["convolution" if parameters[key].dim() >= 4 else "other"] += parameters[key].numel()
    return sizes, layers, outside


def _multiplications(
    modules: Iterable[nn.Module], parameters: dict[int, nn.Parameter], computation: Computation
) -> Counter[str]:
    """Return the multiplications by kind, without those of layers that lead back to a vocabulary."""
    vocabularies = _vocabularies(modules)
    operations: Counter[str] = Counter()
    heads: Counter[str] = Counter()
    attention = False
    for module, counts in computation.operations.items():
        owned = [id(parameter) in parameters for parameter in module.parameters()]
        if owned and not any(owned):
            continue
        (heads if _is_of_vocabulary(module, vocabularies) else operations).update(counts)
        attention = attention or any(part in type(module).__name__.lower() for part in ("attention", "attn"))
    normalized = operations.pop("softmax", 0) > 0
    attention = attention or (normalized and not _BATCHED.isdisjoint(operations))
    attention = attention or any("attention" in operation for operation in operations)
    done: Counter[str] = Counter()
    for operation, count in (operations if operations.total() else heads).items():
        done[_kind_of_operation(operation, attention)] += count
    if attention:
        done["attention"] += 0
    return done


def _family_of(done: Counter[str]) -> str:
    """Return the family by the multiplications of each kind; `attention` is among them if there is any."""
    most = _MOST * done.total()
    for kind, family in (("recurrent", "recurrent"), ("convolution", "cnn")):
        if done[kind] > most:
            return family
    if "attention" in done:
        return "transformer"
    return "mlp" if done["linear"] > most else "unknown"


def _family_of_weights(sizes: Counter[str], layers: Counter[str], between: int) -> str:
    """Return the family by the parameters and layers of each kind; `between` are those of no vocabulary."""
    if sizes["recurrent"] > _MOST * between:
        return "recurrent"
    if sizes["convolution"] > _MOST * between:
        return "cnn"
    if layers["layer_norm"] and layers["linear"]:
        return "transformer"
    return "unknown" if sizes["other"] > _MOST * sizes.total() else "mlp"


def _kind_of_operation(operation: str, attention: bool) -> str:
    """Return the kind of an operation; products of batches are attention if the model has any."""
    if operation == "recurrent":
        return operation
    if "conv" in operation:
        return "convolution"
    if operation in _MATRIX:
        return "linear"
    return "attention" if attention else "other"


def _vocabularies(modules: Iterable[nn.Module]) -> set[int]:
    return {module.num_embeddings for module in modules if _kind(module) == "embedding"}  # type: ignore[misc]


def _is_of_vocabulary(module: nn.Module, vocabularies: set[int]) -> bool:
    return _kind(module) == "embedding" or getattr(module, "out_features", None) in vocabularies


def _kind(module: nn.Module) -> str:
    names = (_KIND_OF.get(base.__name__) for base in type(module).__mro__)
    return next((kind for kind in names if kind is not None), "other")


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {kind: round(count / total, 4) for kind, count in sorted(counts.items())} if total else {}
