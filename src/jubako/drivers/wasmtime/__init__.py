"""The WebAssembly boundary: programs run as WebAssembly, in a worker that has a process boundary around it."""
