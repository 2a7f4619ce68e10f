"""What passes a cut: what a coordinator could make of it, and whether a site notices when she hijacks its training."""
