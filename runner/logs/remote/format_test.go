package remote

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
)

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		parse                func(string) (string, string, error)
		address, network, at string
		fails                string
	}{
		{syslogAddress, "", "", "", ""},
		{syslogAddress, "udp://h", "udp", "h:514", ""},
		{syslogAddress, "tcp+tls://h:1", "tcp+tls", "h:1", ""},
		{syslogAddress, "tcp://[::1]", "tcp", "[::1]:514", ""},
		{syslogAddress, "unix:///a/b", "unix", "/a/b", ""},
		{syslogAddress, "h:1", "", "", "syslog-address should be in form proto://address, got h:1"},
		{fluentdAddress, "", "tcp", "127.0.0.1:24224", ""},
		{fluentdAddress, "h", "tcp", "h:24224", ""},
		{fluentdAddress, ":7", "tcp", "127.0.0.1:7", ""},
		{fluentdAddress, "tls://h:7", "tls", "h:7", ""},
		{fluentdAddress, "unix:///s", "unix", "/s", ""},
		{fluentdAddress, "unix://", "", "", "invalid fluentd-address (unix://): path is empty"},
		{fluentdAddress, "udp://h", "", "", "invalid fluentd-address (udp://h): unsupported scheme: 'udp'"},
		{fluentdAddress, "tcp://h/p", "", "", "invalid fluentd-address (tcp://h/p): should not contain a path element"},
	} {
		network, at, err := test.parse(test.address)
		if test.fails != "" {
			if err == nil || err.Error() != test.fails {
				t.Errorf("%s: %v", test.address, err)
			}
		} else if err != nil || network != test.network || at != test.at {
			t.Errorf("%s: %s %s, %v", test.address, network, at, err)
		}
	}
}

func TestParse(t *testing.T) {
	type options = map[string]string
	for _, test := range []struct {
		driver  string
		options options
		fails   string
	}{
		{Syslog, nil, ""},
		{Syslog, options{"syslog-facility": "local7", "syslog-format": "rfc5424micro", "syslog-tls-skip-verify": "false"}, ""},
		{Syslog, options{"syslog-facility": "24"}, "invalid syslog facility"},
		{Syslog, options{"syslog-format": "x"}, "Invalid syslog format"},
		{Syslog, options{"x": ""}, "unknown log opt 'x' for syslog log driver"},
		{Journald, options{"x": ""}, "unknown log opt 'x' for journald log driver"},
		{Fluentd, options{"fluentd-async": "true", "fluentd-buffer-limit": "2m", "fluentd-max-retries": "3", "fluentd-retry-wait": "1s", "fluentd-write-timeout": "1s", "fluentd-async-reconnect-interval": "200ms"}, ""},
		{Fluentd, options{"fluentd-async": "", "fluentd-buffer-limit": "", "fluentd-retry-wait": ""}, ""},
		{Fluentd, options{"fluentd-async": "x"}, `invalid value for fluentd-async: strconv.ParseBool: parsing "x": invalid syntax`},
		{Fluentd, options{"fluentd-write-timeout": "-1s"}, "invalid value for fluentd-write-timeout: value must be a positive number"},
		{Fluentd, options{"fluentd-async-reconnect-interval": "1m"}, "invalid value for fluentd-async-reconnect-interval: value (1m0s) must be between 100ms and 10s"},
	} {
		_, err := Parse(test.driver, test.options)
		if test.fails == "" && err != nil || test.fails != "" && (err == nil || err.Error() != test.fails) {
			t.Errorf("%s %v: %v", test.driver, test.options, err)
		}
	}
	a, _ := Parse(Syslog, options{"syslog-address": "udp://h", "syslog-facility": "kern"})
	b, _ := Parse(Syslog, options{"syslog-facility": "kern", "syslog-address": "udp://h"})
	c, _ := Parse(Syslog, options{"syslog-address": "udp://h"})
	if a.Key != b.Key || a.Key == c.Key {
		t.Errorf("keys %q, %q, %q", a.Key, b.Key, c.Key)
	}
}

func TestSyslogFormats(t *testing.T) {
	at := time.Date(2024, 1, 2, 3, 4, 5, 678912345, time.Local)
	zone := at.Format("Z07:00")
	for _, test := range []struct {
		name, network, want string
	}{
		{"", "tcp", "<27>Jan  2 03:04:05 a b_[7]: line\n"},
		{"rfc3164", "tcp", "<27>Jan  2 03:04:05 host a b_[7]: line\n"},
		{"rfc5424", "tcp", "<27>1 2024-01-02T03:04:05" + zone + " host a_b_ 7 a_b_ - line\n"},
		{"rfc5424micro", "tcp+tls", "<27>1 2024-01-02T03:04:05.678912" + zone + " host a_b_ 7 a_b_ - line\n"},
	} {
		f, err := parseSyslogFormat(test.name, test.network)
		if err != nil {
			t.Fatal(err)
		}
		f.hostname, f.pid = "host", 7
		if test.network == "tcp+tls" {
			test.want = fmt.Sprint(len(test.want)) + " " + test.want
		}
		if got := string(f.framed(nil, 3<<3, Entry{Time: at, Stderr: true, Line: []byte("line")}, "a b\n")); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestFieldName(t *testing.T) {
	for name, want := range map[string]string{"com.example-1/x": "COM_EXAMPLE_1_X", "__A": "A", "ä": "", "": "", strings.Repeat("x", 99): strings.Repeat("X", 64)} {
		if got := fieldName(name); got != want {
			t.Errorf("%q is %q", name, got)
		}
	}
}

// TestJournalFields reads the native protocol's fields.
func TestJournalFields(t *testing.T) {
	b := entryFields(sourceFields(Source{ID: strings.Repeat("0", 64), Name: "n", Attrs: map[string]string{"l": "a\nb"}}), Entry{
		Line: []byte("x\x00\ny"), Piece: &Piece{ID: "i", Ordinal: 2},
	})
	got := map[string]string{}
	for len(b) > 0 {
		name, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok || len(rest) < 8 {
			t.Fatalf("%q", b)
		}
		n := binary.LittleEndian.Uint64(rest)
		got[string(name)], b = string(rest[8:8+n]), rest[9+n:]
	}
	want := map[string]string{
		"L": "a\nb", "CONTAINER_ID": "000000000000", "CONTAINER_ID_FULL": strings.Repeat("0", 64), "CONTAINER_NAME": "n", "CONTAINER_TAG": "", "IMAGE_NAME": "",
		"SYSLOG_IDENTIFIER": "", "PRIORITY": "6", "SYSLOG_TIMESTAMP": "0001-01-01T00:00:00Z", "CONTAINER_PARTIAL_MESSAGE": "true",
		"CONTAINER_PARTIAL_ID": "i", "CONTAINER_PARTIAL_ORDINAL": "2", "CONTAINER_PARTIAL_LAST": "false", "MESSAGE": "x\x00\ny",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFluentdTime(t *testing.T) {
	at := time.Unix(1, 2)
	if b := (fluentdSettings{}).time(nil, at); !bytes.Equal(b, []byte{1}) {
		t.Errorf("%x", b)
	}
	if b := (fluentdSettings{fraction: true}).time(nil, at); !bytes.Equal(b, []byte{0xd7, 0, 0, 0, 0, 1, 0, 0, 0, 2}) {
		t.Errorf("%x", b)
	}
}

// FuzzAck reads answers of servers that may say anything.
func FuzzAck(f *testing.F) {
	f.Add(msgp.AppendMapStrStr(nil, map[string]string{"ack": "x"}))
	f.Add(msgp.AppendMapStrStr(nil, map[string]string{"a": "b", "ack": "xyz"}))
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte("HTTP/1.1 400 Bad Request"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		chunk, _ := parseAck(answer)
		if len(chunk) > len(answer) {
			t.Errorf("%d bytes of %d", len(chunk), len(answer))
		}
	})
}
