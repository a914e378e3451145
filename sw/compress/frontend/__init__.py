"""From a float network in torch to a graph of the operations that the rest knows, before anything is compressed.

:func:`raise_network` has ``torch.export`` capture what the network computes, which makes mutation, aliases, hooks and
parametrisations explicit, and raises the captured operations to a graph (``torch.fx``) of layers, batch norms and
functions. The graph is compared with the network itself, on images. What it cannot take is refused by the name that
the user gave it: a :class:`FrontEndError` lists all of it at once.
"""

from sw.compress.frontend.capture import example_images, observe, same, unwrapped
from sw.compress.frontend.inputs import Given, Inputs
from sw.compress.frontend.modules import Affine, Crop, PadShortcut, Repeat, Spread
from sw.compress.frontend.places import FrontEndError, Refusal
from sw.compress.frontend.raising import raise_network, raise_program

__all__ = [
    "Affine",
    "Crop",
    "FrontEndError",
    "Given",
    "Inputs",
    "PadShortcut",
    "Refusal",
    "Repeat",
    "Spread",
    "example_images",
    "observe",
    "raise_network",
    "raise_program",
    "same",
    "unwrapped",
]
