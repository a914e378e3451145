"""Bitstreams that test themselves: networks on the accelerator in an FPGA (``python -m hw.board``)."""
