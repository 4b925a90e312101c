package api

import (
	"strconv"
	"strings"

	"github.com/berth-registry/berth/runner"
)

// The files versions*.go hold everything that depends on the version of the API. The
// types of github.com/moby/moby/api are those of its newest; what an older one had
// besides is put back here, and what it did not have is taken away.

// version is the N of an API version 1.N.
type version int

const (
	// minVersion is the oldest that clients in use still speak.
	minVersion version = 24
	// maxVersion is the newest whose behaviour Berth has: that of moby/api v1.56.
	maxVersion version = 56
)

func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// negotiate reads the version that a path names. None is the newest.
func negotiate(s string) (version, error) {
	if s == "" {
		return maxVersion, nil
	}
	major, minor, _ := strings.Cut(s, ".")
	minor, _, _ = strings.Cut(minor, ".")
	m, errMajor := strconv.ParseUint("0"+major, 10, 31)
	n, errMinor := strconv.ParseUint("0"+minor, 10, 31)
	switch {
	case errMajor != nil || m > 1 || m == 1 && (errMinor != nil || version(n) > maxVersion):
		return 0, runner.Errorf(runner.ErrInvalid,
			"client version %s is too new. Maximum supported API version is %s", s, maxVersion)
	case m < 1 || version(n) < minVersion:
		return 0, runner.Errorf(runner.ErrInvalid,
			"client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", s, minVersion)
	}
	return version(n), nil
}

// What requests could say from which version on.
func (v version) binaryFrames() bool        { return v >= 28 } // of WebSockets
func (v version) waitCondition() bool       { return v >= 30 } // and wait answers at once
func (v version) waitErrors() bool          { return v >= 34 }
func (v version) buildAux() bool            { return v >= 30 } // messages for programs
func (v version) buildPlatform() bool       { return v >= 32 }
func (v version) buildOutputs() bool        { return v >= 40 }
func (v version) buildSpaces() bool         { return v >= 48 } // to keep when pruning
func (v version) pullPlatform() bool        { return v >= 32 }
func (v version) createPlatform() bool      { return v >= 41 }
func (v version) stopSignal() bool          { return v >= 42 }
func (v version) consoleSize() bool         { return v >= 42 }
func (v version) pushPlatform() bool        { return v >= 46 }
func (v version) listManifests() bool       { return v >= 47 }
func (v version) inspectManifests() bool    { return v >= 48 }
func (v version) historyPlatform() bool     { return v >= 48 }
func (v version) savePlatform() bool        { return v >= 48 }
func (v version) inspectPlatform() bool     { return v >= 49 }
func (v version) removePlatforms() bool     { return v >= 50 }
func (v version) transferPlatforms() bool   { return v >= 52 } // several
func (v version) listIdentity() bool        { return v >= 54 }
func (v version) annotationFilter() bool    { return v >= 56 }
func (v version) imageFilterParam() bool    { return v < 41 }  // filter=NAME
func (v version) pruneNamedVolumes() bool   { return v < 42 }  // without being asked
func (v version) multiplexedContent() bool  { return v >= 42 } // says its own content type
func (v version) imageCreateEvents() bool   { return v >= 46 }
func (v version) oneShot() bool             { return v >= 41 }
func (v version) diskUsageTypes() bool      { return v >= 42 }
func (v version) securityOptionNames() bool { return v < 25 }

// notNil makes a list that is empty, and not null, in JSON.
func notNil[E any](list []E) []E {
	if list == nil {
		return []E{}
	}
	return list
}
