"""From sums to feature maps: requantiser, ofmap storer, and vector unit (MVQ section 5.1)."""
