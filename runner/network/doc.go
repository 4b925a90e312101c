// Package network gives containers their networks: a bridge with addresses,
// routes and NAT, the host's own network, or none.
package network
