"""Who starts whom, what every process needs of the system, and that nothing is left."""
