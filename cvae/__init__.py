"""Text VAEs under any annealing schedule: see docs/architecture.md for the rooms of the package."""

__version__ = "0.1.0"
