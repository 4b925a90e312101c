package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/deploy"
)

// terminal returns a terminal of a width, and what to call for all that was written to
// it once it is closed.
func terminal(t *testing.T, width uint16) (tty *os.File, written func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: width})
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		text, _ := io.ReadAll(master) // it ends with an error when the terminal is closed
		_ = master.Close()
		read <- string(text)
	}()
	return tty, func() string {
		_ = tty.Close()
		return <-read
	}
}

var sample = []deploy.Event{
	{Kind: deploy.EventStep, Service: "web", Message: "pull localhost:5000/web:2"},
	{Kind: deploy.EventDetail, Service: "web", Message: "10 of 20 MB"},
	{Kind: deploy.EventDetail, Service: "web", Message: "11 of 20 MB"},
	{Kind: deploy.EventWarning, Service: "web", Message: "something is odd"},
	{Kind: deploy.EventStep, Service: "web", Container: "shop-web-r2-1", Message: "wait for its health check, \x1b[31mwhich " + strings.Repeat("is long ", 20)},
	{Kind: deploy.EventStep, Message: "move the traffic"},
	{Kind: deploy.EventLog, Service: "web", Message: "a line of the log"},
	{Kind: deploy.EventFailure, Service: "web", Message: "the reason"},
}

// TestLiveDisplay has each service have a line on the terminal, that says what happens
// last, and that never is wider than the terminal.
func TestLiveDisplay(t *testing.T) {
	t.Parallel()
	const width = 60
	tty, written := terminal(t, width)
	if !isTerminal(tty) {
		t.Fatal("that is no terminal")
	}
	d := newLiveDisplay(tty, []string{"db", "web"})
	for _, e := range sample {
		d.event(e)
	}
	d.end(false)
	text := regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]").ReplaceAllString(written(), "")
	for _, want := range []string{"- db ", "✗ web ", "wait for its health", "move the traffic", "warning: web: something is odd"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if n := len([]rune(strings.Trim(line, "\r"))); n > width {
			t.Errorf("a line has %d columns of %d: %q", n, width, line)
		}
	}
	if strings.Contains(text, "\x1b") || strings.Contains(text, "a line of the log") {
		t.Errorf("it shows %q", text)
	}
}

// TestLineDisplay has each event have a line, without those that come too fast or are
// said at the end.
func TestLineDisplay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		d := newLineDisplay(&b)
		for _, e := range sample {
			e.Message, _, _ = strings.Cut(e.Message, "which")
			d.event(e)
			time.Sleep(100 * time.Millisecond)
		}
		d.end(false)
		want := `   0.0s  web: pull localhost:5000/web:2
   0.1s  web: 10 of 20 MB
   0.3s  warning: web: something is odd
   0.4s  shop-web-r2-1: wait for its health check, ?[31m
   0.5s  move the traffic
`
		if b.String() != want {
			t.Errorf("got\n%s, want\n%s", b.String(), want)
		}
	})
}

func TestReadyOf(t *testing.T) {
	t.Parallel()
	running := []deploy.ContainerStatus{{State: "running"}}
	for want, s := range map[string]deploy.ServiceStatus{
		"1/2":      {Ready: 1, Replicas: 2, Containers: running},
		"done":     {Job: true, Ready: 1, Replicas: 1},
		"running":  {Job: true, Replicas: 1, Containers: running},
		"not done": {Job: true, Replicas: 1, Containers: []deploy.ContainerStatus{{State: "exited", Exit: 1}}},
	} {
		if got := readyOf(s); got != want {
			t.Errorf("%+v is %q, want %q", s, got, want)
		}
	}
}

// TestHarmless has names and messages that would command a terminal, in all that is
// printed of a stack.
func TestHarmless(t *testing.T) {
	t.Parallel()
	const evil = "a\x1b[2J\x9b\u202e\r\nb\tc"
	var out strings.Builder
	status := deploy.Status{Name: evil, Revision: 1, Drift: []string{evil}, Services: []deploy.ServiceStatus{{
		Name: evil, Image: evil, Strategy: evil, Hosts: []string{evil},
		Containers: []deploy.ContainerStatus{{Name: evil, State: evil, Health: evil}},
	}}}
	if err := printStatus(&out, status, true); err != nil {
		t.Fatal(err)
	}
	if err := table(&out, [][]string{{"HEAD"}, historyRow(deploy.Revision{By: evil, From: evil, Outcome: evil, Reason: evil})}); err != nil {
		t.Fatal(err)
	}
	out.WriteString(eventText(deploy.Event{Service: evil, Container: evil, Message: evil}))
	out.WriteString(planText(deploy.Plan{Stack: evil, Steps: []deploy.Step{{Kind: evil, Service: evil, Note: evil}}}))
	if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) && r != '\t' }); i >= 0 {
		t.Errorf("there is %q in what is printed: %q", out.String()[i:i+1], out.String())
	}
}
