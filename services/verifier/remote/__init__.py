"""Remote graders: services that score over HTTP (`scorer`), language models that judge (`judge`)."""
