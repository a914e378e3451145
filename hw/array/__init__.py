"""The EWS array: tiles, register files, adder trees (MVQ section 5.3)."""
