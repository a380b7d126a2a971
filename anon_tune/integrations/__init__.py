"""Callbacks for frameworks that have a training loop of their own; each needs its framework installed."""
