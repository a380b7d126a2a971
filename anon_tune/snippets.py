"""An exported configuration as code: for any script, plain torch, Lightning and Hugging Face's Trainer."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["SNIPPETS", "snippet"]

_CLASSES = {"anon": "anon_tune.optim.Anon", "adamw": "torch.optim.AdamW", "sgd": "torch.optim.SGD"}

_FACTORS = {
    "cosine": "0.5 * (1.0 + math.cos(math.pi * done))",
    "step": "0.1 ** ((done >= 0.5) + (done >= 0.75))",
    "wsd": "min(1.0, (1.0 - done) / 0.2)",
    "constant": "1.0",
}
"""The factor of the learning rate, by schedule, as Python computes it from the share `done` of the steps."""

_TRAINER_SCHEDULES = {
    ("constant", False): "constant",
    ("constant", True): "constant_with_warmup",
    ("cosine", False): "cosine",
    ("cosine", True): "cosine",
}
"""Hugging Face's names of schedules, by ours and whether there is a warm-up. It has no `step`, and another `wsd`."""

_WIDTH = 108


def snippet(exported: Mapping[str, Any], form: str) -> str:
    """Return an exported document as code, in one of `SNIPPETS`."""
    return "\n".join(SNIPPETS[form](_Tuned(exported))) + "\n"


class _Tuned:
    """An exported document, in the words of a snippet.

    Attributes:
        name: Name of the optimizer's class, or of the user's factory.
        module: The module to import it from.
        of_factory: Whether it is the user's factory, which takes the model.
        arguments: Its hyperparameters, as Python writes them.
        schedule: The schedule of the learning rate; None if the script had its own.
        training: Settings of our training loop; empty if the script had its own loop.
    """

    def __init__(self, exported: Mapping[str, Any]) -> None:
        optimizer = exported["optimizer"]
        self.module, _, self.name = _CLASSES.get(optimizer, optimizer.replace(":", ".")).rpartition(".")
        self.of_factory = optimizer not in _CLASSES
        self.arguments = {
            key: repr(tuple(value) if isinstance(value, list) else value)
            for key, value in exported["hyperparameters"].items()
        }
        self._exported = exported
        given, training = exported["schedule"], exported["training"]
        self.schedule: Mapping[str, Any] | None = given if isinstance(given, Mapping) else None
        self.training: Mapping[str, Any] = training if isinstance(training, Mapping) else {}
        self.epochs: int | None = exported["evidence"].get("epochs")

    @property
    def schedules_steps(self) -> bool:
        """Whether the schedule's `step` follows each step of the optimizer, not each epoch."""
        return bool(self.training) or (self.schedule is not None and "steps" in self.schedule)

    @property
    def varies(self) -> bool:
        """Whether our schedule changes the learning rate."""
        return self.schedule is not None and (
            self.schedule["name"] != "constant" or bool(self.schedule["warmup"])
        )

    def made(self, target: str, assigned: str, indent: str = "") -> Iterator[str]:
        """Yield the call that makes the optimizer for `target`."""
        yield f"{indent}{assigned}{self.name}("
        yield f"{indent}    {target},"
        yield from (f"{indent}    {key}={value}," for key, value in self.arguments.items())
        yield f"{indent})"

    def about(self, *how_to_use: str) -> Iterator[str]:
        """Yield where the configuration comes from, what is known of it, and how to use the snippet."""
        origin, evidence, said = (self._exported[key] for key in ("provenance", "evidence", "in_words"))
        value = "unknown" if evidence["value"] is None else f"{evidence['value']:.4g}"
        yield f"{self.name} as tuned by anon_tune: job {origin['job']} ({origin['name']}), trial {origin['trial']}."
        yield ""
        sentences = (
            f"{evidence['objective']}, of: {evidence['of']}: {value} over {evidence['seeds']} seeds.",
            f"Compared: {said['compared']}.",
            *said["gamma"],
            *said["verdict"],
            *said["stopped"],
            *said["cost"],
            said["holds_for"],
        )
        for sentence in (*sentences, *self._training(), *how_to_use):
            yield from textwrap.wrap(_quotable(sentence), _WIDTH, subsequent_indent="    ")

    def _training(self) -> Iterator[str]:
        """Yield how the learning rate was scheduled, and which settings our training loop had."""
        given = self._exported["schedule"]
        if self.schedule is not None:
            given = f"{self.schedule['name']}, warm-up {self.schedule['warmup']:g}"
        yield f"Schedule of the learning rate: {given}."
        if self.training:
            used = {key: value for key, value in self.training.items() if value}
            yield f"Trained with {', '.join(f'{key} {_listed(value)}' for key, value in used.items())}."
        else:
            yield f"Batch size, clipping and accumulation: {self._exported['training']}."

    def make_schedule(self) -> Iterator[str]:
        """Yield the function that makes our schedule, if it changes the learning rate."""
        if self.schedule is None or not self.varies:
            return
        name, warmup = self.schedule["name"], self.schedule["warmup"]
        yield "def make_schedule(optimizer, steps):"
        yield f'    """Return the schedule of the job, {name} with warm-up {warmup:g}; steps: calls of its step()."""'
        done = "step / max(1, steps)"
        if warmup:
            yield f"    rising = int({warmup!r} * steps)"
            done = "(step - rising) / max(1, steps - rising)"
        yield from ("", "    def factor(step):")
        if warmup:
            yield from ("        if step < rising:", "            return (step + 1) / (rising + 1)")
        if name != "constant":
            yield f"        done = min(1.0, {done})"
        yield f"        return {_FACTORS[name]}"
        yield from ("", "    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)")

    def imports(self) -> Iterator[str]:
        """Yield the imports of the optimizer and of `make_schedule`."""
        if self.varies:
            if self.schedule is not None and self.schedule["name"] == "cosine":
                yield from ("import math", "")
            yield "import torch"
        yield f"from {self.module} import {self.name}"


def _python(tuned: _Tuned) -> Iterator[str]:
    target = "model" if tuned.of_factory else "params"
    yield from _docstring(tuned)
    yield from (f"from {tuned.module} import {tuned.name}", "", "", f"def make_optimizer({target}):")
    yield from tuned.made(target, "return ", "    ")


def _torch(tuned: _Tuned) -> Iterator[str]:
    """Yield the changes of a plain training loop: "+" marks a line that is added, "-" one that is removed."""
    how = "Lines with + are added to your script, and lines with - are removed."
    yield from (f"# {line}".rstrip() for line in tuned.about(how))
    yield ""
    yield from _marked("+", *tuned.imports())
    schedule = list(tuned.make_schedule())
    if schedule:
        yield from ("+", "+", *_marked("+", *schedule), "+")
    yield from (" ", "-optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)")
    yield from _marked(
        "+", *tuned.made("model" if tuned.of_factory else "model.parameters()", "optimizer = ")
    )
    per_step, clip = tuned.schedules_steps, tuned.training.get("clip")
    if schedule:
        steps = "epochs * len(loader)" if per_step else "epochs"
        yield f"+schedule = make_schedule(optimizer, {steps})"
    yield from (
        " for epoch in range(epochs):",
        "     for inputs, targets in loader:",
        "         optimizer.zero_grad()",
        "         loss_of(model(inputs), targets).backward()",
    )
    if clip:
        yield f"+        torch.nn.utils.clip_grad_norm_(model.parameters(), {clip!r})"
    yield "         optimizer.step()"
    if schedule:
        yield f"+{' ' * (8 if per_step else 4)}schedule.step()"


def _lightning(tuned: _Tuned) -> Iterator[str]:
    use = "Put configure_optimizers into your LightningModule."
    if tuned.training:
        use += " The Trainer's part: lightning.Trainer(**trainer_options)."
    elif tuned.schedule is None:
        use += " Return your schedule with the optimizer, as before."
    yield from _docstring(tuned, use)
    schedule = list(tuned.make_schedule())
    yield from _header(tuned, schedule)
    if tuned.training:
        yield from ("", "trainer_options = {", *_items(_of_lightning(tuned)), "}")
    yield from ("", "", "def configure_optimizers(self):")
    yield from tuned.made("self" if tuned.of_factory else "self.parameters()", "optimizer = ", "    ")
    if not schedule:
        yield "    return optimizer"
    elif tuned.schedules_steps:
        yield from (
            "    schedule = make_schedule(optimizer, self.trainer.estimated_stepping_batches)",
            '    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}',
        )
    else:
        yield "    return [optimizer], [make_schedule(optimizer, self.trainer.max_epochs)]"


def _hugging_face(tuned: _Tuned) -> Iterator[str]:
    arguments = dict(_of_trainer(tuned))
    schedule = list(tuned.make_schedule()) if tuned.varies and "lr_scheduler_type" not in arguments else []
    yield from _docstring(tuned, *_use_of_trainer(tuned, arguments, bool(schedule)))
    yield from _header(tuned, schedule)
    if arguments:
        yield from ("", "training_arguments = {", *_items(arguments), "}")
    made = f"lambda: {tuned.name}" if tuned.of_factory else tuned.name
    yield from ("", "optimizer_cls_and_kwargs = (", f"    {made},", "    {")
    yield from (f"    {line}" for line in _items(tuned.arguments))
    yield from ("    },", ")")


def _use_of_trainer(tuned: _Tuned, arguments: Mapping[str, str], own: bool) -> Iterator[str]:
    """Yield how to use the snippet with Hugging Face's Trainer, and what the Trainer does otherwise."""
    passed = ", **training_arguments" if arguments else ""
    yield (
        f"Trainer(model, TrainingArguments(output_dir{passed}), ..., "
        "optimizer_cls_and_kwargs=optimizer_cls_and_kwargs)"
    )
    if tuned.of_factory:
        yield "Trainer calls the first of the two without arguments, and the result with the model."
    elif "weight_decay" in arguments:
        yield (
            "Trainer takes the weight decay from its TrainingArguments, and leaves norms and biases without it. "
            "To train all parameters alike, pass optimizers=(optimizer, None)."
        )
    if own:
        yield (
            "TrainingArguments has no such schedule: pass optimizers=(optimizer, make_schedule(optimizer, steps)) "
            "instead."
        )
    elif tuned.schedule is None:
        yield "Keep the lr_scheduler_type and the warmup_steps of your script."


def _of_trainer(tuned: _Tuned) -> Iterator[tuple[str, str]]:
    """Yield arguments of TrainingArguments that the optimizer's groups, our schedule and our loop need."""
    if not tuned.of_factory and "weight_decay" in tuned.arguments:
        yield "weight_decay", tuned.arguments["weight_decay"]
    if tuned.schedule is not None:
        warmup = tuned.schedule["warmup"]
        name = _TRAINER_SCHEDULES.get((tuned.schedule["name"], bool(warmup)))
        if name is not None:
            yield "lr_scheduler_type", f'"{name}"'
            yield "warmup_steps", repr(warmup)  # below 1: a share of the steps
    training = tuned.training
    if not training:
        return
    parts = training["accumulate"]
    yield "num_train_epochs", repr(tuned.epochs)
    yield "per_device_train_batch_size", repr(-(-training["batch_size"] // parts))
    yield "gradient_accumulation_steps", repr(parts)
    yield "max_grad_norm", repr(training["clip"] or 0.0)  # 0: no clipping; its default is 1
    if training["label_smoothing"]:
        yield "label_smoothing_factor", repr(training["label_smoothing"])
    if training["precision"] == "bf16":
        yield "bf16", "True"


def _of_lightning(tuned: _Tuned) -> Mapping[str, str]:
    """Return options of Lightning's Trainer that stand for settings of our loop."""
    training = tuned.training
    return {
        "max_epochs": repr(tuned.epochs),
        "gradient_clip_val": repr(training["clip"]),
        "precision": '"bf16-mixed"' if training["precision"] == "bf16" else '"32-true"',
    }


SNIPPETS: Mapping[str, Callable[[_Tuned], Iterator[str]]] = {
    "python": _python,
    "torch": _torch,
    "lightning": _lightning,
    "hugging-face": _hugging_face,
}
"""Formats of code, by name."""


def _docstring(tuned: _Tuned, *how_to_use: str) -> Iterator[str]:
    first, *others = tuned.about(*how_to_use)
    yield from (f'"""{first}', *others, '"""', "")


def _header(tuned: _Tuned, schedule: Sequence[str]) -> Iterator[str]:
    """Yield the imports and the function that makes the schedule, if there is one."""
    if schedule:
        yield from (*tuned.imports(), "", "", *schedule, "")
    else:
        yield f"from {tuned.module} import {tuned.name}"


def _items(values: Mapping[str, str]) -> Iterator[str]:
    yield from (f'    "{key}": {value},' for key, value in values.items())


def _marked(sign: str, *lines: str) -> Iterator[str]:
    yield from (f"{sign}{line}" for line in lines)


def _listed(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _quotable(sentence: str) -> str:
    """Return a sentence that may stand in a docstring."""
    return sentence.replace("\\", "/").replace('"""', "'")
