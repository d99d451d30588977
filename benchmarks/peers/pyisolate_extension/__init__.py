"""What pyisolate runs in its child process; the counterpart of ``benchmarks/pack``."""

import pyisolate


class Bench(pyisolate.ExtensionBase):
    async def nothing(self, value):
        return value

    async def transform(self, image):
        """A new tensor of the size of the one that came in."""
        return image * 2.0

    async def take(self, image):
        return float(image[-1])
