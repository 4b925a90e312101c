package network

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/internal/durable"
)

// stateFile holds the records of all networks. It is written when a network is
// made, never for a container.
const stateFile = "networks.json"

// record is a network as it is on disk.
type record struct {
	ID      string
	Name    string
	Driver  string
	Created time.Time
	// Of a bridge only.
	Interface string       `json:",omitempty"`
	Subnet    netip.Prefix `json:",omitzero"`
	Subnet6   netip.Prefix `json:",omitzero"`
}

// builtin returns the records of the networks that are always there.
func builtin(now time.Time) []record {
	var list []record
	for _, name := range []string{network.NetworkBridge, network.NetworkHost, network.NetworkNone} {
		driver := name
		if name == network.NetworkNone {
			driver = "null"
		}
		list = append(list, record{ID: newID(), Name: name, Driver: driver, Created: now})
	}
	return list
}

// newID returns 64 random hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// loadState returns the records on disk, or none if there are none yet.
func loadState(dir string) ([]record, error) {
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []record
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// saveState replaces the records on disk. They are durable when it returns.
func saveState(dir string, list []record) (err error) {
	data, err := json.MarshalIndent(list, "", "\t")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, stateFile+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return durable.Rename(f.Name(), filepath.Join(dir, stateFile))
}
