"""A program planned and run: every kink's increment, every branch's other side."""
