"""What people write, and all that can be wrong with it."""
