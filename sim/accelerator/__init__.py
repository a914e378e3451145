"""Simulation of the whole accelerator: DRAM, the host's bus, and programs that run from one to the other."""
