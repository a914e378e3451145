"""``python -m hw.board``: a bitstream of the accelerator that tests itself. The command line of package ``fpga``.

Nobody imports this file: networks are compiled above ``hw``, so it starts that package and knows nothing of it.
"""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("fpga", run_name="__main__", alter_sys=False)
