"""Verilog around a design with streams that watches the handshakes, so that Python need not look at every clock edge.

For each input stream ``i_x`` the wrapper has the inputs ``i_x_valid`` and ``i_x_payload``; for each output stream
``o_y`` the input ``o_y_ready`` and the output ``o_y_payload``, which holds the payload of the last transfer. Bit n of
``fired`` is high after a rising edge at which stream n, in the order of the manifest, transferred. Its highest bit says
that an output stream broke the protocol: it took back ``valid``, or changed its payload, before ``ready``. ``wake``
toggles at the falling edge of every cycle with such an event, or of every cycle while ``poll`` is high: inputs that
Python changes then are stable at both rising edges around.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["TOP", "wrapper_verilog"]

#: Name of the wrapper's module.
TOP = "bench"


def _range(width: int) -> str:
    return f"[{width - 1}:0]"


def wrapper_verilog(manifest: Mapping[str, Any]) -> str:
    """The wrapper for a generated design.

    Parameters
    ----------
    manifest
        As :func:`hw.generate.generate` gives it: ``top``, ``ports`` and ``streams`` are used. Ports that belong to
        no stream keep their names.
    """
    streams = manifest["streams"]
    ports = ["input clk", "input rst", "input poll", "output reg wake", f"output reg {_range(len(streams) + 1)} fired"]
    connections = [".clk(clk)", ".rst(rst)"]
    wires, watched, captures, checks = [], [], [], []
    for port in manifest["ports"]:
        name = port["name"]
        if name not in ("clk", "rst") and name.rpartition("__")[0] not in streams:
            ports.append(f"{port['direction']}put {_range(port['width'])} {name}")
            connections.append(f".{name}({name})")
    for name, stream in streams.items():
        width = _range(stream["payload"]["width"])
        if stream["direction"] == "in":
            ports += [f"input {name}_valid", f"input {width} {name}_payload"]
            wires.append(f"wire {name}_ready;")
            payload = f"{name}_payload"
        else:
            ports += [f"input {name}_ready", f"output reg {width} {name}_payload"]
            payload = f"{name}_now"
            wires += [f"wire {name}_valid;", f"wire {width} {payload};"]
            wires += [f"reg {name}_offered;", f"reg {width} {name}_offer;"]
            captures += [
                f"if ({name}_valid & {name}_ready) {name}_payload <= {payload};",
                f"{name}_offered <= {name}_valid & ~{name}_ready & ~rst;",
                f"{name}_offer <= {payload};",
            ]
            checks.append(f"({name}_offered & (~{name}_valid | ({name}_offer != {payload})))")
        watched.append(f"{name}_valid & {name}_ready")
        for member, signal in (("payload", payload), ("valid", f"{name}_valid"), ("ready", f"{name}_ready")):
            connections.append(f".{name}__{member}({signal})")
    checks = checks or ["1'b0"]
    lines = [
        f"module {TOP} (",
        ",\n".join(f"  {port}" for port in ports),
        ");",
        *(f"  {wire}" for wire in wires),
        f"  {manifest['top']} dut (",
        ",\n".join(f"    {connection}" for connection in connections),
        "  );",
        "  always @(posedge clk) begin",
        *(f"    {capture}" for capture in captures),
        "    fired <= rst ? 0 : {" + ", ".join([" | ".join(checks), *reversed(watched)]) + "};",
        "  end",
        "  always @(negedge clk) if (poll | (|fired)) wake <= ~wake;",
        "endmodule",
    ]
    return "\n".join(lines) + "\n"
