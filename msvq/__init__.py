"""From a trained network to compressed weights, to a program, to Verilog: the library's face.

Ten lines from a torch module to bits::

    import msvq

    recipe = msvq.Recipe("msvq", k=32, d=16, n=4, m=16)
    done = msvq.calibrate(model, images, recipe)  # images: normalised floats [n, C, rows, columns]
    done.write("net.msvq")
    config = msvq.preset("ews-cms-16")
    program = msvq.compile("net.msvq", config)
    logits = msvq.run(program, images[:1])["logits"]  # bit for bit what the Verilog computes
    msvq.generate(config, "build/rtl", unit="accelerator")

Nothing is loaded before it is used: ``import msvq`` takes no time, and what needs no torch does not load it. On the
command line, ``msvq --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import hw  # noqa: F401 - Ctrl-C while a command loads is one line

if TYPE_CHECKING:
    from hw.config import PRESETS, AcceleratorConfig, preset
    from msvq.api import (
        Compressed,
        calibrate,
        compile,
        compress,
        decompress,
        evaluate,
        finetune,
        generate,
        load,
        load_data,
        run,
    )
    from sw.compress.methods import Recipe
    from sw.compress.training.settings import Freezing, TrainConfig

__all__ = [
    "PRESETS",
    "AcceleratorConfig",
    "Compressed",
    "Freezing",
    "Recipe",
    "TrainConfig",
    "calibrate",
    "compile",
    "compress",
    "decompress",
    "evaluate",
    "finetune",
    "generate",
    "load",
    "load_data",
    "preset",
    "run",
]

_PLACES = {
    "PRESETS": "hw.config",
    "AcceleratorConfig": "hw.config",
    "preset": "hw.config",
    "Recipe": "sw.compress.methods",
    "Freezing": "sw.compress.training.settings",
    "TrainConfig": "sw.compress.training.settings",
}


def __getattr__(name: str) -> Any:
    """What the library offers, from the module that has it, at its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES.get(name, "msvq.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
