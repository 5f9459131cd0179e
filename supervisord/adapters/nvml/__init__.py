"""NVIDIA GPUs, as their driver tells of them: memory, who uses it, how busy they are and who keeps them so."""

from supervisord.adapters.nvml.sensor import NvmlSensor

__all__ = ["NvmlSensor"]
