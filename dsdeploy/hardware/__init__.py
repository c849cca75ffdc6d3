"""What a machine is: accelerators, nodes, links, memory and disks."""
