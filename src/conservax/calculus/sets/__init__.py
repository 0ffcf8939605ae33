"""The set of Jacobians in abs-normal form: elements, hulls, bounds, membership."""
