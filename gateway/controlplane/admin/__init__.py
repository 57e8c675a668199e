"""The admin listener: the API, its readers and its pages."""
