"""Problems of CVXPY as layers."""
