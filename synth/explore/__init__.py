"""Sweeps over instances: area, energy, cycles and accuracy of each, and those that no other one beats."""
