"""The process that compares the answers of mirrors."""
