package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

// servicesFile holds the services of all owners. It is written when they are set,
// before they are in force.
const servicesFile = "services.json"

// damaged is the end of the name of a file that made no sense and was moved aside.
const damaged = ".damaged"

// savedService is a service as it is on disk.
type savedService struct {
	Owner string
	runner.Service
	Given network.PortMap // the ports of the host that it has
}

func (m *Manager) saveServices(all map[string]*owned) error {
	list := []savedService{}
	for _, owner := range slices.Sorted(maps.Keys(all)) {
		for i, s := range all[owner].services {
			list = append(list, savedService{owner, s, all[owner].given[i].shown})
		}
	}
	data, err := json.MarshalIndent(list, "", "\t")
	if err == nil {
		err = durable.WriteFile(filepath.Join(m.stateDir, servicesFile), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("save services: %w", err)
	}
	return nil
}

// loadServices reads what is on disk. The ports are not reserved yet. A file that makes
// no sense is moved aside: whoever has services sets them again.
func (m *Manager) loadServices() error {
	unfinished, err := filepath.Glob(filepath.Join(m.stateDir, ".new-*"))
	if err != nil {
		return err
	}
	for _, name := range unfinished {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	path := filepath.Join(m.stateDir, servicesFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []savedService
	if err := json.Unmarshal(data, &list); err != nil {
		m.log.Error("where published ports of services lead cannot be read: none leads anywhere until its owner says it again",
			"error", err, "file", path+damaged)
		return durable.Rename(path, path+damaged)
	}
	for _, s := range list {
		o := m.services[s.Owner]
		if o == nil {
			o = &owned{}
			m.services[s.Owner] = o
		}
		o.services = append(o.services, s.Service)
		o.given = append(o.given, given{shown: s.Given})
	}
	m.backends, m.aliases = backendsOf(m.services), aliasesOf(m.services)
	return nil
}

// adoptServices takes the ports of services again, and has them lead to containers
// that were adopted, in the next rebuild of the rules.
func (m *Manager) adoptServices() {
	m.switching.Lock()
	defer m.switching.Unlock()
	if len(m.services) > 0 {
		m.forgetResets()
	}
	var leads []redirection
	for owner, o := range m.services {
		for i, s := range o.services {
			ports, errs := m.ports.adopt(o.given[i].shown, publisher{holder: "service " + s.Name + " of " + owner})
			for _, err := range errs {
				m.log.Warn("a published port is not bound on the host", "service", s.Name, "owner", owner, "error", err)
			}
			m.mu.Lock()
			o.given[i].ports = ports
			m.mu.Unlock()
		}
		m.mu.Lock()
		leads = append(leads, m.leadsOf(o, nil)...)
		m.mu.Unlock()
	}
	err := m.redirect(leads, func() error {
		m.rules.expectLeads(ruled(leads))
		return nil
	})
	if err != nil {
		m.log.Warn("a published port is not served", "error", err)
	}
}
