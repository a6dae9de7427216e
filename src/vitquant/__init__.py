"""vitquant: what post-training quantization really does to a Vision Transformer, on this machine."""
