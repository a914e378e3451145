"""The accelerator on an FPGA board: memory, self-test and UART around it."""
