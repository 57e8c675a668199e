"""Tests of Headgate: by module beside the code's own folders, and from outside by requirement."""
