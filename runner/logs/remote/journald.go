package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// journalSocket is where the journal of a host takes entries.
const journalSocket = "/run/systemd/journal/socket"

func parseJournald(s *Settings, options map[string]string) error {
	for name := range options {
		return fmt.Errorf("unknown log opt '%s' for journald log driver", name)
	}
	s.connect = func(Lost) (Destination, error) { return &journal{}, nil }
	return nil
}

// journal sends entries by the journal's native protocol, each as a datagram of
// fields, or as a sealed file in memory if it is too long for one.
type journal struct {
	buf []byte

	mu   sync.Mutex
	conn *net.UnixConn
}

// Open implements Destination.
func (d *journal) Open(ctx context.Context) error {
	if _, err := d.open(ctx); err != nil {
		return errors.New("journald is not enabled on this host")
	}
	return nil
}

func (d *journal) open(ctx context.Context) (*net.UnixConn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		return d.conn, nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", journalSocket)
	if err != nil {
		return nil, err
	}
	d.conn = conn.(*net.UnixConn)
	return d.conn, nil
}

// Send implements Destination.
func (d *journal) Send(ctx context.Context, src Source, entries []Entry) error {
	conn, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer interrupt(ctx, conn)()
	common := sourceFields(src)
	for _, e := range entries {
		d.buf = entryFields(append(d.buf[:0], common...), e)
		if err := sendJournal(conn, d.buf); err != nil {
			d.Close()
			return err
		}
	}
	return nil
}

// sendJournal sends one entry.
func sendJournal(conn *net.UnixConn, fields []byte) error {
	_, err := conn.Write(fields)
	if !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("berth-log", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if _, err := f.Write(fields); err != nil {
		return err
	}
	// The journal maps the file, and takes only what cannot change any more.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(f.Fd()))
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), nil, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(err, syscall.EAGAIN)
	})
	return errors.Join(werr, err)
}

// Close implements Destination.
func (d *journal) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.Close()
		d.conn = nil
	}
}

// sourceFields are those that all entries of a container have.
func sourceFields(src Source) []byte {
	var b []byte
	for name, value := range src.Attrs {
		if name = fieldName(name); name != "" {
			b = field(b, name, value)
		}
	}
	b = field(b, "CONTAINER_ID", src.short())
	b = field(b, "CONTAINER_ID_FULL", src.ID)
	b = field(b, "CONTAINER_NAME", src.Name)
	b = field(b, "CONTAINER_TAG", src.Tag)
	b = field(b, "IMAGE_NAME", src.Image)
	return field(b, "SYSLOG_IDENTIFIER", src.Tag)
}

// entryFields appends those of one entry.
func entryFields(b []byte, e Entry) []byte {
	severity := severityInfo
	if e.Stderr {
		severity = severityErr
	}
	b = field(b, "PRIORITY", strconv.Itoa(severity))
	b = field(b, "SYSLOG_TIMESTAMP", e.Time.UTC().Format(time.RFC3339Nano))
	if p := e.Piece; p != nil {
		if !p.Last {
			b = field(b, "CONTAINER_PARTIAL_MESSAGE", "true")
		}
		b = field(b, "CONTAINER_PARTIAL_ID", p.ID)
		b = field(b, "CONTAINER_PARTIAL_ORDINAL", strconv.Itoa(p.Ordinal))
		b = field(b, "CONTAINER_PARTIAL_LAST", strconv.FormatBool(p.Last))
	}
	return field(b, "MESSAGE", e.Line)
}

// field appends a field, with its length: the value may be of any bytes.
func field[T string | []byte](b []byte, name string, value T) []byte {
	b = append(append(b, name...), '\n')
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(append(b, value...), '\n')
}

// maxFieldName is the longest name that the journal takes.
const maxFieldName = 64

// fieldName makes of the name of a label one of a field: capitals, digits and
// underscores, of which none is the first. It is empty if nothing is left.
func fieldName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		default:
			return '_'
		}
	}, name)
	name = strings.TrimLeft(name, "_")
	return name[:min(len(name), maxFieldName)]
}
