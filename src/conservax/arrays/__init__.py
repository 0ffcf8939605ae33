"""Arrays of NumPy and of JAX under one text, and the factorisations of many matrices at once."""
