"""The walk behind ``definability``: dictionaries, ranges, switches."""
