"""What the five lines of work are compared with."""
