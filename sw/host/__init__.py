"""Networks that run in steps: programs on the accelerator, and what the host computes between them."""
