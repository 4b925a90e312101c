package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/storage/mem"
)

// A backup reads and writes files of the server's machine: only who is on it has one
// made, whatever else they may do over the network.
func TestBackupAccess(t *testing.T) {
	want := []int{401, 401, 403, 403, 403, 403, 403, 403, 403, 403, 403, 403, 403, 404} // 404: this server makes none
	for i, who := range callers() {
		f := newFixture(t, mem.NewMeta())
		if w := serve(who.via(f), request(http.MethodPost, admin.Prefix+"backup", `{"target":"/tmp/x"}`)); w.Code != want[i] {
			t.Errorf("by %s: %d, want %d", who.name, w.Code, want[i])
		}
	}
}

// backups is what makes backups.
type backups func(context.Context, admin.BackupRequest, func(admin.BackupStep)) error

func (b backups) MakeBackup(ctx context.Context, r admin.BackupRequest, tell func(admin.BackupStep)) error {
	return b(ctx, r, tell)
}

// A client learns how far a backup is, and why it failed; the secret of a bucket is
// told nobody.
func TestBackup(t *testing.T) {
	const secret = "secret-of-a-bucket"
	f := newFixture(t, mem.NewMeta())
	want := admin.BackupRequest{Target: "s3://bucket", Keep: 3, Verify: true, Jobs: 2, S3: admin.S3{Endpoint: "http://x", Region: "r", Key: "k", Secret: secret, Session: "s"}}
	fail := error(nil)
	c := admin.NewHandlerClient(admin.Local(admin.New(admin.Options{
		Accounts: f.store, Audit: f,
		Backups: backups(func(_ context.Context, r admin.BackupRequest, tell func(admin.BackupStep)) error {
			if r != want {
				t.Errorf("asked for %+v", r)
			}
			tell(admin.BackupStep{Blobs: 1, TotalBlobs: 2})
			tell(admin.BackupStep{Problem: &admin.BackupProblem{Digest: "sha256:x", Reason: "missing"}})
			return fail
		}),
	})))
	var steps []admin.BackupStep
	each := func(step admin.BackupStep) error { steps = append(steps, step); return nil }
	if err := c.Backup(t.Context(), want, each); err != nil || len(steps) != 2 || steps[1].Problem.Reason != "missing" {
		t.Errorf("told %+v, %v", steps, err)
	}
	fail = errors.New("the bucket is on fire")
	if err := c.Backup(t.Context(), want, each); !errors.Is(err, admin.ErrBackup) || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("a backup that failed: %v", err)
	}
	if len(f.events) != 2 || f.events[0].Action != "backup" || f.events[0].Subject != "s3://bucket" || f.events[1].Outcome != audit.Failed {
		t.Errorf("recorded %+v", f.events)
	}
	told, err := json.Marshal(f.events)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(told), f.log.String(), fmt.Sprint(want), fmt.Sprintf("%+v %#v", want, want)} {
		if strings.Contains(text, secret) {
			t.Errorf("the secret is told: %s", text)
		}
	}
}
