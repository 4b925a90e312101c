package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// value is a field of a configuration seen as text.
type value struct {
	tag  string            // of the YAML scalar: strTag or boolTag
	want string            // what is possible, for people
	text func() string     // the field as text
	set  func(string) bool // sets the field, or says that the text is impossible
}

// The YAML types of values.
const (
	strTag  = "!!str"
	boolTag = "!!bool"
)

// expected is a message about something else than the value wants.
func (v *value) expected(found string) string { return "expected " + v.want + ", found " + found }

// text returns a value whose YAML type is a string.
func text[T any](p *T, want string, format func(T) string, parse func(string) (T, bool)) *value {
	return &value{
		tag:  strTag,
		want: want,
		text: func() string { return format(*p) },
		set: func(s string) bool {
			t, ok := parse(s)
			if ok {
				*p = t
			}
			return ok
		},
	}
}

func same(s string) string { return s }

const wantAddress = "host:port such as localhost:5000"

func address(p *string) *value {
	return text(p, wantAddress, same, func(s string) (string, bool) { return s, isAddress(s) })
}

func addressOrNone(p *string) *value {
	return text(p, wantAddress+`, or ""`, same, func(s string) (string, bool) { return s, s == "" || isAddress(s) })
}

// hostname matches names that DNS or a hosts file may know. A name whose last
// label starts with a digit is an IPv4 address with a mistake in it.
var hostname = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.?$`)

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil || host == "" || len(host) <= 253 && hostname.MatchString(host)
}

const wantDuration = "a duration such as 30s, 5m or 24h"

func duration(p *time.Duration) *value {
	return text(p, wantDuration, formatDuration, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && d > 0
	})
}

func durationOrZero(p *time.Duration) *value {
	return text(p, wantDuration+", or 0s", formatDuration, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && d >= 0
	})
}

// formatDuration writes 24h rather than 24h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// option is one of several values that a key can have.
type option[T any] struct {
	name  string
	value T
}

var levels = []option[slog.Level]{
	{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError},
}

var formats = []option[LogFormat]{
	{"auto", LogAuto}, {"text", LogText}, {"json", LogJSON},
}

func choice[T comparable](p *T, options []option[T]) *value {
	var names []string
	for _, o := range options {
		names = append(names, o.name)
	}
	format := func(v T) string {
		for _, o := range options {
			if o.value == v {
				return o.name
			}
		}
		return fmt.Sprint(v)
	}
	return text(p, "one of "+strings.Join(names, ", "), format, func(s string) (v T, ok bool) {
		for _, o := range options {
			if o.name == s {
				return o.value, true
			}
		}
		return v, false
	})
}

func boolean(p *bool) *value {
	v := text(p, "true or false", strconv.FormatBool, func(s string) (bool, bool) {
		b, err := strconv.ParseBool(s)
		return b, err == nil
	})
	v.tag = boolTag
	return v
}

func directory(p *string) *value {
	return text(p, "the path of a directory", same, func(s string) (string, bool) {
		return s, strings.TrimSpace(s) != "" && !strings.Contains(s, "\x00")
	})
}
