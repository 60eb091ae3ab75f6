"""The ROS 2 nodes. They convert messages, call the core and publish results."""
