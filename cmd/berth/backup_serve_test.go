package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/admin"
)

// TestBackupsOneByOne has a backup wait for one that is about to end, and no longer.
func TestBackupsOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &backuper{busy: make(chan struct{}, 1)}
		makes := func(want string) {
			t.Helper()
			if err := b.MakeBackup(t.Context(), admin.BackupRequest{Target: "nowhere"}, nil); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		const turn = "want an absolute path" // it is its turn
		makes(turn)
		b.busy <- struct{}{}
		makes("the server is making another backup")
		time.AfterFunc(backupPatience/2, func() { <-b.busy })
		makes(turn)
		makes(turn)
	})
}
