"""Run folders -> the paper's Figures 2 to 4, and the pictures each run leaves behind.

Reads `run.json`, `metrics.jsonl` and `latents.jsonl`; trains nothing and needs no torch. Figures
are drawn without pyplot's global state, so that drawing is safe within training and in threads.
Nats are per sequence, x is the optimiser step ("update").
"""

from __future__ import annotations

from pathlib import Path

from cvae.figures.animation import latent_animation, save_gif
from cvae.figures.curves import OVERVIEW, curves_figure, run_curves, schedules_figure
from cvae.figures.latents import latent_figure, plane_picture, run_latents, spread_steps
from cvae.figures.style import ORDER, save
from cvae.runs import read_run

__all__ = [
    "ORDER",
    "OVERVIEW",
    "curves_figure",
    "latent_animation",
    "latent_figure",
    "plane_picture",
    "run_pictures",
    "save",
    "save_gif",
    "schedules_figure",
]


def run_pictures(folder: str | Path) -> list[Path]:
    """Writes `curves.png` and, for a 2-d latent, `latents.png` into a run folder: the paths."""
    run = read_run(folder)
    written = save(run_curves(run), run.folder, "curves", ("png",))
    flat = {step: s for step, s in run.latents.items() if s.mean.shape[1] == 2}
    if flat:
        written += save(run_latents(run, spread_steps(flat)), run.folder, "latents", ("png",))
    return written
