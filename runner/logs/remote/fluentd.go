package remote

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"time"

	units "github.com/docker/go-units"
)

// fluentdSettings are what fluentd is asked for.
type fluentdSettings struct {
	network, addr string
	fraction      bool          // times have nanoseconds
	ack           bool          // the server says what it has
	writeTimeout  time.Duration // 0 for none
	readTimeout   time.Duration // for the server to say so
	reconnect     time.Duration // how long a connection is used; 0 for ever
}

const (
	fluentdRetryWait = time.Second
	// ackTime is how long the server may take to acknowledge.
	ackTime = 30 * time.Second
	// Bounds of fluentd-async-reconnect-interval.
	minReconnect = 100 * time.Millisecond
	maxReconnect = 10 * time.Second
)

func parseFluentd(s *Settings, options map[string]string) (err error) {
	set := fluentdSettings{readTimeout: ackTime}
	s.RetryWait = fluentdRetryWait
	for name, value := range options {
		if err := set.parse(s, name, value); err != nil {
			return err
		}
	}
	if set.network, set.addr, err = fluentdAddress(options["fluentd-address"]); err != nil {
		return err
	}
	s.connect, s.Lossy = set.connect, !set.ack
	return nil
}

// parse reads one option.
func (set *fluentdSettings) parse(s *Settings, name, value string) (err error) {
	known := true
	if value == "" && name != "fluentd-address" {
		value = map[string]string{
			"fluentd-async": "false", "fluentd-request-ack": "false", "fluentd-sub-second-precision": "false",
			"fluentd-buffer-limit": "0", "fluentd-max-retries": "-1",
		}[name]
		if value == "" {
			value = "0s"
		}
	}
	switch name {
	case "fluentd-address":
	case "fluentd-async":
		s.Async, err = strconv.ParseBool(value)
	case "fluentd-request-ack":
		set.ack, err = strconv.ParseBool(value)
	case "fluentd-sub-second-precision":
		set.fraction, err = strconv.ParseBool(value)
	case "fluentd-buffer-limit":
		s.BufferLimit, err = units.RAMInBytes(value)
	case "fluentd-max-retries":
		s.MaxRetries, err = strconv.ParseInt(value, 10, 64)
	case "fluentd-retry-wait":
		s.RetryWait, err = time.ParseDuration(value)
	case "fluentd-write-timeout":
		set.writeTimeout, err = time.ParseDuration(value)
	case "fluentd-read-timeout":
		set.readTimeout, err = time.ParseDuration(value)
	case "fluentd-async-reconnect-interval":
		set.reconnect, err = time.ParseDuration(value)
		if err == nil && set.reconnect != 0 && (set.reconnect < minReconnect || set.reconnect > maxReconnect) {
			return fmt.Errorf("invalid value for %s: value (%s) must be between %s and %s", name, set.reconnect, minReconnect, maxReconnect)
		}
	default:
		known = false
	}
	switch {
	case !known:
		return fmt.Errorf("unknown log opt '%s' for fluentd log driver", name)
	case err != nil:
		return fmt.Errorf("invalid value for %s: %w", name, err)
	}
	return set.check(s, name)
}

// check refuses what is below nothing.
func (set *fluentdSettings) check(s *Settings, name string) error {
	if s.RetryWait < 0 || set.writeTimeout < 0 || set.readTimeout < 0 {
		return fmt.Errorf("invalid value for %s: value must be a positive number", name)
	}
	if s.RetryWait == 0 {
		s.RetryWait = fluentdRetryWait
	}
	if set.readTimeout == 0 {
		set.readTimeout = ackTime
	}
	return nil
}

func (set fluentdSettings) connect(lost Lost) (Destination, error) {
	d := &fluentd{set: set}
	// What is acknowledged need not be told to be lost; and the answers are read
	// where they are waited for.
	if !set.ack {
		d.stream.watch, d.stream.lost = true, lost
	}
	d.stream.dial = func(ctx context.Context) (net.Conn, error) { return dialStream(ctx, set.network, set.addr) }
	if set.network == "tls" {
		host, _, err := net.SplitHostPort(set.addr)
		if err != nil {
			return nil, err
		}
		cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
		d.stream.dial = func(ctx context.Context) (net.Conn, error) { return dialTLS(ctx, set.addr, cfg) }
	}
	return d, nil
}
