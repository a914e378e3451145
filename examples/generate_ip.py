"""Two instances of the IP for one design: no module has the same name in both."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import msvq

with tempfile.TemporaryDirectory() as folder:
    modules = []
    for name, preset in (("npu_small", "ews-msvq-tiny"), ("npu_raw", "ews-tiny")):
        made = msvq.generate(preset, folder, name=name, unit="accelerator", period=2.5)
        modules.append(set(re.findall(r"^module (\w+)", made.verilog, re.MULTILINE)))
        print(f"{name}: {len(modules[-1])} modules, {len(made.verilog.splitlines())} lines of Verilog")
    print("files:", ", ".join(sorted(path.name for path in Path(folder).iterdir())))
assert not modules[0] & modules[1]
