"""Figures from run folders: the paper's Figures 2 to 4, and the pictures each run leaves behind.

Needs no torch. Figures are drawn without pyplot's global state, so that drawing is safe within training and
in threads. Nats are per sequence, x is the optimiser step ("update").
"""

from __future__ import annotations

from pathlib import Path

from cvae.report.figures.animation import latent_animation, save_gif
from cvae.report.figures.curves import OVERVIEW, curves_figure, run_curves, schedules_figure
from cvae.report.figures.latents import latent_figure, plane_picture, run_latents, spread_steps
from cvae.report.figures.rate import rate_figure
from cvae.report.figures.reviews import accuracy_figure, map_figure
from cvae.report.figures.style import ORDER, save
from cvae.runs.reader import read_run

__all__ = [
    "ORDER",
    "OVERVIEW",
    "accuracy_figure",
    "curves_figure",
    "latent_animation",
    "latent_figure",
    "map_figure",
    "plane_picture",
    "rate_figure",
    "run_pictures",
    "save",
    "save_gif",
    "schedules_figure",
]


def run_pictures(folder: str | Path) -> list[Path]:
    """Write the pictures of a run into its folder, and return their paths.

    `curves.png`, `latents.png` for a 2-d latent, `accuracy.png` for classifiers and `map.png` for a map.
    """
    run = read_run(folder)
    drawn = {"curves": run_curves(run)} if run.metrics or not run.classifiers else {}
    flat = [step for step, snapshot in run.latents.items() if snapshot.mean.shape[1] == 2]
    if flat:
        drawn["latents"] = run_latents(run, spread_steps(flat))
    if run.classifiers:
        drawn["accuracy"] = accuracy_figure([run])
    if (run.folder / "map.jsonl").exists():
        drawn["map"] = map_figure([run])
    return [path for name, figure in drawn.items() for path in save(figure, run.folder, name, ("png",))]
