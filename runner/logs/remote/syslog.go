package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// facilities of RFC 5424, section 6.2.1, by name; their place is their code.
// Those without a name can be given by number.
const facilities = "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp"

// syslogSettings are what syslog is asked for.
type syslogSettings struct {
	network, addr string
	priority      int // of the facility
	format        syslogFormat
	tls           tlsFiles
}

// tlsFiles are the paths of PEM files.
type tlsFiles struct {
	ca, cert, key string
	insecure      bool
}

func parseSyslog(s *Settings, options map[string]string) (err error) {
	var set syslogSettings
	for name, value := range options {
		switch name {
		case "syslog-address", "syslog-facility", "syslog-format":
		case "syslog-tls-ca-cert":
			set.tls.ca = value
		case "syslog-tls-cert":
			set.tls.cert = value
		case "syslog-tls-key":
			set.tls.key = value
		case "syslog-tls-skip-verify":
			if set.tls.insecure, err = flag(value, true); err != nil {
				return fmt.Errorf("invalid value for syslog-tls-skip-verify: %w", err)
			}
		default:
			return fmt.Errorf("unknown log opt '%s' for syslog log driver", name)
		}
	}
	if set.network, set.addr, err = syslogAddress(options["syslog-address"]); err != nil {
		return err
	}
	if set.priority, err = facility(options["syslog-facility"]); err != nil {
		return err
	}
	if set.format, err = parseSyslogFormat(options["syslog-format"], set.network); err != nil {
		return err
	}
	s.connect, s.Lossy = set.connect, true
	return nil
}

// flag parses a switch that may be given without a value.
func flag(value string, bare bool) (bool, error) {
	if value == "" {
		return bare, nil
	}
	return strconv.ParseBool(value)
}

// facility returns the priority of a facility by its name or number.
func facility(name string) (int, error) {
	if name == "" {
		name = "daemon"
	}
	names := append(strings.Fields(facilities), "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7")
	if code := slices.Index(names, name); code >= 0 {
		return code << 3, nil
	}
	if code, err := strconv.Atoi(name); err == nil && 0 <= code && code < len(names) {
		return code << 3, nil
	}
	return 0, errors.New("invalid syslog facility")
}

func (set syslogSettings) connect(lost Lost) (Destination, error) {
	var err error
	if set.format.hostname, err = os.Hostname(); err != nil {
		return nil, err
	}
	set.format.pid = os.Getpid()
	switch set.network {
	case "tcp", "unix":
		return newSyslogStream(set, lost, func(ctx context.Context) (net.Conn, error) { return dialStream(ctx, set.network, set.addr) }), nil
	case "tcp+tls":
		cfg, err := set.tls.config(set.addr)
		if err != nil {
			return nil, err
		}
		return newSyslogStream(set, lost, func(ctx context.Context) (net.Conn, error) { return dialTLS(ctx, set.addr, cfg) }), nil
	default:
		return &syslogDatagrams{set: set, lost: lost}, nil
	}
}

// config reads the files.
func (f tlsFiles) config(addr string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.insecure} //nolint:gosec // who starts the container asks for it
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("could not read CA certificate %q: %w", f.ca, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("failed to append certificates from PEM file: %q", f.ca)
		}
	}
	if f.cert != "" || f.key != "" {
		cert, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("could not load X509 key pair: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// dialTLS connects to a host by TLS.
func dialTLS(ctx context.Context, addr string, cfg *tls.Config) (net.Conn, error) {
	conn, err := dialStream(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}
