"""Factory of every optimizer that a job tunes, and of the optimizer of an exported configuration."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from anon_tune.errors import DependencyError, HyperparameterError, InputError, NotFoundError
from anon_tune.optim.anon import Anon, Params
from anon_tune.optim.groups import GroupedModel, apply_lr_scales, set_options
from anon_tune.user_code import load_function

__all__ = ["OPTIMIZERS", "load_optimizer", "make_optimizer"]

OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], frozenset[str]]] = {
    "adamw": (torch.optim.AdamW, frozenset({"lr", "betas", "eps", "weight_decay"})),
    "anon": (Anon, frozenset({"lr", "betas", "gamma", "delay", "eps", "floor", "weight_decay"})),
    "sgd": (torch.optim.SGD, frozenset({"lr", "momentum", "weight_decay", "nesterov"})),
}
"""Maps the name of an optimizer to its class and its hyperparameters."""

VERSIONS = (1, 2)
"""The layouts of exported files that `load_optimizer` reads."""


def make_optimizer(
    name: str,
    params: nn.Module | GroupedModel | Params,
    hyperparameters: Mapping[str, Any],
    folder: str | PathLike[str] | None = None,
) -> Optimizer:
    """Make the optimizer of an arm.

    The options of a param group take the place of hyperparameters. The learning rate of a group with `lr_scale` is
    multiplied by it, and the key is removed, also in the groups of the user's own optimizer.

    Args:
        name: `anon`, `adamw` or `sgd`; or the user's factory, "module:function", which is called with the model and
            the hyperparameters.
        params: A model, whose parameters are all trained; a model with param groups; or parameters, named parameters
            or param groups, as torch's optimizers take them. A factory needs a model.
        hyperparameters: Keyword arguments by their names in the optimizer; others keep their defaults.
        folder: Folder to search first for a factory's module, before Python's own path.

    Raises:
        InputError: The name is unknown, or the factory does not exist or does not return an optimizer.
        HyperparameterError: A hyperparameter is unknown or out of its range.
        Exception: The factory raised it.
    """
    if ":" in name:
        made = _from_factory(name, params, hyperparameters, folder)
    elif name in OPTIMIZERS:
        made = _of_ours(name, params, hyperparameters)
    else:
        raise InputError(
            f"unknown optimizer {name!r}; use {', '.join(OPTIMIZERS)}, or a factory, module:function"
        )
    apply_lr_scales(made)
    return made


def _of_ours(
    name: str, params: nn.Module | GroupedModel | Params, hyperparameters: Mapping[str, Any]
) -> Optimizer:
    """Make one of `OPTIMIZERS`."""
    if isinstance(params, nn.Module):
        params = params.parameters()
    build, allowed = OPTIMIZERS[name]
    for key in hyperparameters:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(allowed))}"
            raise HyperparameterError(f"{name} has no hyperparameter {key!r}; {hint}")
    arguments = dict(hyperparameters)
    if isinstance(betas := arguments.get("betas"), Sequence) and not isinstance(betas, str):
        arguments["betas"] = betas = tuple(betas)
    # torch.optim.AdamW would accept a third value and fail at the first step.
    if name == "adamw" and "betas" in arguments and not (isinstance(betas, tuple) and len(betas) == 2):
        raise HyperparameterError(f"adamw takes two betas, not {betas!r}")
    try:
        return build(params, **arguments)
    except HyperparameterError:
        raise
    except KeyError as error:
        raise InputError(
            f"A param group of {name} has no key {error}. Add its parameters under that key."
        ) from error
    except (TypeError, ValueError) as error:
        raise HyperparameterError(f"{name} cannot be made with {arguments}: {error}") from error


def _from_factory(
    name: str,
    target: nn.Module | GroupedModel | Params,
    hyperparameters: Mapping[str, Any],
    folder: str | PathLike[str] | None,
) -> Optimizer:
    model = target.model if isinstance(target, GroupedModel) else target
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name} makes an optimizer for a model: pass it the model, not parameters or groups. "
            "Param groups may follow the model: optimizer(model, groups)"
        )
    factory = load_function(name, None if folder is None else str(folder))
    try:
        inspect.signature(factory).bind(model, **hyperparameters)
    except TypeError as error:
        names = ", ".join(hyperparameters)
        raise HyperparameterError(f"{name} cannot be called with a model and {names}: {error}") from None
    made = factory(model, **hyperparameters)
    if not isinstance(made, Optimizer):
        raise InputError(f"{name} returned a {type(made).__name__}, not a torch.optim.Optimizer")
    if isinstance(target, GroupedModel):
        set_options(made, target)
    return made


def load_optimizer(
    source: Mapping[str, Any] | str | PathLike[str],
    params: nn.Module | Params,
    folder: str | PathLike[str] | None = None,
    groups: Iterable[Mapping[str, Any]] | None = None,
) -> Optimizer:
    """Make the optimizer of an exported configuration.

    Args:
        source: The exported document, or the path of its `.yaml`, `.yml` or `.json` file. Only its keys
            `version`, `optimizer` and `hyperparameters` are read.
        params: A model; or parameters, named parameters or param groups. A user's factory takes a model only.
        folder: Folder of that factory's module, if Python does not find it by itself.
        groups: Param groups of some of the model's parameters, with the options that differ: `lr_scale`,
            `weight_decay` or others. The job does not know them: pass what you passed to `context.optimizer`.

    Raises:
        NotFoundError: There is no such file.
        DependencyError: The file is YAML, and PyYAML is not installed.
        InputError: The file cannot be read, its version is not supported, or its factory cannot be found.
        HyperparameterError: A hyperparameter is unknown or out of its range.
    """
    document = read_configuration(source)
    target = params if groups is None else GroupedModel(params, groups)
    return make_optimizer(str(document["optimizer"]), target, document["hyperparameters"], folder)


def read_configuration(source: Mapping[str, Any] | str | PathLike[str]) -> Mapping[str, Any]:
    """Return an exported document that has an optimizer and its hyperparameters; raises as `load_optimizer`."""
    document = source if isinstance(source, Mapping) else _read(Path(source))
    missing = [key for key in ("version", "optimizer", "hyperparameters") if key not in document]
    if missing:
        raise InputError(
            f"an exported configuration needs {', '.join(missing)}; make one with `anon-tune export`"
        )
    if document["version"] not in VERSIONS:
        raise InputError(
            f"the configuration has version {document['version']!r} and this anon_tune reads up to {VERSIONS[-1]}; "
            "upgrade anon_tune, or export the job again with this one"
        )
    if not isinstance(document["hyperparameters"], Mapping):
        raise InputError("`hyperparameters` must be a mapping of names to values; export the job again")
    return document


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}; `anon-tune export JOB -o {path.name}` writes one")
    text = path.read_text(encoding="utf-8")
    match path.suffix.lower():
        case ".json":
            try:
                document = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"{path} is not JSON: {error}; export the job again") from error
        case ".yaml" | ".yml":
            try:
                import yaml
            except ModuleNotFoundError:
                raise DependencyError(
                    f"Reading {path} needs PyYAML. Run `pip install pyyaml`, or export the job as .json."
                ) from None
            try:
                document = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise InputError(f"{path} is not YAML: {error}; export the job again") from error
        case suffix:
            raise InputError(f"{path} ends in {suffix!r}; an exported file ends in .yaml, .yml or .json")
    if not isinstance(document, Mapping):
        raise InputError(f"{path} does not hold a mapping; export the job again")
    return document
