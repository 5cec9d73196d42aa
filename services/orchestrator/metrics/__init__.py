"""What Prometheus scrapes of a run service, and which workers it is to scrape."""
