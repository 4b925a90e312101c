// Package remote sends the output of containers to log servers: the systemd
// journal, syslog servers and fluentd, each with the options, the fields and the
// texts of Docker's driver of that name.
//
// A Destination is one server with the options that concern it. Any number of
// containers share it, and with it one connection: what they wrote goes over it
// with the name of each.
//
// It keeps nothing: whoever calls Send has the entries until Send has returned
// nil, and sends them again otherwise, so that all arrive at least once. How much
// Send's nil says depends on the protocol. The journal and a fluentd that
// acknowledges have the entries. A stream (syslog over TCP, TLS or a unix socket;
// fluentd without acknowledgement) has taken them into the buffers of the two
// kernels: if it breaks, the caller is told when, to send again what may have been
// in them. A datagram over UDP may have been dropped on its way, as ever; that
// nobody listens on the other host is noticed if that host says so.
package remote
