package remote

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Severities of RFC 5424, section 6.2.1.
const (
	severityErr  = 3
	severityInfo = 6
)

// syslogFormat writes messages.
type syslogFormat struct {
	// style is "" (as syslog(3) writes to the host's socket, without the host's
	// name), rfc3164, rfc5424 or rfc5424micro.
	style string
	// counted puts the length before each message (RFC 5425, section 4.3).
	counted  bool
	hostname string
	pid      int
}

func parseSyslogFormat(name, network string) (syslogFormat, error) {
	switch name {
	case "", "rfc3164":
		return syslogFormat{style: name}, nil
	case "rfc5424", "rfc5424micro":
		return syslogFormat{style: name, counted: network == "tcp+tls"}, nil
	default:
		return syslogFormat{}, errors.New("Invalid syslog format") //nolint:staticcheck // Docker's text
	}
}

// head is what stands before the line, in the time zone of the host.
func (f syslogFormat) head(b []byte, priority int, at time.Time, tag string) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(priority), 10)
	b = append(b, '>')
	at = at.Local()
	switch f.style {
	case "":
		b = at.AppendFormat(b, time.Stamp)
		return f.oldTag(append(b, ' '), tag)
	case "rfc3164":
		b = at.AppendFormat(b, time.Stamp)
		b = append(append(append(b, ' '), f.hostname...), ' ')
		return f.oldTag(b, tag)
	}
	layout := time.RFC3339
	if f.style == "rfc5424micro" {
		layout = "2006-01-02T15:04:05.000000Z07:00"
	}
	tag = word(tag)
	b = append(b, "1 "...)
	b = at.AppendFormat(b, layout)
	b = append(append(append(b, ' '), word(f.hostname)...), ' ')
	b = append(append(b, tag...), ' ')
	b = strconv.AppendInt(b, int64(f.pid), 10)
	return append(append(append(b, ' '), tag...), " - "...)
}

// oldTag is the tag with the process, as RFC 3164 has it.
func (f syslogFormat) oldTag(b []byte, tag string) []byte {
	b = append(b, strings.Map(visible, tag)...)
	b = append(b, '[')
	b = strconv.AppendInt(b, int64(f.pid), 10)
	return append(b, "]: "...)
}

// visible replaces what would end a message, or the line of a log.
func visible(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '_'
	}
	return r
}

// word makes of a text a field of RFC 5424, section 6: printable ASCII without
// spaces, or "-" for none.
func word(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
}

// message appends a whole message, as it goes into a datagram.
func (f syslogFormat) message(b []byte, facility int, e Entry, tag string) []byte {
	severity := severityInfo
	if e.Stderr {
		severity = severityErr
	}
	return append(f.head(b, facility|severity, e.Time, tag), e.Line...)
}

// framed appends a message as it goes into a stream (RFC 6587, section 3.4).
func (f syslogFormat) framed(b []byte, facility int, e Entry, tag string) []byte {
	if !f.counted {
		return append(f.message(b, facility, e, tag), '\n')
	}
	m := append(f.message(nil, facility, e, tag), '\n')
	b = strconv.AppendInt(b, int64(len(m)), 10)
	return append(append(b, ' '), m...)
}
