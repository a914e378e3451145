"""Weight decoder: packed streams in, rows of weights for the array out (MVQ section 5.2)."""
