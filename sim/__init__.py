"""Co-simulation: cocotb testbenches on Verilator, checked against :mod:`sw.golden`."""
