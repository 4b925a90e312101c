// Package logs keeps the logs of containers within bounds and reads them.
//
// The monitor of a container (conmon) writes its log itself, to the file ctr.log
// in a directory of the container's, in the format of Kubernetes: each line of
// output, or each piece of one that came without its end, is a line of the file
// with the time, the stream and whether the line ends there. So nothing is lost
// while the daemon is not there.
//
// When the file has grown to a bound that the monitor knows, the monitor begins a
// new one, which it opens as ctr.log.tmp and renames to ctr.log; the old one is
// gone unless it has another name. A Keeper gives it one. In a directory there
// are:
//
//	ctr.log         the file that is written to
//	ctr.log.N       a second name of it, or an older one; they follow each other by N
//	ctr.log.N-S     the same, without its first S bytes
//	ctr.log.N.L.gz  the same, of L bytes, compressed; so is ctr.log.N-S.L.gz
//	ctr.log.sent    how far the log has been sent to a server
//	ctr.log.next    what the monitor writes to next, made ahead by the Keeper ...
//	ctr.log.tmp     ... and given to the monitor under this name
//	ctr.log.cut     a file that is being shortened
//
// With ctr.log.next a file survives even if the monitor goes on to another one
// before the Keeper notices; what is lost if it goes on to a third is a file of
// MonitorLimit bytes, and the log then has a gap that nothing marks.
//
// Copy needs no Keeper: it makes out the order of the files by itself.
//
// A Forwarder sends what the monitors have written to log servers (package
// remote), from the files, so that they are the queue: a server that is away costs
// no memory, and a daemon that was killed goes on where it had come to. All that a
// log has arrives at least once and in order, within two bounds. What is not sent
// is kept beyond the log's own bound up to Options.MaxUnsent bytes, and no longer
// when the file system has less than a twentieth free; then the oldest goes, and
// the daemon's log has a warning of the gap. A container is never held up for its
// server, in either of Docker's modes: "blocking" has a long queue, and
// "non-blocking" one of max-buffer-size. A line that has no end yet is sent when it
// ends, with its container, or when there are 16 KiB of it.
//
// What was sent over a connection that breaks may be lost though it was sent: the
// last two seconds before its end, and, if the server had not read all, up to
// 8 MiB, of the last half minute at least, are sent again, and their files are
// kept for that. A fluentd that acknowledges needs neither.
package logs
