"""Register-transfer level description of the accelerator, in Amaranth.

:mod:`hw.config` and :mod:`hw.layout` are the ground floor: plain Python, no Amaranth and no numpy, imported by
everything else in the project. No module of ``hw`` imports ``sw``.
"""
