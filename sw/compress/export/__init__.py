"""From PyTorch to :class:`sw.network.Network`: a quantised graph, or a vision transformer."""
