"""The program cut at its kinks: the abs-normal form at a point."""
