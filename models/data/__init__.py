"""Local data: images in files and folders of every kind, read, checked and divided."""
