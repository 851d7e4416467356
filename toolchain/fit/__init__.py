"""`edgec fit`: what a model needs on a target, from its shape alone; docs/fit.md explains it."""
