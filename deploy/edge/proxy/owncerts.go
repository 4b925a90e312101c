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
// is read again within a while; one that cannot be read leaves what was there.
type ownCerts struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex
	looked time.Time
	seen   map[string]time.Time // when the files were changed last
	byName map[string]*tls.Certificate
}

// lookEvery is how long files that have changed may go unnoticed.
const lookEvery = 10 * time.Second

func newOwnCerts(dir string, log *slog.Logger) (*ownCerts, error) {
	o := &ownCerts{dir: dir, log: log}
	if dir == "" {
		return o, nil
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, err
	}
	if err := o.read(); err != nil {
		return nil, err
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
		if err := o.read(); err != nil {
			o.log.Error("certificates are not read again: what was there stays", "dir", o.dir, "error", err)
		}
	}
	if cert := o.byName[name]; cert != nil {
		return cert
	}
	_, parent, _ := strings.Cut(name, ".")
	return o.byName["*."+parent]
}

// read reads the directory, if one of its files has changed.
func (o *ownCerts) read() error {
	o.looked = time.Now()
	files, err := filepath.Glob(filepath.Join(o.dir, "*.crt"))
	if err != nil {
		return err
	}
	seen := map[string]time.Time{}
	same := true
	for _, crt := range files {
		for _, path := range []string{crt, keyFile(crt)} {
			fi, err := os.Stat(path)
			if err != nil {
				return fmt.Errorf("certificate %s: %w", filepath.Base(crt), notThere(err, path))
			}
			seen[path] = fi.ModTime()
			same = same && fi.ModTime().Equal(o.seen[path])
		}
	}
	if same && len(seen) == len(o.seen) {
		return nil
	}
	byName := map[string]*tls.Certificate{}
	for _, crt := range files {
		cert, err := tls.LoadX509KeyPair(crt, keyFile(crt))
		if err != nil {
			return fmt.Errorf("certificate %s: %w", filepath.Base(crt), err)
		}
		for _, name := range cert.Leaf.DNSNames {
			byName[strings.ToLower(name)] = &cert
		}
	}
	o.seen, o.byName = seen, byName
	return nil
}

func keyFile(crt string) string { return strings.TrimSuffix(crt, ".crt") + ".key" }

// notThere says which file is not there.
func notThere(err error, path string) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%s: %w", filepath.Base(path), fs.ErrNotExist)
	}
	return err
}
