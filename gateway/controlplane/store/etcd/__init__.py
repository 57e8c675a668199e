"""Where several gateways keep one table: etcd, by its own JSON gateway."""
