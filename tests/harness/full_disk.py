"""What does a process need whose files may not grow, so that it spoils none but its own?

Python keeps what it compiles beside the sources, and up to 3.12.7 also what it could write only the
beginning of: each later process that loads such a module ends with "marshal data too short".
"""

NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
