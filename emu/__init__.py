"""Boot a kernel under QEMU and talk to it. Knows nothing of probes; see README.md.

>>> from emu import Deadline, Machine, MachineSpec
>>> with Machine(MachineSpec(kernel=..., initramfs=...)) as machine:  # doctest: +SKIP
...     machine.wait_boot(Deadline(60))
...     machine.agent.run("uname -r", Deadline(10)).text
'6.1.0-56-cloud-amd64\\n'
"""

from emu.agent import Agent, CommandResult, RunningCommand
from emu.console import Console
from emu.deadline import Deadline
from emu.errors import EmuError
from emu.machine import Machine
from emu.spec import MachineSpec

__all__ = [
    "Agent",
    "CommandResult",
    "Console",
    "Deadline",
    "EmuError",
    "Machine",
    "MachineSpec",
    "RunningCommand",
]
