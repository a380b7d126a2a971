"""Building of the catalogue's or the user's model by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from anon_tune.catalogue import MODELS, resolve
from anon_tune.documents import is_function, unknown
from anon_tune.errors import InputError
from anon_tune.user_code import load_function

__all__ = ["build_model"]


def build_model(
    name: str, shape: tuple[int, ...], classes: int, options: Mapping[str, Any], folder: str | None = None
) -> nn.Module:
    """Return a model with fresh weights, drawn from torch's global random state.

    Args:
        name: A model of the catalogue; or "module:function", which is called with the options alone.
        shape: Shape of one input: (channels, height, width) for images, (length,) for text, (dimensions,) for a
            function.
        classes: Number of outputs; the size of a language model's vocabulary, or the dimensions of a function.
        options: Sizes that differ from the catalogue's defaults.
        folder: Folder to search first for the module.

    Raises:
        InputError: The name or an option is unknown, the sizes do not fit the input, or the function does not return
            a model.
    """
    if is_function(name):
        return _of_user(name, options, folder)
    if name not in MODELS:
        raise InputError(unknown("model", name, MODELS))
    entry = MODELS[name]
    sizes = {**entry.options, **options}
    for option in sizes.keys() - entry.options.keys():
        raise InputError(unknown(f"option of {name}", option, entry.options))
    model: nn.Module = resolve(entry.build)(shape, classes, **sizes)
    return model


def _of_user(name: str, options: Mapping[str, Any], folder: str | None) -> nn.Module:
    model = load_function(name, folder)(**options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{name} returned a model without parameters to train.")
    return model
