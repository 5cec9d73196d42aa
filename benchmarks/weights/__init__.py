"""What sending weights to generators takes."""
