"""The worker: runs inside the jail and is the only one that executes WebAssembly. Standard library only.

Not imported by the host, which bundles its sources and gives them to the jail's interpreter.
"""
