"""Mirrors whose answers are compared: which there are, and what is known of each."""
