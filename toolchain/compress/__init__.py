"""Compression: recipes of stages that turn one Hugging Face checkpoint into a smaller one.

Modules here may import torch; nothing outside of this package and `toolchain.evaluate` does.
"""
