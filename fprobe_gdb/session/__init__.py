"""What users hold in their hands: a booted guest with probes. Wires emulator, targets, kernel and dispatch."""
