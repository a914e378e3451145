"""Energy of the accelerator at the level of gates: netlists, their simulation on real layers, Liberty energies."""
