"""Whole networks on the simulated accelerator, layer by layer beside the golden model and the cycle model."""
