"""Adapters and checkpoints of the ecosystem become packages: PEFT on timm or on Hugging Face's ViT, whole models.

transformers and peft are imported by the modules that need them, when they are used.
"""
