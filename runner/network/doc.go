// Package network connects containers: to the bridge network and to networks that
// users make, with addresses, routes, NAT, published ports and names; to the host's
// own; or to none.
//
// All is done in process over netlink. What a Manager makes on the host bears its
// instance's name, or its network's ID: the bridges ("br-" + instance, or + twelve
// digits of the ID), the interfaces "ve" + instance + seven digits of the
// endpoint's ID, and one nftables table "berth-" + instance of the family inet.
// Rules of others are never touched. Table and bridges go when the Manager is
// closed and nothing is connected.
//
// # Networks
//
// A network of the driver bridge has a bridge of the host and a subnet of IPv4,
// IPv6 or both: those asked for, or some that neither another network nor a route
// of the host has. Those of macvlan and ipvlan have their containers beside an
// interface of the host, on its wire: the host neither guards nor publishes
// anything there. There is one network of the host, and one that is none.
//
// A container may be in several networks, also while it runs. Its default route of
// each family goes by the one of the highest priority, and among equals by the one
// whose name is the first; published ports lead there, and nowhere if that is no
// bridge. Names that a container has for others are those of containers that it
// shares a network of a user with: see Lookup.
//
// # Reach
//
//   - Containers of one network reach each other (unless it has enable_icc=false)
//     and everything that the host reaches, under the host's address
//     (masquerade). The host reaches containers at their own addresses.
//   - Everybody else, containers of other networks included, reaches a container
//     only by a published port: whatever would be forwarded into a bridge and
//     belongs to no connection that was let in or begun inside is dropped.
//   - An internal network is closed in both directions, also to what others
//     publish: only the host and its containers reach each other.
//   - A published port answers on every address of the host, IPv4 and IPv6, or
//     only on the one asked for. It is a DNAT by a map: one lookup per new
//     connection, whatever the number of ports, and one element more or less per
//     container. No process stands between, but for [::1]: the kernel has no
//     route_localnet for IPv6, so connections to it are carried by this process,
//     TCP and UDP only, and only while it runs. So is what comes over IPv6 to a
//     container that has none, and the other way round: to a service, if any of its
//     backends has none.
//   - While a container is connected to further networks, or disconnected, its ports
//     lead to its new address in one transaction, and are never free. What goes by
//     an interface that goes is lost.
//   - Packets to 127.0.0.0/8 that arrive by an interface are dropped: bridges
//     need route_localnet, which would let them in.
//
// # Services
//
// A published port may belong to a service (SetServices) rather than to a container:
// it leads to the backends that have an address, chosen at random by their weights
// for each new connection. Each such port has a chain, found by a map of verdicts,
// with one rule for each backend: only the first packet of a connection meets them.
// All services of an owner are switched in one transaction, which replaces the rules
// of these chains and nothing else; established connections stay where they are. A
// backend that ends leaves the balance when it is disconnected, and is back when it
// is connected again, whether it listens by then or not. A port whose service has no
// backend with an address refuses connections as a port does that nobody listens at;
// to a port over UDP, packets are lost.
//
// A flow of UDP stays with its backend until that is disconnected. A client that comes
// from the same port within a second after a backend has reset its connection is led to
// that backend once more.
//
// The aliases of a service mean its backends with a weight, in networks of users; who
// asks is told to keep the answer for a second only. Backends that share another's
// namespace, or have the host's, have no address here.
//
// At Restore, and when somebody damaged the table, what is not as it should be is
// changed, and nothing else: a restart of the daemon touches no rule. Each rule has a
// comment that tells it from any other. Only the table of a version whose sets or hooks
// are others is replaced by a new one: a packet that is being looked up at that very
// instant, on another CPU, may meet neither.
//
// A rule of somebody else that drops forwarded packets, such as Docker's policy of
// the chain FORWARD, cannot be overruled from another table. Such chains are named
// in the log.
//
// # Host settings
//
// Forwarding of IPv4 and IPv6 is switched on, and stays on. Interfaces that take
// their routes from router advertisements are told to go on doing so (accept_ra). With
// the first service, flows that were reset are remembered for a second in place of ten
// (nf_conntrack_tcp_timeout_close): a connection from the same address and port would
// be led by what is remembered, past the switch.
//
// # State
//
// On disk are the networks, written when they are made and removed: before that is
// acknowledged, and before their interfaces are made or after they are gone, so that
// there is none without a record; and the services, written before they are in force:
// what is there is what Restore puts in force. What is given to a
// container (addresses, interface, ports) is kept in memory and returned to the
// caller, who records it with the container and hands it back to Restore: to
// start or to end a container writes nothing here. All that Restore is not told
// of is cleared.
//
// A namespace with its interface takes about a millisecond to make, so none are
// kept ready. To delete an interface takes tens of milliseconds, which is why
// that is left to the end of the namespace.
//
// While the Manager lives, each published port is also bound by a socket of this
// process, so that no program of the host can take it, and which listens where
// connections are carried; and the table is watched
// and mended when somebody else changes it.
//
// # What it does not do
//
// Overlay networks and what else is Swarm's, drivers and IPAM by plugins, networks
// that are only a configuration, the gateway modes routed and nat-unprotected, more
// than one subnet of a family in a network: asking for one is an error. So is an
// option that a driver does not have.
package network
