"""What happens to an edit."""
