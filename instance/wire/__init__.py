"""What front and model say to each other, and how it crosses."""
