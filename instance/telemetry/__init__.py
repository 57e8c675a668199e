"""What can be known of an instance from outside."""
