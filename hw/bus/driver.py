"""The C driver that comes with an accelerator, and an example: ``driver.h`` and ``example.c`` beside this."""

from __future__ import annotations

from pathlib import Path

from hw.bus.register_map import CAUSES

__all__ = ["driver_files"]

_HERE = Path(__file__).parent


def driver_files(name: str) -> dict[str, str]:
    """Text of ``<name>_driver.h`` and ``<name>_example.c``, by what comes after the name.

    Parameters
    ----------
    name
        Of the instance: the driver includes the registers from ``<name>.h``. Functions of the example begin with it,
        with an underscore for what C does not allow there.
    """
    causes = "\n".join(f'    case MSVQ_CAUSE_{cause.name}: return "{meaning}";' for cause, meaning in CAUSES.items())
    header = (_HERE / "driver.h").read_text(encoding="utf-8").replace("@NAME@", name).replace("@CAUSES@", causes)
    prefix = "".join(c if c.isalnum() else "_" for c in name)
    example = (_HERE / "example.c").read_text(encoding="utf-8")
    example = example.replace("@NAME@_driver.h", f"{name}_driver.h").replace("@NAME@", prefix)
    return {"_driver.h": header, "_example.c": example}
