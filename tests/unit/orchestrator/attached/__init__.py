"""Which agent gets which worker, and what agents tell of them."""
