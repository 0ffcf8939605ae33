"""The linear system behind a program's derivative, U(V), and its two tests."""
