"""A model in use, at a site or at the coordinator: exported, described, and asked about images nobody has labelled."""
