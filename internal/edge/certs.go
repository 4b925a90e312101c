package edge

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxPEM is the greatest size of a file of certificates or keys in bytes: room for
// every public authority there is.
const maxPEM = 4 << 20

// files are what TLS reads from files, as they last were good.
type files struct {
	certFile, keyFile, caFile string
	log                       *slog.Logger

	mu        sync.Mutex // one reads at a time
	cert      *tls.Certificate
	clientCAs *x509.CertPool
}

// paths are the files that there are.
func (f *files) paths() (paths []string) {
	for _, p := range []string{f.certFile, f.keyFile, f.caFile} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	return paths
}

// read reads the files again. What is wrong stays as it was; the rest is taken.
func (f *files) read() (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	if f.certFile != "" {
		cert, err := loadPair(f.certFile, f.keyFile)
		if err == nil {
			changed = f.cert == nil || !slices.EqualFunc(f.cert.Certificate, cert.Certificate, bytes.Equal)
			f.cert = cert
			f.warn(cert.Leaf, changed)
		}
		errs = append(errs, err)
	}
	if f.caFile != "" {
		pool, err := loadPool(f.caFile)
		if err == nil {
			changed = changed || !pool.Equal(f.clientCAs)
			f.clientCAs = pool
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// warn tells of a certificate that clients will not accept, once.
func (f *files) warn(leaf *x509.Certificate, isNew bool) {
	if !isNew {
		return
	}
	log := f.log.With("file", f.certFile)
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		log.Warn("the certificate has expired: clients refuse it", "expired", leaf.NotAfter)
	case now.Before(leaf.NotBefore):
		log.Warn("the certificate is not valid yet: clients refuse it", "valid_from", leaf.NotBefore)
	}
	// RFC 9525, section 2: the common name is not where a host's name is.
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		log.Warn("the certificate names no host (subjectAltName): clients refuse it")
	}
}

// loadPair reads a certificate with its intermediates and its private key.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := readPEM(certFile, "certificate", isCertificate)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM(keyFile, "private key", isKey)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	switch {
	case err == nil:
		return &pair, nil
	case strings.Contains(err.Error(), "does not match"):
		return nil, fmt.Errorf("the private key in %s is not that of the first certificate in %s", keyFile, certFile)
	case strings.Contains(err.Error(), "parse private key"):
		return nil, fmt.Errorf("%s: the private key cannot be read: %w", keyFile, err)
	}
	return nil, fmt.Errorf("%s: the certificate cannot be read: %w", certFile, err)
}

// loadPool reads the certificates of authorities.
func loadPool(file string) (*x509.CertPool, error) {
	text, err := readPEM(file, "certificate", isCertificate)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !isCertificate(block) {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: a certificate cannot be read: %w", file, err)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

func isCertificate(b *pem.Block) bool { return b.Type == "CERTIFICATE" }
func isKey(b *pem.Block) bool         { return strings.HasSuffix(b.Type, "PRIVATE KEY") }

// readPEM reads a file that is to have a block of the kind wanted, and says what it
// has if not. Errors tell nothing of what is in the blocks.
func readPEM(file, wanted string, is func(*pem.Block) bool) ([]byte, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	var found []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !is(block) {
			found = append(found, block.Type)
			continue
		}
		// RFC 7468, section 11, and RFC 1421, section 4.6.1.1.
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%s: the %s is encrypted: store it without a passphrase", file, wanted)
		}
		return text, nil
	}
	switch {
	case len(text) == 0:
		return nil, fmt.Errorf("%s: the file is empty, not a %s", file, wanted)
	case len(found) > 0:
		return nil, fmt.Errorf("%s: there is no %s in the file, but %s", file, wanted, strings.Join(found, ", "))
	}
	return nil, fmt.Errorf("%s: the file is not PEM (-----BEGIN ...)", file)
}

// readFile reads a file that is not endless.
func readFile(file string) ([]byte, error) {
	fi, err := os.Stat(file)
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: file, Err: errors.New("not a regular file")}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = &fs.PathError{Op: "read", Path: file, Err: errors.New("too large for certificates or keys")}
	}
	return text, err
}
