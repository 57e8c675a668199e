"""Two models, x² and √x, behind one gateway in three ways: see the YAML files."""
