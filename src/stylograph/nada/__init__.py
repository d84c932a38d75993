"""StyleGAN-NADA: a generator moved to another domain by a sentence or a few pictures."""
