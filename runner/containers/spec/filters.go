package spec

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// filterAnnotation is how crun is given a compiled filter in place of the
// seccomp section. It is there since crun 0.17; other runtimes ignore it.
const filterAnnotation = "run.oci.seccomp_bpf_data"

const (
	// bpfInstruction is the size of an instruction in a filter, and maxFilter the
	// greatest size of one, in bytes: BPF_MAXINSNS instructions.
	bpfInstruction = 8
	maxFilter      = 4096 * bpfInstruction
	// maxFilters is how many filters are kept: one for each profile with each set
	// of capabilities in use.
	maxFilters = 64
)

// Filters keeps compiled seccomp filters. To compile one from its profile takes
// a runtime three times as long as all else that it does to create a container,
// and crun leaves what it has compiled in its state directory: the next
// container with the same profile can take it from there. Only for crun, and
// safe for concurrent use. The zero value is ready.
type Filters struct {
	mu    sync.Mutex
	known map[FilterKey]string // base64
}

// FilterKey names a seccomp section; the zero value names none.
type FilterKey [sha256.Size]byte

// Use puts the compiled filter in the place of the seccomp section of s if it is
// known. If not, it returns the key by which Learn can make it known; the zero
// key means that there is nothing to learn.
func (f *Filters) Use(s *specs.Spec) FilterKey {
	section := s.Linux.Seccomp
	if section == nil || len(section.Flags) > 0 || section.ListenerPath != "" || section.ListenerMetadata != "" {
		return FilterKey{} // these are more than a filter
	}
	text, err := json.Marshal(section)
	if err != nil {
		return FilterKey{} // the runtime will say what is wrong
	}
	key := FilterKey(sha256.Sum256(text))
	f.mu.Lock()
	filter, ok := f.known[key]
	f.mu.Unlock()
	if !ok {
		return key
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[filterAnnotation] = filter
	s.Linux.Seccomp = nil
	return FilterKey{}
}

// Learn takes up the filter that crun has compiled for a container whose key is
// not zero: path is seccomp.bpf in the container's directory below crun's --root,
// there from its create to its delete. That there is none is no error: the next
// container is as slow, and that is all.
func (f *Filters) Learn(key FilterKey, path string) {
	if key == (FilterKey{}) {
		return
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Size() == 0 || fi.Size() > maxFilter || fi.Size()%bpfInstruction != 0 {
		return
	}
	filter, err := os.ReadFile(path)
	if err != nil || int64(len(filter)) != fi.Size() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || len(f.known) >= maxFilters {
		f.known = map[FilterKey]string{}
	}
	f.known[key] = base64.StdEncoding.EncodeToString(filter)
}
