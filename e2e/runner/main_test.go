// Package runner tests the berth-runner binary as a whole, with the stock docker
// command and the API's own client, against registries, kills, reboots and
// hostile clients. It promises nothing to anybody: it holds tests alone.
//
// Each test has a machine of its own (see berthtest.Machine), so that whatever
// the runner leaves behind on it can be counted.
package runner

import (
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestMain(m *testing.M) { berthtest.Main(m) }
