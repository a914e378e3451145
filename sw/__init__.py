"""Software: compression, the container format, and the integer golden model of the accelerator."""
