package deploy

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/berth-registry/berth/runner"
)

const (
	logLines = 20       // of a container that failed
	logBytes = 64 << 10 // that they may have together
)

// lastLines returns the end of a container's log, as far as it is there.
func (u *unit) lastLines(ctx context.Context, id string) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	stream, err := u.m.engine.ContainerLogs(ctx, id, runner.LogOptions{Stdout: true, Stderr: true, Tail: logLines})
	if err != nil {
		return nil
	}
	var out tail
	_ = stream.Copy(ctx, runner.Streams{Stdout: &out, Stderr: &out}) // as much as there is
	text := strings.TrimRight(strings.ToValidUTF8(string(out.b), "�"), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - logBytes; over > 0 {
		t.b = append([]byte(nil), t.b[over:]...)
	}
	return len(p), nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	text = strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
	const most = 300
	return string(bytes.ToValidUTF8([]byte(text[:min(len(text), most)]), []byte("�")))
}
