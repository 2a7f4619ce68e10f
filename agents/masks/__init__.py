"""Sums that come out and summands that do not: secure aggregation (Bonawitz et al. 2017), on a public board."""
