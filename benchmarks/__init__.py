"""Speed and memory of the package on this machine."""
