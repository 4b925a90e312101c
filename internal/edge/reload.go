package edge

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/berth-registry/berth/internal/watch"
)

// Reload reads the files of certificates again, now. A file that is wrong leaves
// the last good one in force and is in the error. With ACME, a certificate that
// could not be obtained yet is asked for again at once.
func (e *Edge) Reload() error {
	if e.acme != nil {
		e.acme.again()
	}
	return e.reloadFiles()
}

func (e *Edge) reloadFiles() error {
	if e.files == nil {
		return nil
	}
	changed, err := e.files.read()
	if changed {
		e.configure()
		e.log.Info("certificates reloaded", "files", e.files.paths())
	}
	return err
}

// watch reloads the files when they change, until ctx ends.
func (e *Edge) watch(ctx context.Context) {
	paths := e.files.paths()
	if len(paths) == 0 {
		return
	}
	e.wait = watch.Files(ctx, watch.Interval, func() { e.reloadSoon(ctx) }, paths...)
}

// reloadSoon reloads files that have just changed. Tools replace certificate and
// key one after the other, and do not always write a file in one piece: what is
// wrong at first gets a moment to become right before it is an error.
func (e *Edge) reloadSoon(ctx context.Context) {
	err := e.reloadFiles()
	for range 2 {
		if err == nil || !sleep(ctx, watch.Interval) {
			return
		}
		err = e.reloadFiles()
	}
	if err != nil {
		e.log.ErrorContext(ctx, "certificates not reloaded: the last good ones stay in force", "error", err)
	}
}

// sleep waits, and says whether ctx has let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// configure makes connections that begin from now on use the certificates that
// were read last. Those that there are keep what they began with.
//
// A session that is resumed does so only if its client certificate still leads to
// one of ClientCAs: crypto/tls asks that of each (VerifyClientCertIfGiven).
func (e *Edge) configure() {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	e.files.mu.Lock()
	defer e.files.mu.Unlock()
	if e.files.cert != nil {
		c.Certificates = []tls.Certificate{*e.files.cert}
	}
	if e.files.clientCAs != nil {
		c.ClientCAs, c.ClientAuth = e.files.clientCAs, tls.VerifyClientCertIfGiven
	}
	if e.acme != nil {
		c.GetCertificate = e.acme.certificate
		c.NextProtos = append(c.NextProtos, challengeProtocol)
	}
	e.config.Store(c)
}
