"""Tasks: data, model and loss of a training problem, ready for the training loop."""

from anon_tune.workers.tasks.problem import Problem, Split, load_problem

__all__ = ["Problem", "Split", "load_problem"]
