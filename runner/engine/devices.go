package engine

import (
	"github.com/moby/moby/api/types/system"
)

// deviceInfo fills in which devices containers can be given by their names.
func (e *Engine) deviceInfo(info *system.Info) {
	info.CDISpecDirs = e.devices.Dirs()
	names, problems := e.devices.List()
	for _, name := range names {
		info.DiscoveredDevices = append(info.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: name})
	}
	info.Warnings = append(info.Warnings, problems...)
}
