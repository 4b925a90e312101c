package settings

import (
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Value is a field of a configuration seen as text.
type Value struct {
	tag  string            // of the YAML node
	want string            // what is possible, for people
	text func() string     // the field as text
	set  func(string) bool // sets the field (adds to a list), or says that the text is impossible

	also   string          // another type of YAML nodes that will do
	items  func() []string // of a list
	clear  func()          // empties a list
	secret bool            // is never shown
}

// The YAML types of values.
const (
	strTag  = "!!str"
	boolTag = "!!bool"
	intTag  = "!!int"
	seqTag  = "!!seq"

	floatTag = "!!float"
)

// expected is a message about something else than the value wants.
func (v *Value) expected(found string) string {
	if v.secret {
		return "expected " + v.want
	}
	return "expected " + v.want + ", found " + found
}

// takes says whether a YAML node of the type tag can set the field.
func (v *Value) takes(tag string) bool { return tag == v.tag || tag == v.also }

// assign sets the field to text: for a list, items that are separated by commas.
func (v *Value) assign(text string) bool {
	if v.tag != seqTag {
		return v.set(text)
	}
	v.clear()
	if text == "" {
		return true
	}
	for item := range strings.SplitSeq(text, ",") {
		if !v.set(strings.TrimSpace(item)) {
			return false
		}
	}
	return true
}

// possible says whether what the field holds can be set.
func (v *Value) possible() bool {
	if v.tag != seqTag {
		return v.set(v.text())
	}
	items := v.items()
	v.clear()
	for _, item := range items {
		if !v.set(item) {
			return false
		}
	}
	return true
}

// Text returns a value whose YAML type is a string. want is what is possible, for
// people.
func Text[T any](p *T, want string, format func(T) string, parse func(string) (T, bool)) *Value {
	return &Value{
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

// Address is where to listen or to connect to, host:port.
func Address(p *string) *Value {
	return Text(p, wantAddress, same, func(s string) (string, bool) { return s, isAddress(s) })
}

// AddressOrNone is an address, or empty.
func AddressOrNone(p *string) *Value {
	return Text(p, wantAddress+`, or ""`, same, func(s string) (string, bool) { return s, s == "" || isAddress(s) })
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

// Duration is a time that is longer than none.
func Duration(p *time.Duration) *Value {
	return Text(p, wantDuration, formatDuration, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && d > 0
	})
}

// DurationOrZero is a time, or none.
func DurationOrZero(p *time.Duration) *Value {
	return Text(p, wantDuration+", or 0s", formatDuration, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && d >= 0
	})
}

// DurationBetween is a time from low to high.
func DurationBetween(p *time.Duration, low, high time.Duration) *Value {
	return Text(p, "a duration from "+formatDuration(low)+" to "+formatDuration(high), formatDuration, func(s string) (time.Duration, bool) {
		d, err := time.ParseDuration(s)
		return d, err == nil && d >= low && d <= high
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

// Option is one of several values that a key can have.
type Option[T any] struct {
	Name  string
	Value T
}

// Level is what a log tells, and all that is worse.
func Level(p *slog.Level) *Value {
	return Choice(p, []Option[slog.Level]{
		{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError},
	})
}

// LogFormat says how log records are written.
type LogFormat string

// The formats of a log.
const (
	LogAuto LogFormat = "auto" // text on a terminal, JSON otherwise
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Format is how log records are written.
func Format(p *LogFormat) *Value {
	return Choice(p, []Option[LogFormat]{{"auto", LogAuto}, {"text", LogText}, {"json", LogJSON}})
}

// Choice is one of several values, by its name.
func Choice[T comparable](p *T, options []Option[T]) *Value {
	var names []string
	for _, o := range options {
		names = append(names, o.Name)
	}
	format := func(v T) string {
		for _, o := range options {
			if o.Value == v {
				return o.Name
			}
		}
		return fmt.Sprint(v)
	}
	return Text(p, "one of "+strings.Join(names, ", "), format, func(s string) (v T, ok bool) {
		for _, o := range options {
			if o.Name == s {
				return o.Value, true
			}
		}
		return v, false
	})
}

// Boolean is true or false.
func Boolean(p *bool) *Value {
	v := Text(p, "true or false", strconv.FormatBool, func(s string) (bool, bool) {
		b, err := strconv.ParseBool(s)
		return b, err == nil
	})
	v.tag = boolTag
	return v
}

// Directory is the path of a directory. It need not be there.
func Directory(p *string) *Value { return Path(p, "the path of a directory") }

// Path is the path of something that want names for people. It need not be there.
func Path(p *string, want string) *Value { return Text(p, want, same, pathOf) }

// PathOrNone is a path, or empty.
func PathOrNone(p *string, want string) *Value {
	return Text(p, want+`, or ""`, same, func(s string) (string, bool) {
		path, ok := pathOf(s)
		return path, ok || s == ""
	})
}

func pathOf(s string) (string, bool) {
	return s, strings.TrimSpace(s) != "" && !strings.Contains(s, "\x00")
}

// Match is text that a pattern matches, which want describes.
func Match(p *string, want string, pattern *regexp.Regexp) *Value {
	return Text(p, want, same, func(s string) (string, bool) { return s, pattern.MatchString(s) })
}

// Secret is text that no message shows.
func Secret(p *string) *Value {
	return Hidden(Text(p, "a text without line breaks", same, func(s string) (string, bool) { return s, !strings.ContainsAny(s, "\x00\r\n") }))
}

// Hidden makes a value one that no message shows: a URL may have a password in it.
func Hidden(v *Value) *Value {
	v.secret = true
	return v
}

// List is a list of texts, each of which valid accepts. In the environment and in
// flags they are separated by commas.
func List(p *[]string, want string, valid func(string) bool) *Value {
	return &Value{
		tag:  seqTag,
		want: want,
		text: func() string { return strings.Join(*p, ", ") },
		set: func(s string) bool { // adds one
			ok := valid(s)
			if ok {
				*p = append(slices.Clip(*p), s)
			}
			return ok
		},
		items: func() []string { return *p },
		clear: func() { *p = nil },
	}
}

// Count is a whole number of at least low.
func Count(p *int, low int) *Value {
	v := Text(p, fmt.Sprintf("a number from %d", low), strconv.Itoa, func(s string) (int, bool) {
		n, err := strconv.Atoi(s)
		return n, err == nil && n >= low
	})
	v.tag = intTag
	return v
}

// size matches a number and its unit.
var size = regexp.MustCompile(`^([0-9]+)([kmgt]?)b?$`)

const wantSize = "a size such as 512k, 10m or 1g"

// units are those of sizes, each a thousand times the one before.
const units = " kmgt"

// Size is a number of bytes above 0, in units of 1000 bytes and its powers, as
// --log-opt max-size is.
func Size(p *int64) *Value { return sizeFrom(p, 1, wantSize) }

// SizeOrZero is a Size, or 0.
func SizeOrZero(p *int64) *Value { return sizeFrom(p, 0, wantSize+", or 0") }

func sizeFrom(p *int64, low int64, want string) *Value {
	format := func(n int64) string {
		unit := ""
		for _, u := range units[1:] {
			if n == 0 || n%1000 != 0 {
				break
			}
			n, unit = n/1000, string(u)
		}
		return strconv.FormatInt(n, 10) + unit
	}
	v := Text(p, want, format, func(s string) (int64, bool) {
		m := size.FindStringSubmatch(strings.ToLower(s))
		if m == nil {
			return 0, false
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		for range strings.Index(units, m[2]) { // none for no unit
			if n > math.MaxInt64/1000 {
				return 0, false
			}
			n *= 1000
		}
		return n, err == nil && n >= low
	})
	if low == 0 {
		v.also = intTag
	}
	return v
}

// Number is a number of at least 0, perhaps with a fraction.
func Number(p *float64) *Value {
	format := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	v := Text(p, "a number from 0", format, func(s string) (float64, bool) {
		f, err := strconv.ParseFloat(s, 64)
		return f, err == nil && f >= 0 && !math.IsInf(f, 0)
	})
	v.tag, v.also = intTag, floatTag
	return v
}

// Subnet is a range of addresses, or none.
func Subnet(p *netip.Prefix, want string, valid func(netip.Prefix) bool) *Value {
	format := func(n netip.Prefix) string {
		if !n.IsValid() {
			return ""
		}
		return n.String()
	}
	return Text(p, want+`, or ""`, format, func(s string) (netip.Prefix, bool) {
		if s == "" {
			return netip.Prefix{}, true
		}
		n, err := netip.ParsePrefix(s)
		return n, err == nil && n == n.Masked() && valid(n)
	})
}

// Overlap says whether two listeners cannot have these addresses at once.
func Overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	everywhere := []string{"", "0.0.0.0", "::"}
	return strings.EqualFold(hostA, hostB) || slices.Contains(everywhere, hostA) || slices.Contains(everywhere, hostB)
}
