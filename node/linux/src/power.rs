//! Reboot, power off, Ctrl-Alt-Del.
