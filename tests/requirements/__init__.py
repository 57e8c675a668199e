"""One file per requirement of the reliability list, named by its number."""
