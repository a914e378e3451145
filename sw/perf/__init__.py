"""Cycles, traffic and utilisation of networks and programs on the accelerator."""
