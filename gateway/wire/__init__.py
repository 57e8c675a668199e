"""What the processes of a gateway say to each other, and how it crosses."""
