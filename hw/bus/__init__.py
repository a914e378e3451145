"""The accelerator on the SoC's buses: AXI4 manager, AXI4-Lite subordinate, register map."""
