"""Rollouts: how a plan is read, judged, carried out and kept."""
