"""One file for each kind of cone: all that the library knows of it."""
