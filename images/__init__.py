"""Kernels, emulators and initramfs images to boot. Knows nothing of probes.

>>> import images
>>> images.kernel("6.1").release  # doctest: +SKIP
'6.1.0-56-cloud-amd64'
"""

from images.fetch import EmulatorFiles, KernelFiles, emulator, kernel

__all__ = ["EmulatorFiles", "KernelFiles", "emulator", "kernel"]
