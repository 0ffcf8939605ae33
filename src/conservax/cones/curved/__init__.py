"""What cones in ℝ³ with a curved boundary share: the exponential and the power cones."""
