"""What each operation is to the calculus: smooth and where, or its kinks."""
