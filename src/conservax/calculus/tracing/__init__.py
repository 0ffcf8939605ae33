"""Reading programs: what JAX traced, where it stands, what it captured."""
