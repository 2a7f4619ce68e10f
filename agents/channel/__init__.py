"""The channel between Alice and the judge, while they train one network together: sealed from end to end."""
