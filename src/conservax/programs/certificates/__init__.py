"""Whether a program's derivative exists for every choice of active pieces."""
