"""Text VAEs under any annealing schedule: see README.md for the map of the package."""

__version__ = "0.1.0"
