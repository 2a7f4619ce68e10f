"""What came out of runs: kept, measured, tabled, drawn."""
