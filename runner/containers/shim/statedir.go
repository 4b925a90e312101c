package shim

import "path/filepath"

// StateDir is where the default runtime keeps what it knows of a container, from
// Create to Delete.
func (s *Shim) StateDir(id string) string { return filepath.Join(s.stateDir(s.runtime), id) }
