package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestDu runs the transcripts in testdata/du, with the commands of those in
// testdata/admin, and
//
//	push STATUS REPOSITORY N TEXT [TAG]   pushes a blob to $HOST, N times TEXT, and
//	                                      with a tag an image of it; the last answer
//	                                      must have the status. $ANSWER is its body
//	hup TEXT                              has the server read its configuration
//	                                      again, and waits until 'du --quota' has TEXT, but for spaces
func TestDu(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/du",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Values["server"] = &running{}
			return os.Mkdir(filepath.Join(env.WorkDir, "docker"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "serve": serveCmd, "shutdown": shutdownCmd, "dockerlogin": dockerLoginCmd, "push": pushCmd, "hup": hupCmd,
		},
	})
}

func pushCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 || len(args) > 5 {
		ts.Fatalf("usage: push STATUS REPOSITORY N TEXT [TAG]")
	}
	var n int
	for _, digit := range args[2] {
		n = n*10 + int(digit-'0')
	}
	blob := []byte(strings.Repeat(args[3], n))
	base := "http://" + ts.Getenv("HOST") + "/v2/" + args[1]
	status := pushRequest(ts, http.MethodPost, base+"/blobs/uploads/?digest="+string(digest.FromBytes(blob)), "application/octet-stream", blob)
	if len(args) == 5 && status == "201" {
		image := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"a/b","digest":"` +
			string(digest.FromBytes(blob)) + `","size":` + args[2] + `},"layers":[]}`
		status = pushRequest(ts, http.MethodPut, base+"/manifests/"+args[4], "application/vnd.oci.image.manifest.v1+json", []byte(image))
	}
	if status != args[0] {
		ts.Fatalf("status %s, want %s: %s", status, args[0], ts.Getenv("ANSWER"))
	}
}

// pushRequest sends something, and returns the status of the answer.
func pushRequest(ts *testscript.TestScript, method, url, mediaType string, data []byte) string {
	req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(data))
	ts.Check(err)
	req.Header.Set("Content-Type", mediaType)
	req.SetBasicAuth("root", "password-1")
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	ts.Check(err)
	ts.Setenv("ANSWER", body.String())
	return resp.Status[:3]
}

// hupCmd has the server read its configuration again, and waits until a quota shows
// that it has.
func hupCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hup TEXT")
	}
	ts.Check(ts.Value("server").(*running).process.Signal(syscall.SIGHUP))
	path, err := exec.LookPath("berth")
	ts.Check(err)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		cmd := exec.Command(path, "du", "--quota", "--data", "data")
		cmd.Dir = ts.MkAbs(".")
		if out, err := cmd.CombinedOutput(); err == nil && strings.Contains(strings.Join(strings.Fields(string(out)), " "), args[0]) {
			return
		}
	}
	ts.Fatalf("no quota shows %q", args[0])
}
