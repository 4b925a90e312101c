package spec

import (
	"fmt"

	"github.com/containerd/containerd/v2/contrib/apparmor"
)

// LoadAppArmor loads the profile that containers get by default into the kernel,
// if the host has AppArmor and the profile is not there. It is to be called
// before the first container starts.
func LoadAppArmor(h Host) error {
	if !h.AppArmor {
		return nil
	}
	if err := apparmor.LoadDefaultProfile(DefaultAppArmor); err != nil {
		return fmt.Errorf("load AppArmor profile %s: %w", DefaultAppArmor, err)
	}
	return nil
}
