package remote

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// fluentd sends entries in Forward mode of the Forward protocol, version 1: those
// of one call as one message.
type fluentd struct {
	set    fluentdSettings
	stream stream
	buf    []byte
}

// Open implements Destination.
func (d *fluentd) Open(ctx context.Context) error {
	_, err := d.stream.open(ctx)
	return err
}

// Close implements Destination.
func (d *fluentd) Close() { d.stream.drop(d.stream.current()) }

// Send implements Destination.
func (d *fluentd) Send(ctx context.Context, src Source, entries []Entry) error {
	if d.set.reconnect > 0 && d.stream.age() > d.set.reconnect {
		d.Close() // the name may stand for another host now
	}
	conn, err := d.stream.toSend(ctx)
	if err != nil {
		return err
	}
	chunk := ""
	if d.set.ack {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // it never fails
		chunk = base64.StdEncoding.EncodeToString(id)
	}
	d.buf = d.set.message(d.buf[:0], src, entries, chunk)
	if err := d.stream.write(ctx, conn, d.buf, d.set.writeTimeout); err != nil || chunk == "" {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(d.set.readTimeout)); err != nil {
		return err
	}
	defer interrupt(ctx, conn)()
	if err := awaitAck(conn, chunk); err != nil {
		d.stream.drop(conn)
		return err
	}
	return nil
}

// message appends a message; without a chunk, no answer is asked for.
func (set fluentdSettings) message(b []byte, src Source, entries []Entry, chunk string) []byte {
	b = msgp.AppendArrayHeader(b, 3)
	b = msgp.AppendString(b, src.Tag)
	b = msgp.AppendArrayHeader(b, uint32(len(entries)))
	attrs := attributes(src)
	for _, e := range entries {
		b = msgp.AppendArrayHeader(b, 2)
		b = set.time(b, e.Time)
		b = record(b, src, attrs, e)
	}
	options := uint32(1)
	if chunk != "" {
		options++
	}
	b = msgp.AppendMapHeader(b, options)
	b = msgp.AppendString(b, "size")
	b = msgp.AppendInt(b, len(entries))
	if chunk != "" {
		b = msgp.AppendString(b, "chunk")
		b = msgp.AppendString(b, chunk)
	}
	return b
}

// time appends the time of an entry: in seconds, or as the EventTime of the
// protocol.
func (set fluentdSettings) time(b []byte, at time.Time) []byte {
	if !set.fraction {
		return msgp.AppendInt64(b, at.Unix())
	}
	b = append(b, 0xd7, 0x00) // fixext 8 of type 0
	b = binary.BigEndian.AppendUint32(b, uint32(at.Unix()))
	return binary.BigEndian.AppendUint32(b, uint32(at.Nanosecond()))
}

// attributes are those of a source that do not stand for a field, in pairs.
func attributes(src Source) []string {
	var pairs []string
	own := []string{"container_id", "container_name", "source", "log", "partial_message", "partial_id", "partial_ordinal", "partial_last"}
	for name, value := range src.Attrs {
		if !slices.Contains(own, name) {
			pairs = append(pairs, name, value)
		}
	}
	return pairs
}

// record appends the record of an entry.
func record(b []byte, src Source, attrs []string, e Entry) []byte {
	from := "stdout"
	if e.Stderr {
		from = "stderr"
	}
	pairs := append(slices.Clip(attrs), "container_id", src.ID, "container_name", "/"+src.Name, "source", from)
	if p := e.Piece; p != nil {
		pairs = append(pairs, "partial_message", "true", "partial_id", p.ID,
			"partial_ordinal", strconv.Itoa(p.Ordinal), "partial_last", strconv.FormatBool(p.Last))
	}
	b = msgp.AppendMapHeader(b, uint32(len(pairs)/2+1))
	for _, s := range pairs {
		b = msgp.AppendString(b, s)
	}
	b = msgp.AppendString(b, "log")
	return msgp.AppendStringFromBytes(b, e.Line)
}

// maxAnswer is how long an answer may be.
const maxAnswer = 4 << 10

// awaitAck reads the answer to a message: a map with the name of its chunk.
func awaitAck(conn net.Conn, chunk string) error {
	answer := make([]byte, 0, 128)
	for len(answer) < maxAnswer {
		n, err := conn.Read(answer[len(answer):cap(answer)])
		if err != nil {
			return err
		}
		answer = slices.Grow(answer[:len(answer)+n], 128)
		got, err := parseAck(answer)
		if errors.Is(err, msgp.ErrShortBytes) {
			continue
		}
		if err == nil && got != chunk {
			err = fmt.Errorf("fluentd acknowledges %q, and not %q", got, chunk)
		}
		return err
	}
	return errors.New("fluentd answers at length")
}

// parseAck reads an answer. It is msgp.ErrShortBytes if it goes on.
func parseAck(b []byte) (chunk string, err error) {
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return "", err
	}
	for range n {
		var key string
		if key, b, err = msgp.ReadStringBytes(b); err != nil {
			return "", err
		}
		if key == "ack" {
			if chunk, b, err = msgp.ReadStringBytes(b); err != nil {
				return "", err
			}
			continue
		}
		if b, err = msgp.Skip(b); err != nil {
			return "", err
		}
	}
	return chunk, nil
}
