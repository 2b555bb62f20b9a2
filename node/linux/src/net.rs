//! Network links, addresses, routes, over netlink and packet sockets.
