"""Sums of updates that nobody sees alone, by four ways of hiding them, beside the plain one."""
