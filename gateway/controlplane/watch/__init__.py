"""What is live: who is well, where names lead, how much goes through, what is wrong."""
