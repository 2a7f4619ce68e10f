"""The engine `memory`: the federation's own rules and the sites' own training, without processes, files or SSH."""
