package names

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// patience is how long a TCP client may take for a query from its first byte, or
// until its first byte, and to take an answer.
const patience = 10 * time.Second

// serveTCP accepts connections while there are not too many.
func (l *listener) serveTCP(ctx context.Context) {
	for {
		select {
		case l.conns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.tcp.AcceptTCP()
		if err != nil {
			<-l.conns
			if errors.Is(err, net.ErrClosed) {
				return
			}
			pause(ctx) // out of descriptors, for example
			continue
		}
		l.wg.Go(func() {
			defer func() { <-l.conns }()
			l.serveConn(ctx, conn)
		})
	}
}

// serveConn answers the queries of a connection, one after the other.
func (l *listener) serveConn(ctx context.Context, conn *net.TCPConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	for ctx.Err() == nil {
		query, err := readTCP(conn, time.Now().Add(patience), longestQuery)
		if err != nil {
			return
		}
		msg, rest := l.reply(query, true)
		if rest != nil {
			if !l.acquire() {
				return
			}
			msg = l.forward(ctx, rest, true)
			l.release()
		}
		if msg == nil || writeTCP(conn, time.Now().Add(patience), msg) != nil {
			return
		}
	}
}

var errTooLong = errors.New("message is too long")

// readTCP reads a message, whose length goes before it (RFC 1035, 4.2.2).
func readTCP(conn net.Conn, deadline time.Time, longest int) ([]byte, error) {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > longest {
		return nil, errTooLong
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(conn, msg)
	return msg, err
}

// writeTCP writes a message with its length.
func writeTCP(conn net.Conn, deadline time.Time, msg []byte) error {
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}
