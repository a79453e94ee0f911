"""What is measured of a sparse network: savings, cost of training, the physically smaller one."""
