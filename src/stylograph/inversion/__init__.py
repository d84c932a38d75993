"""Pictures of one's own as codes of a generator: encoder, optimisation, pivotal tuning."""
