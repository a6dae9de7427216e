"""What runs an artifact of vitquant-int8 with NumPy alone: native code, compiled for this CPU, and what packs weights.

Nothing here imports PyTorch or timm.
"""
