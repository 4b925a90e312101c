// Package names answers what the containers of user networks ask of the server
// at 127.0.0.11: names of other containers, and whatever an upstream server
// knows.
//
// # Where it listens
//
// For each container there are two sockets, UDP and TCP, of this process in the
// container's network namespace, at ports of the kernel's choice, so that port
// 53 is free for a server in the container. A table of nftables in that namespace
// rewrites the ports of packets to 127.0.0.11:53 and of those that come back. It
// does so packet by packet: connections in the container need not be tracked for
// it, and a query that is sent while the daemon is away is not refused, but is
// answered when it is sent again.
//
// The table outlives the daemon; the next one replaces it whole.
//
// # What it answers
//
//   - A and AAAA for names that the Resolver knows, several addresses in random
//     order, with a time to live of 600 s, or of 1 s if the name is a service's.
//     Other types of such a name have no data, and are not asked of anybody else.
//   - PTR for addresses that the Resolver knows.
//   - All else is passed to the upstreams, one after the other, and their answer
//     back, byte by byte but for the ID: over UDP, with TCP if it is truncated, or
//     over TCP if that is what the client uses. All upstreams together have less
//     time than clients are used to wait (5 s). If none answers, or there is none,
//     it is SERVFAIL.
//   - A container without a way out (Resolver.External) gets no answer from
//     upstreams that the host would ask; one inside its networks it may reach.
//
// # Bounds
//
// An idle container costs two sockets and two goroutines, no buffers. One that
// asks much can have 1024 queries at upstreams and 64 TCP connections; beyond
// that packets are dropped and connections wait, as with a server that is busy. A
// query over 4 KiB is no query. All containers together have 8192 queries at
// upstreams.
//
// # What it does not do
//
// It keeps no cache, and validates nothing (DNSSEC): the bits and records for it
// pass through.
package names
