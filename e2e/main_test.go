// Package e2e tests the berth binary with real clients, under real faults, on
// a real kernel. It promises nothing to anybody: it holds tests alone.
package e2e

import (
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestMain(m *testing.M) { berthtest.Main(m) }
