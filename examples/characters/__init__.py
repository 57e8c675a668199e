"""A model that answers as a stream: text, one character after the other."""
