"""Two models, x² and √x, behind one gateway in four ways: see the YAML files."""
