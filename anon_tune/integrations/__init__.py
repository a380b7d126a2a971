"""Callbacks for frameworks with their own training loop; each needs its framework installed."""
