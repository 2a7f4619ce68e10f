"""The coordinator: judges what the sites send, keeps the best, and hands it on."""
