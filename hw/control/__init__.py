"""Weight loader and loop controller: who does what in which cycle."""
