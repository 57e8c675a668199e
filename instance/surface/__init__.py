"""HTTP: what clients of an instance see."""
