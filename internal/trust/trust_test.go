package trust_test

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/internal/trust"
)

func TestAuthorities(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.pem"), filepath.Join(dir, "bad.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	for file, data := range map[string][]byte{good: pem.EncodeToMemory(block), bad: []byte("no PEM")} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pool, err := trust.Authorities(good); err != nil || len(pool.Subjects()) != 1 { //nolint:staticcheck // no pool of the system's
		t.Errorf("a good file: %v, %v", pool, err)
	}
	if pool, err := trust.Authorities(""); pool != nil || err != nil {
		t.Errorf("no file: %v, %v", pool, err)
	}
	for _, file := range []string{bad, filepath.Join(dir, "none.pem")} {
		if _, err := trust.Authorities(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got error %v, want one that names it", file, err)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true,
		"": false, "localhost.": false, "localhost.example.com": false, "10.0.0.1": false, "0.0.0.0": false, "127.0.0.1.example.com": false,
	} {
		if got := trust.IsLoopback(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}
