// Package proxy is the HTTP edge itself: what the program berth-edge does. Caddy's
// libraries speak HTTP, to clients and to replicas, and obtain certificates.
//
// # Promises
//
//   - What Set is told is on disk, and then in force for all routes of the owner at one
//     moment. A request that has its replica stays with it; each one after is sent to
//     the new replicas. No connection is closed by it.
//   - A request that a replica could not be given, because it refused the connection, is
//     given to another; all kinds of requests are. One that a replica has taken and not
//     answered is repeated only if it has no body, is a GET, HEAD or OPTIONS, and its
//     route says so.
//   - A replica that did not answer is avoided for some seconds, unless there is no other.
//   - Clients that are slow to send or to take are cut off when they stall for a minute.
//     Replicas may be quiet for as long as they like, and so may both sides of a socket or
//     of a call of gRPC, which is HTTP/2 to the replica.
//   - What a request says of where it comes from (X-Forwarded, X-Real-Ip, Forwarded) is the
//     edge's word, or a trusted proxy's, never a client's.
//   - A client that stays with a replica by a cookie does so for that route alone.
//   - A successor gets the listening sockets, so that none of the connections that wait
//     in them is lost, and all that Set has been told. Who has retired for it takes no
//     further request and ends with the last, at the latest after an hour. Until then it
//     is asked and ended by a socket of its own.
//   - Sockets that somebody has removed are made anew. Of a certificate of the operator's
//     that is broken or half written, what was there before stays in force.
//
// # What it does not do
//
// It speaks neither HTTP/3 to clients, nor TLS to replicas, and does not do CONNECT. Certificates are obtained by
// HTTP-01 and TLS-ALPN-01, so there are none for wildcards, for which Options.Certs is.
// Headers of requests whose names have "_" or "." in them are dropped: programs that
// take those for "-" could be deceived.
//
// Caddy keeps state of the process: there can be one Proxy in a process.
package proxy
