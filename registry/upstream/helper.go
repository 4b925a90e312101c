package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	maxHelperOutput = 64 << 10
	// helperLife is how long what a helper said is used: it does not say when
	// that expires.
	helperLife = 15 * time.Minute
)

var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// newHelper returns the source that is a credential helper of Docker's
// (github.com/docker/docker-credential-helpers).
func (u *Upstream) newHelper() (source, error) {
	if !helperName.MatchString(u.o.CredentialHelper) {
		return nil, errors.New("upstream: the credential helper's name is not valid; want that of docker-credential-NAME, such as ecr-login")
	}
	program := "docker-credential-" + u.o.CredentialHelper
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("upstream: the credential helper %s is not installed: no such program on PATH", program)
	}
	key := u.base.Host
	if key == hubHost {
		key = hubKey
	}
	return newFetched(u.o.Now, func(ctx context.Context) (auth.Credential, time.Time, error) {
		cred, err := askHelper(ctx, path, key)
		if err != nil {
			return cred, time.Time{}, fmt.Errorf("credential helper %s: %w", program, err)
		}
		return cred, u.o.Now().Add(helperLife), nil
	}), nil
}

// askHelper runs a helper. Nothing that it writes is repeated: that it failed
// does not say that what it wrote is no secret.
func askHelper(ctx context.Context, path, key string) (auth.Credential, error) {
	var out output
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out.full = cancel
	cmd := exec.CommandContext(ctx, path, "get")
	cmd.Stdin = strings.NewReader(key)
	cmd.Stdout = &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children, too
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case out.over:
		return auth.EmptyCredential, errors.New("it writes more than any answer has")
	case ctx.Err() != nil:
		return auth.EmptyCredential, errors.New("it did not answer in time")
	case strings.TrimSpace(string(out.kept)) == "credentials not found in native keychain":
		return auth.EmptyCredential, errors.New("it has no credentials for " + key)
	case err != nil:
		return auth.EmptyCredential, fmt.Errorf("it failed: %w", err)
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out.kept, &answer) != nil || answer.Secret == "" {
		return auth.EmptyCredential, errors.New("what it answered is not valid")
	}
	if answer.Username == identityUser {
		return auth.Credential{RefreshToken: answer.Secret}, nil
	}
	return auth.Credential{Username: answer.Username, Password: answer.Secret}, nil
}

// output keeps the first bytes of a program's, and ends it when there are more.
type output struct {
	kept []byte // not a buffer's own ReadFrom, which knows no limit
	full func()
	over bool
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	if len(o.kept)+len(p) > maxHelperOutput {
		o.over = true
		o.full()
		return 0, errors.New("too long")
	}
	o.kept = append(o.kept, p...)
	return len(p), nil
}
