"""What `./run` starts, in which order, and how it ends. Standard library only, but for the path of Valkey's binary."""
