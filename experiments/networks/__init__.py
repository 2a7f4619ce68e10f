"""Networks that do not come with fedssh: `--networks experiments/networks`."""
