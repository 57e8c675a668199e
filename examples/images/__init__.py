"""A model that takes pictures: a digit as a PNG or PGM file of any size."""
