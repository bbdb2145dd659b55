"""Text VAEs under any annealing schedule: see docs/architecture.md for the rooms of the package.

`cvae.load("outputs/ptb/default")` opens a trained model (`cvae.library`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvae.library import VAE, load

__all__ = ["VAE", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the library where it is used: `import cvae` alone needs neither torch nor Hydra."""
    if name not in ("VAE", "load"):
        raise AttributeError(f"module 'cvae' has no attribute {name!r}")
    from cvae import library

    return getattr(library, name)
