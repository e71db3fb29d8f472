"""NVIDIA GPUs, read through the library NVML."""
