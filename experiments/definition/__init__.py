"""What an experiment asks for: its file, its settings, its data."""
