"""Images and the compose file, as they are written."""
