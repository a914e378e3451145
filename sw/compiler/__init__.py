"""From a network of compressed layers to a program that the accelerator runs."""
