"""What orderflow is measured against."""
