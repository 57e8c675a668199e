"""What can be known of the gateway from outside: counters, log lines."""
