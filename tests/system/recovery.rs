//! Restart, reboot, and what others do to the agent's devices, its database and its disk.
