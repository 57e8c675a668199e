"""Three hosts on one machine: gateways with one table in etcd, and what becomes of them."""
