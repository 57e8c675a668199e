"""Models to run, read and copy: each folder is one example with its configuration file."""
