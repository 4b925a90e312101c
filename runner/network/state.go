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
// made or removed, never for a container.
const stateFile = "networks.json"

// The drivers of networks.
const (
	driverBridge  = "bridge"
	driverMacvlan = "macvlan"
	driverIPvlan  = "ipvlan"
	driverHost    = "host"
	driverNull    = "null"
)

// record is a network as it is on disk.
type record struct {
	ID      string
	Name    string
	Driver  string
	Created time.Time
	// Of a network with interfaces only: the bridge, or the parent of macvlan and
	// ipvlan. Borrowed says that it was there before the network, and stays.
	Interface string `json:",omitempty"`
	Borrowed  bool   `json:",omitempty"`
	// Of the network bridge alone.
	Subnet  netip.Prefix `json:",omitzero"`
	Subnet6 netip.Prefix `json:",omitzero"`
	// Of a network that a user made; nil: it has no addresses of that family.
	IPv4, IPv6 *addressing       `json:",omitempty"`
	Internal   bool              `json:",omitempty"`
	Attachable bool              `json:",omitempty"`
	Options    map[string]string `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
}

// addressing is what a network says of one family of addresses.
type addressing struct {
	Subnet  netip.Prefix
	Range   netip.Prefix          `json:",omitzero"` // what is given to who wishes for none
	Gateway netip.Addr            `json:",omitzero"`
	Aux     map[string]netip.Addr `json:",omitempty"` // never given
}

// builtin returns the records of the networks that are always there.
func builtin(now time.Time) []record {
	var list []record
	for _, name := range []string{network.NetworkBridge, network.NetworkHost, network.NetworkNone} {
		driver := name
		if name == network.NetworkNone {
			driver = driverNull
		}
		list = append(list, record{ID: newID(), Name: name, Driver: driver, Created: now})
	}
	return list
}

// predefined says whether a name is that of a network that is always there, or
// stands for one.
func predefined(name string) bool {
	switch name {
	case network.NetworkBridge, network.NetworkHost, network.NetworkNone, network.NetworkDefault:
		return true
	}
	return false
}

// families returns what the network says of IPv4 and of IPv6, nil for none.
func (r *record) families() (v4, v6 *addressing) {
	v4, v6 = r.IPv4, r.IPv6
	if r.Subnet.IsValid() {
		v4 = &addressing{Subnet: r.Subnet, Gateway: r.Subnet.Addr().Next()}
	}
	if r.Subnet6.IsValid() {
		v6 = &addressing{Subnet: r.Subnet6, Gateway: r.Subnet6.Addr().Next()}
	}
	return v4, v6
}

// newID returns 64 random hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// loadState returns the records on disk, or none if there are none yet. What was
// being written when a daemon ended is cleared.
func loadState(dir string) ([]record, error) {
	path := filepath.Join(dir, stateFile)
	unfinished, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	for _, name := range unfinished {
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []record
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w; put the file back from a backup, or move it away: networks that users made are to be created again then", path, err)
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
