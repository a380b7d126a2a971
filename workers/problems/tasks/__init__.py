"""Tasks: data, model and loss of a training problem, for the training loop."""

from anon_tune.workers.problems.tasks.problem import Problem, load_problem

__all__ = ["Problem", "load_problem"]
