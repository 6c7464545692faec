"""What changes instances and their boxes."""
