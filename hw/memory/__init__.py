"""Register files and the pointers that run through them."""
