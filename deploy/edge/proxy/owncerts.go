package proxy

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ownCerts are the certificates in a directory of the operator's. A file that changes
// is read again within a while. A pair that cannot be read, or is only half there, is
// told in the log and takes nothing from the others; of it, what was there before stays.
type ownCerts struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex
	looked time.Time
	pairs  map[string]pair // by the path of the certificate
	byName map[string]*tls.Certificate
}

// pair is a certificate with its key.
type pair struct {
	read [2]time.Time     // when the two files were changed last; zero: they are read again
	cert *tls.Certificate // nil: none could be read yet
	err  string
}

// lookEvery is how long files that have changed may go unnoticed.
const lookEvery = 10 * time.Second

func newOwnCerts(dir string, log *slog.Logger) (*ownCerts, error) {
	o := &ownCerts{dir: dir, log: log}
	if dir == "" {
		return o, nil
	}
	if err := o.look(); err != nil {
		return nil, fmt.Errorf("edge.certs: %w", err)
	}
	return o, nil
}

// find returns the certificate for a name, which may be a wildcard; nil: there is none.
func (o *ownCerts) find(name string) *tls.Certificate {
	if o.dir == "" {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.looked) > lookEvery {
		if err := o.look(); err != nil {
			o.log.Error("certificates are not read again: what was there stays", "dir", o.dir, "error", err)
		}
	}
	if cert := o.byName[name]; cert != nil {
		return cert
	}
	_, parent, _ := strings.Cut(name, ".")
	return o.byName["*."+parent]
}

// look reads what has changed in the directory.
func (o *ownCerts) look() error {
	o.looked = time.Now()
	files, err := os.ReadDir(o.dir)
	if err != nil {
		return err
	}
	pairs, byName := map[string]pair{}, map[string]*tls.Certificate{}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".crt") {
			continue
		}
		path := filepath.Join(o.dir, file.Name())
		p := o.pairs[path].again(path)
		if p.err != "" && p.err != o.pairs[path].err {
			o.log.Error("a certificate cannot be used", "file", path, "error", p.err)
		}
		pairs[path] = p
		if p.cert == nil {
			continue
		}
		for _, name := range p.cert.Leaf.DNSNames {
			byName[strings.ToLower(name)] = p.cert
		}
	}
	o.pairs, o.byName = pairs, byName
	return nil
}

// again reads a pair, if it has changed.
func (p pair) again(crt string) pair {
	key := strings.TrimSuffix(crt, ".crt") + ".key"
	var read [2]time.Time
	for i, path := range []string{crt, key} {
		fi, err := os.Stat(path) //nolint:gosec // the path is the operator's
		if os.IsNotExist(err) {
			err = fmt.Errorf("%s: %w", filepath.Base(path), fs.ErrNotExist)
		}
		if err != nil {
			return pair{cert: p.cert, err: err.Error()}
		}
		read[i] = fi.ModTime()
	}
	if p.err == "" && p.read == read {
		return p
	}
	cert, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return pair{cert: p.cert, err: err.Error()}
	}
	return pair{read: read, cert: &cert}
}
