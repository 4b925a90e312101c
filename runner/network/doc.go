// Package network connects containers: to the bridge network, with addresses,
// routes, NAT and published ports; to the host's own; or to none.
//
// All is done in process over netlink. What a Manager makes on the host bears
// its instance's name: the bridge, the interfaces "ve" + instance + seven digits
// of the endpoint's ID, and one nftables table "berth-" + instance of the family
// inet. Rules of others are never touched. Table and bridge go when the Manager
// is closed and nothing is connected.
//
// # Reach
//
//   - Containers of one network reach each other, and everything that the host
//     reaches, under the host's address (masquerade). The host reaches
//     containers at their own addresses.
//   - Everybody else reaches a container only by a published port: whatever would
//     be forwarded into a bridge and belongs to no connection that was let in or
//     begun inside is dropped.
//   - A published port answers on every address of the host, IPv4 and IPv6, or
//     only on the one asked for. It is a DNAT by a map: one lookup per new
//     connection, whatever the number of ports, and one element more or less per
//     container. No process stands between, but for [::1]: the kernel has no
//     route_localnet for IPv6, so connections to it are carried by this process,
//     TCP and UDP only, and only while it runs.
//   - Packets to 127.0.0.0/8 that arrive by an interface are dropped: the bridge
//     needs route_localnet, which would let them in.
//
// A rule of somebody else that drops forwarded packets, such as Docker's policy of
// the chain FORWARD, cannot be overruled from another table. Such chains are named
// in the log.
//
// # Host settings
//
// Forwarding of IPv4 and IPv6 is switched on, and stays on. Interfaces that take
// their routes from router advertisements are told to go on doing so (accept_ra).
//
// # State
//
// On disk are the networks alone, written when they are made. What is given to a
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
// process, so that no program of the host can take it; and the table is watched
// and made again when somebody else flushes it.
//
// # What it does not do
//
// Networks made by users, names (DNS), aliases, links and driver options: asking
// for one is an error.
package network
