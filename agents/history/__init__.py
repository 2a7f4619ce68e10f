"""The history as people read it: views, texts and totals. Standard library only."""
