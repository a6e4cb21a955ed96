"""/demo: a small shop to play with, on the machine of who develops with orderflow. Nowhere else."""
